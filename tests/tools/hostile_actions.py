# Hostile code calls the kernel as directly as it can.
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH116, PTH118, PTH120, PTH123, PTH208
"""What the hostile worker of the seal tests tries once it is sealed: each action returns what it reports."""

from __future__ import annotations

import ctypes
import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jinja2

from appliance.seal import (
    enter,
    probe,
    violations,
)
from appliance.seal.plan import SealPlan

MIB = 1 << 20
CLONE = 56 if os.uname().machine == "x86_64" else 220
"""The number of clone; asked for before the seal, like the modules that want entropy when they are imported."""
PLANS: list[SealPlan] = []


def _ended(action: Any) -> str:
    """`allowed`, or the error by which `action` ended."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except (MemoryError, RuntimeError, ImportError, ValueError) as error:
        return type(error).__name__
    return "allowed"


def probes() -> object:
    results = probe()
    return {
        "results": {r.name: [r.outcome, r.errno] for r in results},
        "violations": [r.name for r in violations(results)],
    }


def threads() -> object:
    """Four at a time, several rounds, as an engine does."""
    sums: list[int] = []
    for _ in range(200):
        batch = [threading.Thread(target=lambda: sums.append(sum(range(1000)))) for _ in range(4)]
        for one in batch:
            one.start()
        for one in batch:
            one.join()
    return len(sums)


def thread_bomb() -> object:
    release = threading.Event()
    started = []
    ended = "unbounded"
    for _ in range(5000):
        one = threading.Thread(target=release.wait)
        try:
            one.start()
        except RuntimeError as error:
            ended = str(error)
            break
        started.append(one)
    release.set()
    for one in started:
        one.join()
    return {"started": len(started), "ended": ended}


def fork_bomb() -> object:
    context = multiprocessing.get_context("fork")
    libc = ctypes.CDLL(None, use_errno=True)

    def raw(number: int, *args: int) -> None:
        if libc.syscall(number, *args) < 0:
            raise OSError(ctypes.get_errno(), "refused")
        os._exit(99)

    ways = {
        "fork": os.fork,
        "forkpty": os.forkpty,
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "subprocess": lambda: subprocess.run(["/bin/true"], check=False),
        "system": lambda: subprocess.run("true", shell=True, check=False),
        "multiprocessing": lambda: context.Process(target=int).start(),
        "clone": lambda: raw(CLONE, signal.SIGCHLD, 0, 0, 0, 0),
        "clone-vm": lambda: raw(CLONE, 0x100 | signal.SIGCHLD, 0, 0, 0, 0),
        "clone3": lambda: raw(435, 0, 88),
    }
    return {name: {_ended(way) for _ in range(50)}.pop() for name, way in ways.items()}


def memory_bomb() -> object:
    import mmap

    held: list[object] = []

    def eat(make: Any) -> str:
        held.clear()
        ended = _ended(lambda: [held.append(make()) for _ in range(100000)])
        taken = len(held)
        held.clear()
        return f"{ended} after {taken}"

    return {
        "bytes": eat(lambda: bytearray(MIB)),
        "private": eat(lambda: mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)),
        "shared": eat(lambda: mmap.mmap(-1, MIB, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)),
        "at once": _ended(lambda: bytearray(1 << 40)),
    }


def files() -> object:
    here = os.path.dirname(__file__)
    return {
        "write": _ended(lambda: Path("/tmp/vitrine-test").write_text("x")),
        "append": _ended(lambda: open("/etc/hosts", "a")),
        "overwrite": _ended(lambda: open(json.__file__, "r+")),
        "create beside": _ended(lambda: open(os.path.join(os.path.dirname(json.__file__), "x"), "w")),
        "unlink": _ended(lambda: os.unlink(json.__file__)),
        "rename": _ended(lambda: os.rename(json.__file__, json.__file__ + "x")),
        "mkdir": _ended(lambda: os.mkdir("/tmp/vitrine-directory")),
        "chmod": _ended(lambda: os.chmod(json.__file__, 0o777)),
        "truncate": _ended(lambda: os.truncate(json.__file__, 0)),
        "temporary": _ended(lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR)),
        "named pipe": _ended(lambda: os.mkfifo("/tmp/vitrine-fifo")),
        "shadow": _ended(lambda: open("/etc/shadow")),
        "outside": _ended(lambda: open("/bin/true", "rb")),
        "look outside": _ended(lambda: os.stat("/bin/true")),
        "the tests": _ended(lambda: open(os.path.join(here, "hostile_worker.py"))),
        "parent": _ended(lambda: os.listdir(f"/proc/{os.getppid()}")),
        "read stdlib": _ended(lambda: open(json.__file__).read()),
        "list stdlib": _ended(lambda: os.listdir(os.path.dirname(json.__file__))),
        "limit": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
    }


def others() -> object:
    """Reach for other processes and for the controller."""
    parent = os.getppid() or 1  # 0 in a PID namespace of its own, which would mean itself
    libc = ctypes.CDLL(None, use_errno=True)

    def raw(name: str, *args: int) -> None:
        if getattr(libc, name)(*args) < 0:
            raise OSError(ctypes.get_errno(), name)

    return {
        "kill": _ended(lambda: os.kill(parent, signal.SIGKILL)),
        "kill all": _ended(lambda: os.kill(-1, signal.SIGKILL)),
        "kill group": _ended(lambda: os.killpg(os.getpgid(parent), signal.SIGKILL)),
        "ptrace": _ended(lambda: raw("ptrace", 16, parent, 0, 0)),
        "priority": _ended(lambda: os.setpriority(os.PRIO_PROCESS, parent, 19)),
        "limits": _ended(lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE)),
        "session": _ended(os.setsid),
        "raise limit": _ended(lambda: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)),
        "who": [os.getuid(), os.getgid()],
    }


def late_imports() -> object:
    absent = [name for name in ("colorsys", "fractions", "difflib") if name not in sys.modules]
    found = {}
    for name in ("colorsys", "fractions", "difflib", "decimal", "attest.errors", "encodings.idna"):
        found[name] = _ended(lambda name=name: __import__(name))
    found["code"] = _ended(lambda: __import__("_curses"))
    return {"absent": absent, "found": found, "template": jinja2.Template("{{ 6 * n }}").render(n=7)}


def callbacks() -> object:
    kind = ctypes.CFUNCTYPE(ctypes.c_int)
    return [kind(lambda n=n: n)() for n in range(20)]


def twice() -> object:
    try:
        enter(PLANS[0])
    except RuntimeError as error:
        return str(error)
    return "allowed"


def world() -> object:
    return {
        "host": _ended(os.uname),
        "folder": _ended(os.getcwd),
        "entropy": _ended(lambda: os.urandom(1)),
        "sleep": _ended(lambda: time.sleep(0.01)),
        "user": os.getuid(),
        "environment": sorted(os.environ),
        "hash": hash("vitrine"),
    }


def foreign_numbers() -> object:
    ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39))  # getpid by its x32 number
    return "survived"


def talk() -> object:
    """Log lines of every length, then wait for the end of the input."""
    os.write(2, b"one\ntwo\n" + b"x" * 10000 + b"\nlast")
    while os.read(0, 4096):
        pass
    return "talked"


def stubborn() -> object:
    os.write(1, b'"here"')
    threading.Event().wait(600)
    return None


def crash() -> object:
    os.abort()


def spin() -> object:
    while True:
        pass


ACTIONS = {f.__name__: f for f in (
    probes, threads, thread_bomb, fork_bomb, memory_bomb, files, others, late_imports, callbacks, twice, world,
    foreign_numbers, talk, stubborn, crash, spin,
)}  # fmt: skip
