"""Predicts the registers of the TPM that a boot of an image leaves, from its files alone.

Who measures what, in the order of the boot:

- register 7, firmware: the Secure Boot variables and the key that a signature was checked with
- register 4, firmware: that a boot option is started, a separator, then the Authenticode digest of each executable
  that it loads: the boot file, and, without Secure Boot, the kernel that the stub in it hands back to the firmware
- register 11, the stub: name and content of each of its sections
- register 9, the kernel's boot code: the command line and the initramfs that it was given
- registers 12 and 13, the stub: what the host adds to command line and initramfs. Nothing is added, so they stay zero
- register 15, `init`: the descriptor of the disk with a run's inputs; then the guest: what it runs
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from uuid import UUID

from appliance.image import pe, uki
from appliance.image.secure_boot import Keys
from attest.canonical import validate
from attest.digest import digest_of
from attest.reference import APPLICATION, Measurement

BOOT = 4
SECURE_BOOT = 7
KERNEL = 9
STUB = 11
EMPTY = (12, 13, 14)
"""The registers that nothing extends before a run."""
SEPARATOR = bytes(4)
STARTING = b"Calling EFI Application from Boot Option"
GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
"""Vendor of the variables SecureBoot, PK and KEK."""
SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
"""Vendor of the variables db and dbx."""


def boot(image: bytes, keys: Keys) -> tuple[Measurement, ...]:
    """The measurements of booting the unified kernel image `image` on a host with the Secure Boot `keys`.

    With Secure Boot on, the stub itself answers for the kernel that the signature covers, and the firmware measures no
    second executable. Raises `MalformedInput` for something else than an image of ours, `VerificationError` for one
    that firmware with these keys does not start.
    """
    parts = uki.parts(image)
    kernel = _digest(BOOT, "firmware: the kernel in it, Authenticode", pe.authenticode(parts.kernel))
    return (
        *secure_boot(keys, keys.authority(image) if keys.enabled else b""),
        _event(BOOT, "firmware: a boot option is started", STARTING),
        _event(BOOT, "firmware: separator", SEPARATOR),
        _digest(BOOT, "firmware: the boot file, Authenticode", pe.authenticode(image)),
        *([] if keys.enabled else [kernel]),
        *sections(image),
        _event(KERNEL, "kernel: the command line, as the stub passes it", load_options(parts.command_line)),
        _event(KERNEL, "kernel: the initramfs", parts.initrd),
    )


def load_options(command_line: str) -> bytes:
    """The command line as one executable of UEFI hands it to another: UTF-16, ended by a zero."""
    return command_line.encode("utf-16-le") + b"\0\0"


def sections(image: bytes) -> tuple[Measurement, ...]:
    """The stub's measurements of the sections of `image`, all in register 11. Raises `MalformedInput`."""
    executable = pe.parse(image)
    events = []
    for name in uki.MEASURED:
        if executable.has(name):
            events.append(_event(STUB, f"stub: the name {name}", name.encode() + b"\0"))
            events.append(_event(STUB, f"stub: the section {name}", executable.section(name)))
    return tuple(events)


def secure_boot(keys: Keys, authority: bytes) -> tuple[Measurement, ...]:
    """The firmware's measurements of the Secure Boot variables, in register 7.

    `authority`: the entry of db (owner and certificate) that the boot file's signature was checked with; nothing where
    none was checked.
    """
    variables = [
        ("SecureBoot", GLOBAL, bytes([keys.enabled])),
        ("PK", GLOBAL, keys.platform),
        ("KEK", GLOBAL, keys.exchange),
        ("db", SECURITY_DATABASE, keys.allowed),
        ("dbx", SECURITY_DATABASE, keys.forbidden),
    ]
    events = [_event(SECURE_BOOT, f"firmware: {name}", _variable(name, owner, v)) for name, owner, v in variables]
    events.append(_event(SECURE_BOOT, "firmware: separator", SEPARATOR))
    if authority:
        checked = _variable("db", SECURITY_DATABASE, authority)
        events.append(_event(SECURE_BOOT, "firmware: the key that the boot file is signed with", checked))
    return tuple(events)


def inputs(descriptor: bytes) -> Measurement:
    """The measurement of a disk of inputs by its last block `descriptor`, in register 15."""
    return _event(APPLICATION, "init: the descriptor of the disk of inputs", descriptor)


def _variable(name: str, owner: UUID, value: bytes) -> bytes:
    """What the firmware hashes of a variable (UEFI_VARIABLE_DATA)."""
    text = name.encode("utf-16-le")
    return owner.bytes_le + struct.pack("<QQ", len(name), len(value)) + text + value


def _event(register: int, what: str, content: bytes) -> Measurement:
    return validate(Measurement, {"register": register, "what": what, "digest": digest_of(content)}, "measurement")


def _digest(register: int, what: str, digest: bytes) -> Measurement:
    fields = {"register": register, "what": what, "digest": f"sha256:{digest.hex()}"}
    return validate(Measurement, fields, "measurement")


def registers(events: Sequence[Measurement], values: dict[int, bytes]) -> dict[str, str]:
    """Register values as reference values have them: those of `values`, and zeros where nothing may be extended."""
    touched = {event.register_ for event in events}
    empty = {register: bytes(32) for register in EMPTY if register not in touched}
    return {str(register): value.hex() for register, value in sorted((empty | values).items())}
