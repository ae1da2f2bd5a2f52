"""Where packages come from: a cache folder, and behind it apt and pip. What is handed out was compared with the lock.

A file in the cache counts for nothing but its bytes: they are hashed each time. So a cache can be copied to a machine
without a network, and an image be built there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from appliance.image import debs, wheels
from appliance.image.lock import Locked, LockedArchitecture, locked
from appliance.image.recipe import Architecture, ImageRecipe, Package
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

Progress = Callable[[str], None]
"""Called with what happens now."""


class Store:
    """Packages for the images of one recipe. Use it in a `with` statement: apt works in a temporary folder.

    `releases`: of the package archive, beside those that this host takes packages from.
    """

    def __init__(self, recipe: ImageRecipe, cache: Path, progress: Progress, releases: Sequence[str] = ()) -> None:
        self._recipe, self._cache, self._progress, self._releases = recipe, cache, progress, releases
        self._work = tempfile.TemporaryDirectory(prefix="vitrine-apt-")
        self._apts: dict[Architecture, debs.Apt] = {}

    def resolve(self, requirements: str, architecture: Architecture) -> LockedArchitecture:
        """Ask apt and the requirements which exact files the recipe's packages are. Wheels are fetched for that.

        Raises `EnvironmentProblem` where apt or pip cannot answer, `MalformedInput` where a pin is missing.
        """
        names = [package.name for package in self._recipe.debian]
        found = [
            locked(
                "deb",
                item.name,
                item.version,
                architecture=item.architecture,
                filename=f"{item.name}_{item.version.replace(':', '%3a')}_{item.architecture}.deb",
                digest=f"sha256:{item.sha256}",
                size_bytes=item.size_bytes,
            )
            for item in (self._apt(architecture).show(names) if names else [])
        ]
        pins = wheels.requirements(requirements, self._recipe.python.version)
        for package in self._recipe.python.packages:
            pin = pins.get(package.name)
            if pin is None or not pin.digests:
                expected = f"a pin with hashes for {package.name} in {self._recipe.python.requirements}"
                raise MalformedInput("image recipe", f"expected {expected}, found none")
            found.append(self._choose(package, pin, architecture))
        return LockedArchitecture(files=tuple(sorted(found, key=lambda item: (item.kind, item.name))))

    def fetch(self, item: Locked, architecture: Architecture) -> bytes:
        """The bytes of one locked file. Raises `VerificationError` for others, `EnvironmentProblem` without any."""
        path = self._cache / item.filename
        if not path.is_file():
            self._progress(f"downloading {item.filename}")
            with self._incoming() as folder:
                arrived = self._download(item, architecture, Path(folder), path)
                _compare(arrived.read_bytes(), item, "what was downloaded")
                shutil.move(arrived, path)
        data = path.read_bytes()
        _compare(data, item, str(path))
        return data

    def close(self) -> None:
        """Remove the temporary folder."""
        self._work.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _apt(self, architecture: Architecture) -> debs.Apt:
        if architecture not in self._apts:
            self._progress(f"asking apt for its packages, {architecture}")
            apt = debs.Apt(Path(self._work.name) / architecture, architecture, self._releases)
            apt.update()
            self._apts[architecture] = apt
        return self._apts[architecture]

    def _incoming(self) -> tempfile.TemporaryDirectory[str]:
        """A folder on the cache's file system, so that a file appears in the cache whole."""
        self._cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".incoming-", dir=self._cache)

    def _download(self, item: Locked, architecture: Architecture, into: Path, path: Path) -> Path:
        try:
            if item.kind == "deb":
                return self._apt(architecture).download(item.name, item.version, into)
            return wheels.download(
                item.name,
                item.version,
                [item.digest],
                python=self._recipe.python.version,
                platforms=self._recipe.machine(architecture).platforms,
                source=item.kind == "sdist",
                into=into,
            )
        except EnvironmentProblem as error:
            raise EnvironmentProblem(
                f"cannot fetch {item.name} {item.version}: put the file with {item.digest} at {path}; or, where the "
                f"archive has moved on, make the lock again with `appliance image lock` and review it. {error}"
            ) from None

    def _choose(self, package: Package, pin: wheels.Requirement, architecture: Architecture) -> Locked:
        """Which of the files that a pin allows is for an architecture: pip's choice, which stays in the cache."""
        self._progress(f"asking pip for {pin.name} {pin.version}, {architecture}")
        with self._incoming() as folder:
            path = wheels.download(
                pin.name,
                pin.version,
                sorted(pin.digests),
                python=self._recipe.python.version,
                platforms=self._recipe.machine(architecture).platforms,
                source=package.source,
                into=Path(folder),
            )
            data = path.read_bytes()
            kind: Literal["wheel", "sdist"] = "sdist" if package.source else "wheel"
            digest = digest_of(data)
            if digest not in pin.digests:
                expected = f"one of the {len(pin.digests)} pinned digests of {pin.name} {pin.version}"
                raise VerificationError("image", "package", expected=expected, found=f"{path.name} {digest}")
            path.replace(self._cache / path.name)
        return locked(kind, pin.name, pin.version, filename=path.name, digest=digest, size_bytes=len(data))


def _compare(data: bytes, item: Locked, where: str) -> None:
    found = digest_of(data)
    if len(data) != item.size_bytes or found != item.digest:
        raise VerificationError(
            "image",
            "package",
            expected=f"{item.filename} with {item.digest}, {item.size_bytes} bytes",
            found=f"{found}, {len(data)} bytes, in {where}",
            advice=f"delete {where} to have it fetched again; if it stays so, somebody changed the package",
        )
