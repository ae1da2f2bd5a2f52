"""Starts a program that ends when the process that started it ends, however that ends: SIGKILL as well.

The thread that starts it has to live, not only its process. Run as a script, because between fork and exec of a process
with threads no Python is safe. It needs nothing but the standard library, and becomes the program.

    python -I -S tether.py PARENT PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ORPHANED = 1


def main() -> None:
    """Ask the kernel for SIGKILL at the parent's end, then become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(ORPHANED)
    os.execv(program, sys.argv[2:])  # noqa: S606 - a program is what this is for


if __name__ == "__main__":
    main()
