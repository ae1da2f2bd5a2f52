"""Capability sets of this process (capget(2), capset(2), version 3)."""

from __future__ import annotations

import ctypes
import errno
import struct

from appliance.seal import kernel

VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h
_HEADER = struct.Struct("=Ii")
_DATA = struct.Struct("=6I")  # effective, permitted, inheritable of capabilities 0-31, then of 32-63


def effective() -> int:
    """The effective set, bit by capability."""
    words = _get()
    return words[0] | words[3] << 32


def raise_permitted() -> None:
    """Make all that is permitted effective. Raises `OSError`."""
    words = _get()
    _set((words[1], words[1], 0, words[4], words[4], 0))


def drop_all() -> str:
    """Empty every set; what became of the bounding set. Raises `OSError` when a set other than that stays."""
    bounding = _drop_bounding()
    try:
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 4.3 there is no such set
            raise
    _set((0,) * 6)
    if any(_get()):
        raise OSError(errno.EPERM, "capabilities stayed after they were dropped")
    return bounding


def _drop_bounding() -> str:
    for capability in range(64):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # beyond the last capability of this kernel
                return "bounding set empty"
            return "bounding set kept, which no_new_privs makes void"
    return "bounding set empty"


def _get() -> tuple[int, ...]:
    data = ctypes.create_string_buffer(_DATA.size)
    kernel.call("capget", ctypes.create_string_buffer(_HEADER.pack(VERSION_3, 0)), data)
    return _DATA.unpack(data.raw[: _DATA.size])


def _set(words: tuple[int, ...]) -> None:
    kernel.call("capset", ctypes.create_string_buffer(_HEADER.pack(VERSION_3, 0)), _DATA.pack(*words))
