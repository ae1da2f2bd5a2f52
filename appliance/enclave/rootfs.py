"""An image as a folder that a runtime can use: unpacked once for each digest, all of it verified on the way.

The folder lies in the user's cache under the digest of the image's manifest. Before it is used again its listing is
compared with the one that was taken when it was unpacked: names, modes and content. Who can write the cache of the
user who runs the appliance can also replace the appliance; the comparison finds accidents, not this attacker.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance import resources
from attest.digest import digest_file, digest_of
from attest.errors import EnvironmentProblem, VerificationError

DEFAULT = Path("build/image/cpu")
"""Where a checkout has its image."""


@dataclass(frozen=True)
class Image:
    """An image that can be started."""

    root: Path
    """The folder that it is unpacked in: absolute."""
    digest: str
    """The digest of its manifest."""
    command: tuple[str, ...]
    """Its entry point."""
    environment: tuple[str, ...]
    """`NAME=VALUE` texts."""


def cache() -> Path:
    """The folder of unpacked images."""
    return resources.cache("image")


def open_image(layout: Path, cache_folder: Path | None = None) -> Image:
    """The image in the OCI layout folder `layout`, unpacked. Raises `EnvironmentProblem` where there is none,
    `MalformedInput` and `VerificationError` for a layout that is not sound or a cache that differs from it."""
    from appliance.image import oci

    if not (layout / "index.json").is_file():
        raise EnvironmentProblem(
            f"expected an image in {layout}, found none: build it with `appliance image build images/cpu.toml --out "
            f"{DEFAULT}`, or name its folder with --image"
        )
    found = oci.read(layout)
    place = (cache_folder or cache()) / found.digest.removeprefix("sha256:")
    root, record = place / "root", place / "listing.sha256"
    if not record.exists():
        _unpack(layout, place)
    recorded, listed = record.read_text("ascii").strip() if record.exists() else "a listing", listing_digest(root)
    if listed != recorded:
        raise VerificationError(
            "image", "cache", expected=f"{root} with {recorded}", found=listed, advice=f"Remove {place}, and try again"
        )
    run = found.config.config
    return Image(root.resolve(), found.digest, run.entrypoint, run.env)


def _unpack(layout: Path, place: Path) -> None:
    """Unpack the image of `layout` beside `place`, and move it there whole: several may do so at the same time."""
    from appliance.image import oci

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        oci.unpack(layout, made / "root")
        (made / "listing.sha256").write_text(listing_digest(made / "root") + "\n", "ascii")
        try:
            made.rename(place)
        except OSError:
            if not place.is_dir():  # else another run was quicker, and this one compares what it left
                raise


def listing_digest(root: Path) -> str:
    """The digest of what is below `root`: kind, mode, path, and the digest of each file or the target of each link."""
    return digest_of("".join(f"{line}\n" for line in sorted(_lines(root))).encode("utf-8", "surrogateescape"))


def _lines(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder) / name
            status = path.lstat()
            at = path.relative_to(root).as_posix()
            if stat.S_ISLNK(status.st_mode):
                yield f"{at} link {os.readlink(path)}"  # noqa: PTH115 - the text, whatever it is
            elif stat.S_ISDIR(status.st_mode):
                yield f"{at} dir {stat.S_IMODE(status.st_mode):o}"
            elif stat.S_ISREG(status.st_mode):
                yield f"{at} file {stat.S_IMODE(status.st_mode):o} {digest_file(path)}"
            else:
                yield f"{at} other {status.st_mode:o}"
