"""Measures the image of a virtual machine without booting it: reference values for its TPM, from its files alone.

Nothing that the builder wrote is believed. The root disk's hash tree is computed again and compared with the
descriptor on the command line in the boot file; then the registers follow from the boot file.
"""

from __future__ import annotations

from pathlib import Path

from appliance.image import pcr, uki, verity
from appliance.image.machine import ROOT_ARGUMENT
from attest.canonical import dump_model, validate
from attest.digest import digest_file, digest_of
from attest.errors import EnvironmentProblem, MalformedInput
from attest.reference import ReferenceValues, read, replay

ROOT = "root.img"
BOOT_FILE = "vitrine.efi"
BOOT_DISK = "boot.img"
REFERENCE = "reference.json"
MAX_BOOT_FILE_BYTES = 512 << 20
NO_KEYS = pcr.Keys()
"""Secure Boot off, no keys enrolled."""


def measure(image: Path, name: str, keys: pcr.Keys = NO_KEYS) -> ReferenceValues:
    """The reference values of the image called `name` in the folder `image`, on a host with these Secure Boot `keys`.

    Raises `VerificationError` where the root disk is not the one that the boot file names, `MalformedInput`,
    `EnvironmentProblem` where a file cannot be read.
    """
    try:
        boot_file = (image / BOOT_FILE).read_bytes()
        files = [
            {"name": file, "digest": digest_file(image / file), "size_bytes": (image / file).stat().st_size}
            for file in (BOOT_FILE, ROOT)
        ]
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the image: {error}; build it with `appliance image build`") from None
    parts = uki.parts(boot_file)
    verity.check(image / ROOT, root_descriptor(parts.command_line))
    events = pcr.boot(boot_file, keys)
    fields = {
        "image": name,
        "architecture": "amd64",
        "files": files,
        "command_line": parts.command_line,
        "parts": {
            ".linux": digest_of(parts.kernel),
            ".initrd": digest_of(parts.initrd),
            ".cmdline": digest_of(parts.command_line.encode()),
            ".osrel": digest_of(parts.release.encode()),
        },
        "secure_boot": keys.enabled,
        "events": [event.model_dump(mode="json", by_alias=True) for event in events],
        "registers": pcr.registers(events, replay(events)),
    }
    return validate(ReferenceValues, fields, "reference values")


def root_descriptor(command_line: str) -> verity.Descriptor:
    """The root disk's descriptor on a command line. Raises `MalformedInput` unless there is exactly one."""
    found = [word.removeprefix(ROOT_ARGUMENT) for word in command_line.split() if word.startswith(ROOT_ARGUMENT)]
    if len(found) != 1:
        raise MalformedInput("command line", f"expected one {ROOT_ARGUMENT}, found {len(found)}")
    return verity.parse_descriptor(found[0].encode("ascii"))


def dump(values: ReferenceValues) -> bytes:
    """The file of reference values: canonical JSON and a line feed."""
    return dump_model(values) + b"\n"


def load(path: Path) -> ReferenceValues:
    """The reference values in the file at `path`. Raises `MalformedInput`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MalformedInput("reference values", f"expected a file {path}: {error.strerror}") from None
    return read(data)
