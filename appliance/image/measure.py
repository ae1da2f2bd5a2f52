"""Measures the image of a virtual machine without booting it: reference values for its TPM, from its files alone.

Nothing that the builder wrote is believed. The root disk's hash tree is computed again and compared with the
descriptor on the command line in the boot file; then the registers follow from the boot file.
"""

from __future__ import annotations

from pathlib import Path

from appliance.image import pcr, pe, secure_boot, uki, verity
from appliance.image.machine import ROOT_ARGUMENT
from appliance.image.secure_boot import NO_KEYS, Keys
from attest.canonical import dump_model, validate
from attest.digest import digest_file, digest_of
from attest.errors import EnvironmentProblem, MalformedInput
from attest.reference import ReferenceValues, read, replay

ROOT = "root.img"
BOOT_FILE = "vitrine.efi"
BOOT_DISK = "boot.img"
REFERENCE = "reference.json"
FILES = "files.jsonl"
SBOM = "sbom.json"
VERSION = "VERSION_ID="
MAX_VERSION_DIGITS = 10


def measure(image: Path, name: str, keys: Keys | None = None) -> ReferenceValues:
    """The reference values of the image called `name` in the folder `image`, on a host with these Secure Boot `keys`.

    None: the keys beside the image, which a signed one comes with. Raises `VerificationError` where the root disk is
    not the one that the boot file names, or nobody whom the keys trust signed the boot file; `MalformedInput`;
    `EnvironmentProblem` where a file cannot be read.
    """
    if keys is None:
        keys = secure_boot.read(image) if secure_boot.present(image) else NO_KEYS
    try:
        boot_file = (image / BOOT_FILE).read_bytes()
        files = [
            {"name": file, "digest": digest_file(image / file), "size_bytes": (image / file).stat().st_size}
            for file in (BOOT_FILE, ROOT)
        ]
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the image: {error}; build it with `appliance image build`") from None
    if not keys.enabled and pe.parse(boot_file).certificates[1]:
        raise MalformedInput("image", "expected PK.esl, KEK.esl and db.esl beside a signed boot file, found none")
    parts = uki.parts(boot_file)
    verity.check(image / ROOT, root_descriptor(parts.command_line))
    events = pcr.boot(boot_file, keys)
    fields = {
        "image": name,
        "version": version(parts.release),
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


def version(release: str) -> int:
    """The version in the release text of a boot file, which the stub measures. Raises `MalformedInput`."""
    found = [line.removeprefix(VERSION) for line in release.splitlines() if line.startswith(VERSION)]
    if len(found) != 1 or not found[0].isascii() or not found[0].isdecimal() or len(found[0]) > MAX_VERSION_DIGITS:
        raise MalformedInput("release text", f"expected one line {VERSION}NUMBER, found {found}")
    return int(found[0])


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
