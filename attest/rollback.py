"""Versions that a TPM keeps, so that what is older than what ran on its machine is refused: of locks, and of images.

Each has an index of the TPM's memory, which outlives every folder of the lab. At the start of a run the appliance
refuses a version below the one that is kept, keeps a newer one, and has the TPM certify what it keeps then: that is the
run's own version, or the run was not refused as it should have been.

An index and no counter of the TPM: those begin wherever any counter of that TPM ever stood, and go up by one, while the
version of an image is a time. So whoever owns the TPM can write a lower number, or remove it. What was kept is in the
evidence of every start, beside the counter that orders these; compare bundles of one TPM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from attest.errors import MalformedInput, VerificationError

if TYPE_CHECKING:
    from attest.manifest import ExecutionManifest
    from attest.reference import ReferenceValues

INDEXES: Final = range(0x01800A20, 0x01800A40)
"""Where versions are kept: of the owner's range, beside the counter of runs (`attest.counter`)."""
VERSION_BYTES: Final = 8
MAX_BYTES: Final = 128
"""Of an index: the version, big endian, then kind, colon and name in ASCII."""
LAYER: Final = "rollback"
ENCODED: Final = re.compile(rb"(image|lock):([a-z0-9_.-]{1,64})")
IMAGE_ARGUMENT: Final = "vitrine.image="
"""On the command line of a machine's kernel, which is measured: name and version of its image."""
IMAGE: Final = re.compile(r"([a-z0-9-]{1,64})/([0-9]{1,10})")

Kind = Literal["image", "lock"]


@dataclass(frozen=True)
class Thing:
    """What has versions."""

    kind: Kind
    """The image of a machine, or the lock of a job."""
    name: str
    """The image's name by its recipe, or the job's."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def encoded(self) -> bytes:
        """As it stands behind the version."""
        return f"{self.kind}:{self.name}".encode("ascii")


@dataclass(frozen=True)
class Kept:
    """A version of something: what ran, or the newest that a TPM keeps."""

    thing: Thing
    """Of what it is."""
    version: int
    """The version."""

    @property
    def encoded(self) -> bytes:
        """The contents of its index."""
        return self.version.to_bytes(VERSION_BYTES, "big") + self.thing.encoded


def read(contents: bytes) -> Kept:
    """What an index with these contents keeps. Raises `MalformedInput`."""
    found = ENCODED.fullmatch(contents[VERSION_BYTES:])
    if found is None:
        raise MalformedInput("kept version", f"expected a version, a kind and a name, found {contents[:MAX_BYTES]!r}")
    kind: Kind = "image" if found[1] == b"image" else "lock"
    return Kept(Thing(kind, found[2].decode("ascii")), int.from_bytes(contents[:VERSION_BYTES], "big"))


def image(command_line: str) -> Kept:
    """The image of the machine whose kernel was told this `command_line`. Raises `MalformedInput`."""
    words = [word.removeprefix(IMAGE_ARGUMENT) for word in command_line.split() if word.startswith(IMAGE_ARGUMENT)]
    found = IMAGE.fullmatch(words[0]) if len(words) == 1 else None
    if found is None:
        raise MalformedInput("command line", f"expected one {IMAGE_ARGUMENT}NAME/VERSION, found {words}")
    return Kept(Thing("image", found[1]), int(found[2]))


def admit(asked: Kept, kept: int | None) -> None:
    """Raises `VerificationError` (`rollback/version`) where what is `asked` for is older than the version `kept`."""
    if kept is not None and asked.version < kept:
        raise VerificationError(
            LAYER, "version", expected=f"{asked.thing} of version {kept} or later, as this machine's TPM keeps it",
            found=f"version {asked.version}",
            advice="use the newer one: what was repaired since is not in this one; an old one that is needed after all "
            "is locked again, with a new version",
        )  # fmt: skip


def check(kept: Iterable[Kept], manifest: ExecutionManifest, machine: ReferenceValues | None) -> None:
    """What a TPM certified at the start of the run of `manifest`, in `machine` where its image is known, are the run's
    own versions. Raises `VerificationError` (`rollback/lock`, `/image`)."""
    for one in kept:
        match one.thing.kind:
            case "lock":
                _equal("lock", (manifest.job.name, manifest.lock.version), (one.thing.name, one.version))
            case "image" if machine is not None:
                _equal("image", (machine.image, machine.version), (one.thing.name, one.version))


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found)
