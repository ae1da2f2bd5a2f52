"""Outlives the controller, and leaves no container behind it: a process of its own, run by this file's path.

A runtime's container may go on when its caller is killed. So the guard waits for the end of its input, which comes when
the controller closes it or dies in whatever way, kills the runtime, and has the runtime remove what is left.

Its input is one JSON object a line: `{"cleanup": [[WORD, ...], ...]}` before the runtime starts, then
`{"process": PID}`. Only the standard library is used, and no site: it starts in 15 ms, while the container starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

CLEANUP_TIMEOUT_S = 30.0


def main() -> None:
    """Take the orders, wait, clean up."""
    process = -1
    cleanup: list[list[str]] = []
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        cleanup = order.get("cleanup", cleanup)
        if "process" in order:
            with contextlib.suppress(ProcessLookupError):
                process = os.pidfd_open(order["process"])  # stays the same process when its number is used again
    if process >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    for argv in cleanup:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=CLEANUP_TIMEOUT_S,
                check=False,
            )


if __name__ == "__main__":
    main()
