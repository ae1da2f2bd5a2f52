"""Loads what a sealed worker would otherwise load late and could not: code can be mapped only before the seal.

Extension modules of the standard library that pure Python modules import where they use them, and the unwinder that
the C library loads when a thread is ended. One callback from C, because libffi maps its trampolines by the table (of
about 60) when the first of a table is made: so many callbacks may be alive in a sealed worker, and no more.
What a worker needs beyond that, it imports and makes itself before it enters.
"""

from __future__ import annotations

import contextlib
import ctypes
from importlib import import_module

UNWINDER = "libgcc_s.so.1"

EXTENSIONS = (
    "_bisect", "_csv", "_datetime", "_decimal", "_elementtree", "_hashlib", "_heapq", "_json", "_lsprof", "_opcode",
    "_pickle", "_queue", "_random", "_statistics", "_struct", "_zoneinfo", "array", "binascii", "cmath", "fcntl",
    "grp", "math", "pyexpat", "resource", "select", "termios", "unicodedata", "zlib",
)  # fmt: skip

_Callback = ctypes.CFUNCTYPE(ctypes.c_int)
_kept: list[object] = []


def preload() -> None:
    """Load them; one that this interpreter was built without, or has built in, needs no loading."""
    for name in EXTENSIONS:
        with contextlib.suppress(ImportError):
            import_module(name)
    with contextlib.suppress(OSError):
        ctypes.CDLL(UNWINDER)
    _kept.append(_Callback(lambda: 0))
