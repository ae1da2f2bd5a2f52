"""The first code of a worker's process, run by its path: gives the worker a PID namespace of its own, then runs it.

A process cannot enter a new PID namespace, only its children can. So this process makes the namespace, forks the worker
as its first process, closes every descriptor, waits, and ends as the worker ended: with its exit status, or by the same
signal. It forks before anything is imported, and holds nothing. Where the kernel refuses the namespace there is no
fork, and the worker goes on in this process; its seal report then says so (`appliance.seal.namespaces`).

Nothing of the project is imported here, which would cost the keeper the memory and the worker the time of it.

    python -P -s -B keeper.py --controller=PID [--user=UID:GID] [--root=FOLDER ...] MODULE [ARGUMENT ...]
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import runpy
import signal
import sys
from typing import NoReturn

CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000  # linux/sched.h
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
NAME = b"vitrine-keeper"


def main() -> None:
    """Read the options, keep or become the worker."""
    options: dict[str, list[str]] = {"controller": [], "user": [], "root": []}
    rest = sys.argv[1:]
    while rest and rest[0].startswith("--"):
        name, _, value = rest.pop(0)[2:].partition("=")
        options[name].append(value)
    module, *arguments = rest
    if options["user"]:
        uid, _, gid = options["user"][0].partition(":")
        _fork_alone(int(uid), int(gid), int(options["controller"][0]))
    # Import roots go last on the path, so that they shadow nothing; an installed project finds itself there anyway.
    sys.path += options["root"]
    sys.argv[1:] = arguments
    gc.disable()  # what an import makes stays, and would be looked through again and again; `received` enables it
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _fork_alone(uid: int, gid: int, controller: int) -> None:
    """Return in the worker, as the first process of a PID namespace, or here when there is none to be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not _separate(libc, uid, gid):
        return
    worker = os.fork()
    # The worker dies with its keeper; it says so again when it is sealed, because a change of the user takes it back.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if worker:
        libc.prctl(PR_SET_NAME, NAME, 0, 0, 0)
        _keep(worker, controller)


def _separate(libc: ctypes.CDLL, uid: int, gid: int) -> bool:
    """Whether the next child will be alone in a new PID namespace."""
    if libc.unshare(CLONE_NEWPID) == 0:
        return True
    # Without privileges it takes a user namespace, in which this process is the user of the plan.
    outer = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0:
        return False
    with contextlib.suppress(OSError):
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {outer[0]} 1"),
            ("gid_map", f"{gid} {outer[1]} 1"),
        ):
            fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
            try:
                os.write(fd, text.encode("ascii"))
            finally:
                os.close(fd)
    return True


def _keep(worker: int, controller: int) -> NoReturn:
    """Wait for the worker, and end as it ended."""
    if os.getppid() != controller:  # it died before this process had asked to die with it
        os._exit(1)  # which kills the worker
    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
