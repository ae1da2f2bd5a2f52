"""Explains an image: every file, its package, why it is there, its size and digest; and what takes the space.

The layers are read and hashed, and every member is compared with the file listing that came with the image. Refused:
a member that the listing does not explain, a line without a member, and any difference between the two.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.image import erofs, listing, measure, oci
from appliance.image.erofs import Outline
from appliance.image.layer import CHUNK_BYTES, Member
from appliance.image.listing import Line
from appliance.image.oci import Layout
from appliance.image.spec import FILES_TYPE
from attest.canonical import JSON
from attest.errors import MalformedInput, VerificationError
from attest.reference import ReferenceValues


@dataclass(frozen=True)
class Space:
    """How much something takes."""

    name: str
    """A layer's or a package's name."""
    files: int
    """Number of files."""
    size_bytes: int
    """Size of all of them."""


@dataclass(frozen=True)
class Explained:
    """Files that were each compared with their explanation."""

    lines: Sequence[Line]
    """Every entry, layer by layer."""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(line.size_bytes for line in self.lines)

    def by_layer(self) -> list[Space]:
        """The layers, lowest first."""
        return _spaces(self.lines, "layer")

    def by_package(self) -> list[Space]:
        """The packages, largest first."""
        return sorted(_spaces(self.lines, "package"), key=lambda item: (-item.size_bytes, item.name))

    def largest(self) -> list[Line]:
        """The files, largest first."""
        return sorted(
            (line for line in self.lines if line.kind == "file"), key=lambda line: (-line.size_bytes, line.path)
        )


@dataclass(frozen=True)
class Inspection(Explained):
    """An OCI image whose every file was compared with its explanation."""

    layout: Layout
    """The image."""

    def as_json(self) -> JSON:
        """All of it as JSON."""
        config = self.layout.config
        return {
            "digest": self.layout.digest,
            "architecture": config.architecture,
            "created": config.created,
            "user": config.config.user,
            "entrypoint": list(config.config.entrypoint),
            "environment": list(config.config.env),
            "size_bytes": self.size_bytes,
            "layers": [
                {"name": space.name, "diff_id": diff_id, "files": space.files, "size_bytes": space.size_bytes}
                for space, diff_id in zip(self.by_layer(), config.rootfs.diff_ids, strict=True)
            ],
            "packages": [vars(space) for space in self.by_package()],
            "files": [line.model_dump(mode="json", exclude_none=True) for line in self.lines],
        }


def inspect(folder: Path) -> Inspection:
    """The explanation of the image in `folder`. Raises `MalformedInput`, `VerificationError`."""
    layout = oci.read(folder)
    if FILES_TYPE not in layout.artifacts:
        raise MalformedInput(
            "image", f"expected a file listing ({FILES_TYPE}) with it, found none: built by another tool?"
        )
    lines = listing.read(layout.blob(layout.artifacts[FILES_TYPE]))
    explained: dict[tuple[str, str], Line] = {}
    for line in lines:
        if (line.layer, line.path) in explained:
            raise MalformedInput("file listing", f"expected {line.path} once in layer {line.layer}, found it twice")
        explained[line.layer, line.path] = line
    for layer, members in layout.layers():
        for member in members:
            _compare(member, explained.pop((layer, member.path), None), layer)
    if explained:
        found = sorted(path for _, path in explained)[:5]
        raise _differs("files that are in the layers", f"{len(explained)} that are not, such as {found}")
    return Inspection(lines, layout)


@dataclass(frozen=True)
class MachineInspection(Explained):
    """A measured VM's image: its reference values, computed again, and its root disk, compared with its listing."""

    values: ReferenceValues
    """What it measures to."""

    def as_json(self) -> JSON:
        """All of it as JSON."""
        return {
            "reference": self.values.model_dump(mode="json", by_alias=True, exclude_none=True),
            "size_bytes": self.size_bytes,
            "packages": [vars(space) for space in self.by_package()],
            "files": [line.model_dump(mode="json", exclude_none=True) for line in self.lines],
        }


def is_machine(folder: Path) -> bool:
    """Whether the image in `folder` is a measured VM's."""
    return (folder / measure.BOOT_FILE).exists()


def inspect_machine(folder: Path) -> MachineInspection:
    """The explanation of the measured VM's image in `folder`.

    Raises `VerificationError` where root disk, boot file and file listing are not of each other, `MalformedInput`.
    """
    values = measure.measure(folder, measure.load(folder / measure.REFERENCE).image)
    try:
        data = (folder / measure.FILES).read_bytes()
    except OSError as error:
        raise MalformedInput("image", f"expected a file listing {measure.FILES} in it: {error.strerror}") from None
    lines = listing.read(data)
    erofs.check(folder / measure.ROOT, [_outline(line) for line in lines])
    return MachineInspection(lines, values)


def _outline(line: Line) -> Outline:
    return Outline(line.path, line.kind, int(line.mode, 8), line.size_bytes, line.target, line.sha256)


def _compare(member: Member, line: Line | None, layer: str) -> None:
    if line is None:
        raise _differs("an explanation of every file", f"none for {member.path} in layer {layer}")
    said = (line.kind, line.mode, line.size_bytes, line.sha256, line.target)
    found = (member.kind, f"{member.mode:04o}", member.size_bytes, _sha256(member), member.target)
    if said != found:
        raise _differs(f"{member.path} as {said}", found)


def _sha256(member: Member) -> str | None:
    if member.content is None:
        return None
    state = hashlib.sha256()
    while chunk := member.content.read(CHUNK_BYTES):
        state.update(chunk)
    return state.hexdigest()


def _spaces(lines: Sequence[Line], field: str) -> list[Space]:
    files: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    for line in lines:
        name = str(getattr(line, field))
        files[name] += line.kind == "file"
        sizes[name] += line.size_bytes
    return [Space(name, files[name], sizes[name]) for name in sizes]


def _differs(expected: object, found: object) -> VerificationError:
    advice = "image and file listing are not of one build: build it again"
    return VerificationError("image", "listing", expected=expected, found=found, advice=advice)
