"""Enrols Secure Boot keys in the settings of UEFI firmware: the file of variables that OVMF starts with.

A virtual machine gets a copy of the distribution's empty file (`OVMF_VARS_4M.fd`); here its variables are written, as
the firmware itself would have stored them. A verifier trusts none of it: register 7 has what the firmware found.

Source: EDK II, `MdeModulePkg/Include/Guid/VariableFormat.h` (authenticated variables), `FirmwareVolumeHeader`.
"""

from __future__ import annotations

import struct
from uuid import UUID

from appliance.image.pcr import GLOBAL, SECURITY_DATABASE
from appliance.image.secure_boot import Keys
from attest.errors import MalformedInput

VOLUME = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
"""A firmware volume of variables."""
STORE = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
"""A store of authenticated variables in it."""
SWITCH = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
"""Owner of the variable that switches checking on."""
STORE_HEADER = struct.Struct("<16sIBBHI")
VARIABLE = struct.Struct("<HBBIQ16sIII16s")
"""Start, state, reserved, attributes, count, time, index of a key, bytes of name and of data, owner."""
START, ADDED = 0x55AA, 0x3F
KEPT, AUTHENTICATED = 0x03, 0x27
"""Attributes: non-volatile for the firmware alone; non-volatile, seen by all, changed under a signature."""
TIME = struct.pack("<HBBBBBxIhBx", 2026, 1, 1, 0, 0, 0, 0, 0, 0)
"""A later change has to be signed with a later time."""
ALIGNMENT = 4
ERASED = 0xFF


def enrol(empty: bytes, keys: Keys) -> bytes:
    """The settings `empty` with `keys` enrolled and checking switched on.

    Raises `MalformedInput` for settings that are none, have no room, or have variables already.
    """
    length, signature, header = _volume(empty)
    if empty[:16] != bytes(16) or empty[16:32] != VOLUME or signature != b"_FVH" or length > len(empty):
        raise MalformedInput("firmware settings", "expected a firmware volume of variables, found something else")
    first = header + STORE_HEADER.size
    kind, size, formatted, state, _, _ = STORE_HEADER.unpack_from(empty.ljust(first, b"\0"), header)
    if kind != STORE or (formatted, state) != (0x5A, 0xFE) or not STORE_HEADER.size <= size <= length - header:
        raise MalformedInput("firmware settings", "expected a store of authenticated variables, found something else")
    variables = b"".join(
        _variable(name, owner, attributes, data)
        for name, owner, attributes, data in (
            ("PK", GLOBAL, AUTHENTICATED, keys.platform),
            ("KEK", GLOBAL, AUTHENTICATED, keys.exchange),
            ("db", SECURITY_DATABASE, AUTHENTICATED, keys.allowed),
            ("dbx", SECURITY_DATABASE, AUTHENTICATED, keys.forbidden),
            ("SecureBootEnable", SWITCH, KEPT, b"\1"),
        )
        if data
    )
    room = empty[first : header + size]
    if room.strip(bytes([ERASED])) or len(variables) > len(room):
        raise MalformedInput(
            "firmware settings", f"expected {len(variables)} erased bytes, found {len(room)} bytes or other variables"
        )
    return empty[:first] + variables + empty[first + len(variables) :]


def _volume(data: bytes) -> tuple[int, bytes, int]:
    """Length, signature and bytes of the header of a firmware volume."""
    length, signature, _, header = struct.unpack_from("<Q4sIH", data.ljust(50, b"\0"), 32)
    return length, signature, header


def _variable(name: str, owner: UUID, attributes: int, data: bytes) -> bytes:
    text = name.encode("utf-16-le") + b"\0\0"
    time = TIME if attributes == AUTHENTICATED else bytes(len(TIME))
    fields = (START, ADDED, 0, attributes, 0, time, 0, len(text), len(data), owner.bytes_le)
    whole = VARIABLE.pack(*fields) + text + data
    return whole + bytes([ERASED]) * (-len(whole) % ALIGNMENT)
