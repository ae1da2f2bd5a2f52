"""What an event log says about the boot, typed: Secure Boot, started programs, and what boot loaders measured.

Read are the events of registers that the log explains, and no others. Of an event, only its digest was measured: its
type and its data are what the log says now, and whoever hands out the log can change them. So data counts where it is
what was measured; the firmware's part of register 7 ends at the first digest of a separator, whatever the event is
called; and whatever is in register 4 and no known word of the firmware counts as a program. Nothing here raises: an
event that cannot be read leaves the claim unmade.

Source: TCG PC Client Platform Firmware Profile, revision 1.06, 3.3.4 (use of registers), 10.4 (event types).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from typing import Final
from uuid import UUID

from pydantic import Field

from attest.canonical import Model
from attest.digest import Hex32
from attest.errors import MalformedInput, Unsupported
from attest.tpm import signaturelist
from attest.tpm.eventlog import NO_ACTION, Event, Log
from attest.tpm.layout import Hash
from attest.tpm.reader import Reader

EVENT_TAG, IPL = 0x6, 0xD
GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
NO_ERROR: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff")
"""What is measured by a separator that ends the firmware's part without an error."""
ERROR: Final = b"\1\0\0\0"
"""What is measured by one that ends it with an error."""
WORDS: Final = (
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
    b"BOOT ATTEMPTS OMITTED",
)
"""What firmware measures into register 4 besides programs."""
POLICY_REGISTER: Final = 7
PROGRAM_REGISTER: Final = 4
DEBUG: Final = b"UEFI Debug Mode"
MAX_HINT_CHARS: Final = 200
LISTS: Final = {("PK", GLOBAL_VARIABLE), ("KEK", GLOBAL_VARIABLE), ("db", IMAGE_SECURITY), ("dbx", IMAGE_SECURITY)}


class Program(Model):
    """A program that was started (EV_EFI_BOOT_SERVICES_APPLICATION), or else something in its register."""

    digest: str
    """Its Authenticode digest, in the bank's hash, hexadecimal digits."""
    path: str
    """Where it lay, as the firmware says: a hint."""


class Load(Model):
    """What a boot loader, systemd-stub or the kernel's stub measured (EV_IPL, EV_EVENT_TAG)."""

    register_: int = Field(alias="register")
    """The register that it extended; `register` on the wire."""
    digest: str
    """The digest, in the bank's hash, hexadecimal digits."""
    text: str
    """What the loader says of it."""
    measured: bool
    """Whether the text is what was measured; else it is a hint."""


class Boot(Model):
    """What the log says."""

    secure_boot: bool | None
    """Whether the firmware checked signatures; None where the log does not say so, or twice."""
    debug: bool
    """Whether the firmware says that it was started with its debugger on."""
    lists: dict[str, tuple[Hex32, ...]]
    """The digests of the entries of `PK`, `KEK`, `db`, `dbx`; only lists that could be read."""
    programs: tuple[Program, ...]
    """Programs that were started, in order."""
    loads: tuple[Load, ...]
    """What boot loaders measured, in order."""


def read(log: Log, bank: Hash, explained: Collection[int]) -> Boot:
    """What the events of the `explained` registers say, by their digests in `bank`."""
    events = [event for event in log.events if event.kind != NO_ACTION and event.register in explained]
    settings = _before_separator([event for event in events if event.register == POLICY_REGISTER], bank)
    variables = _variables(settings, bank)
    states = [data for name, vendor, data in variables if (name, vendor) == ("SecureBoot", GLOBAL_VARIABLE)]
    secure_boot = {b"\0": False, b"\1": True}.get(states[0]) if len(states) == 1 else None
    lists = {}
    for name, vendor, data in variables:
        if (name, vendor) in LISTS:
            with suppress(MalformedInput, Unsupported):
                lists[name] = tuple(entry.digest.hex() for entry in signaturelist.parse(data))
    known = _digests(bank, *NO_ERROR, ERROR, *WORDS)
    return Boot(
        secure_boot=secure_boot,
        debug=any(event.digests[bank] in _digests(bank, DEBUG, DEBUG + b"\0") for event in settings),
        lists=lists,
        programs=tuple(
            Program(digest=event.digests[bank].hex(), path=_path(event.data))
            for event in events
            if event.register == PROGRAM_REGISTER and event.digests[bank] not in known
        ),
        loads=tuple(_load(event, bank) for event in events if event.kind in (IPL, EVENT_TAG)),
    )


def _before_separator(events: list[Event], bank: Hash) -> list[Event]:
    """What the firmware measured before it handed over; nothing where the separator is missing, or says an error."""
    for at, event in enumerate(events):
        if event.digests[bank] in _digests(bank, *NO_ERROR):
            return events[:at]
        if event.digests[bank] in _digests(bank, ERROR):
            return []
    return []


def _variables(events: list[Event], bank: Hash) -> list[tuple[str, UUID, bytes]]:
    """Name, vendor and contents of the variables that were measured (UEFI_VARIABLE_DATA, 10.2.6)."""
    found = []
    for event in events:
        if _digest(bank, event.data) == event.digests[bank]:
            with suppress(MalformedInput, UnicodeDecodeError):
                reader = Reader(event.data, "UEFI variable", "<")
                vendor = UUID(bytes_le=reader.take(16))
                chars, size = reader.numbers("QQ")
                name = reader.take(chars * 2).decode("utf-16-le")
                data = reader.take(size)
                reader.end()
                found.append((name, vendor, data))
    return found


def _path(data: bytes) -> str:
    """The file in the device path of a UEFI_IMAGE_LOAD_EVENT (10.2.3); empty without one."""
    reader = Reader(data, "image load event", "<")
    parts = []
    with suppress(MalformedInput):
        reader.take(24)  # where in memory, how long, and for which address it was linked
        path = Reader(reader.take(reader.number("Q")), "device path", "<")
        while path.left:
            kind, subtype, size = path.numbers("BBH")
            node = path.take(max(size, 4) - 4)
            if (kind, subtype) == (4, 4):
                parts.append(_text(node, "utf-16-le"))
    return "".join(parts)[:MAX_HINT_CHARS]


def _load(event: Event, bank: Hash) -> Load:
    digest, data = event.digests[bank], event.data
    if event.kind == EVENT_TAG:
        text = _text(data[8:], "utf-8")
        return Load(register=event.register, digest=digest.hex(), text=text, measured=_digest(bank, data) == digest)
    # systemd-stub writes UTF-16, GRUB and shim UTF-8; GRUB puts "grub_cmd: " before the text that it hashes.
    text = _text(data, "utf-16-le" if data[1:2] == b"\0" and len(data) > 2 else "utf-8")
    candidates = (data, data.rstrip(b"\0"), data.rstrip(b"\0").partition(b": ")[2])
    measured = any(candidate and _digest(bank, candidate) == digest for candidate in candidates)
    return Load(register=event.register, digest=digest.hex(), text=text, measured=measured)


def _text(data: bytes, encoding: str) -> str:
    text = data.decode(encoding, "replace").rstrip("\0")
    return "".join(char if char.isprintable() else "\ufffd" for char in text)[:MAX_HINT_CHARS]


def _digests(bank: Hash, *texts: bytes) -> set[bytes]:
    return {_digest(bank, text) for text in texts}


def _digest(bank: Hash, data: bytes) -> bytes:
    return hashlib.new(bank, data).digest()
