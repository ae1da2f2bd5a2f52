# Hostile code calls the kernel as directly as it can.
# ruff: noqa: PTH101,PTH102,PTH104,PTH108,PTH109,PTH116,PTH118,PTH120,PTH123,PTH208
"""The worker of the seal tests: hostile code that runs in a real sealed process and reports what it came to.

Collected by pytest as a module without tests; `run` and `sealed` start it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from appliance.seal import (
    ReadOnlyPath,
    Worker,
    enter,
    plan_for,
    probe,
    received,
    sealed_file,
    spawn,
    violations,
)
from appliance.seal.plan import Kind, SealPlan
from attest.errors import VitrineError

MODULE = "tests.integration.test_seal_worker"
MIB = 1 << 20


# ---- the controller's side


def read_all(worker: Worker) -> bytes:
    data = b""
    while piece := os.read(worker.replies, 1 << 16):
        data += piece
    return data


def run(
    action: str,
    *args: str,
    plan: SealPlan | None = None,
    fds: dict[str, int] | None = None,
    deadline_s: float = 60,
) -> tuple[int, Any, list[bytes]]:
    """Exit status, report (None when there is none) and log lines of a worker that performs `action`."""
    lines: list[bytes] = []
    plan = plan or plan_for("eval", memory_bytes=256 * MIB, threads=4)
    worker = spawn(MODULE, [action, *args], fds=fds or {}, plan=plan, log=lines.append)
    watch = threading.Timer(deadline_s, worker.process.kill)
    watch.start()
    try:
        report = read_all(worker)
        status = worker.stop()
    finally:
        watch.cancel()
    return status, json.loads(report) if report else None, lines


def sealed(action: str, *args: str, kind: Kind = "eval", memory_bytes: int = 256 * MIB, **more: Any) -> Any:
    """The report of a worker that sealed itself, performed `action` and was still able to report and end well."""
    status, report, lines = run(action, *args, plan=plan_for(kind, memory_bytes=memory_bytes, threads=4), **more)
    assert status == 0, (status, lines)
    assert report is not None
    return report


# ---- the worker's side: each action returns what it reports

_plans: list[SealPlan] = []


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
    import multiprocessing
    import subprocess

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
        "clone": lambda: raw(56 if os.uname().machine == "x86_64" else 220, signal.SIGCHLD, 0, 0, 0, 0),
        "clone-vm": lambda: raw(56 if os.uname().machine == "x86_64" else 220, 0x100 | signal.SIGCHLD, 0, 0, 0, 0),
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
        "the tests": _ended(lambda: open(os.path.join(here, "test_seal_worker.py"))),
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
    absent = [name for name in ("colorsys", "fractions", "difflib", "jinja2") if name not in sys.modules]
    found = {}
    for name in ("colorsys", "fractions", "difflib", "jinja2", "decimal", "attest.errors", "encodings.idna"):
        found[name] = _ended(lambda name=name: __import__(name))
    found["code"] = _ended(lambda: __import__("_curses"))
    import jinja2

    return {"absent": absent, "found": found, "template": jinja2.Template("{{ 6 * n }}").render(n=7)}


def callbacks() -> object:
    kind = ctypes.CFUNCTYPE(ctypes.c_int)
    return [kind(lambda n=n: n)() for n in range(20)]


def twice() -> object:
    try:
        enter(_plans[0])
    except RuntimeError as error:
        return str(error)
    return "allowed"


def world() -> object:
    return {
        "host": os.uname().nodename,
        "cwd": os.getcwd(),
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
    time.sleep(600)
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


# ---- the worker's side: the real engine


def model(plan: SealPlan, fds: dict[str, int], sealing: str, load: str) -> object:
    """Load the engine, seal, then load the model from its memory file and decode: a digest over all logits."""
    import hashlib

    import numpy as np

    from appliance.runtime import binding

    llama = binding.load(fds["library"])

    lines: list[bytes] = []
    callback = llama.llama_log_callback(lambda level, text, data: lines.append(text))
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    layers = [one.state for one in enter(plan).layers] if sealing == "sealed" else []

    llama.llama_log_set(callback, ctypes.c_void_p(0))
    llama.llama_backend_init()
    parameters = llama.llama_model_default_params()
    parameters.load_mode = llama.LLAMA_LOAD_MODE_MMAP if load == "map" else llama.LLAMA_LOAD_MODE_NONE
    file = libc.fdopen(os.dup(fds["model"]), b"rb")
    loaded = llama.llama_model_load_from_file_ptr(ctypes.c_void_p(file), parameters)
    assert loaded, b"".join(lines)
    context_parameters = llama.llama_context_default_params()
    context_parameters.n_ctx, context_parameters.n_threads, context_parameters.n_threads_batch = 512, 2, 2
    context = llama.llama_init_from_model(loaded, context_parameters)
    assert context, b"".join(lines)
    vocabulary = llama.llama_model_get_vocab(loaded)
    size = llama.llama_vocab_n_tokens(vocabulary)
    text = b"What is 12 plus 30?"
    tokens = (ctypes.c_int32 * 64)()
    count = llama.llama_tokenize(vocabulary, text, len(text), tokens, 64, True, True)
    batch = llama.llama_batch_init(64, 0, 1)
    state, position, given = hashlib.sha256(), 0, list(tokens[:count])
    for _ in range(12):
        batch.n_tokens = len(given)
        for index, token in enumerate(given):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position + index, 1
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        assert llama.llama_decode(context, batch) == 0
        position += len(given)
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, len(given) - 1), (size,))
        state.update(logits.tobytes())
        given = [int(logits.argmax())]
    llama.llama_free(context)
    llama.llama_model_free(loaded)
    return {
        "digest": state.hexdigest(),
        "layers": layers,
        "violations": [r.name for r in violations(probe() if layers else [])],
    }


# ---- the worker's side: before or without the whole seal


def outcome(plan: SealPlan) -> object:
    started = time.perf_counter()
    result = enter(plan)
    seconds = time.perf_counter() - started
    return {"layers": {layer.name: [layer.state, layer.detail] for layer in result.layers}, "ms": seconds * 1000}


def with_thread(plan: SealPlan) -> object:
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    return _refusal(plan)


def with_socket(plan: SealPlan) -> object:
    import socket

    with socket.socket():
        return _refusal(plan)


def with_file(plan: SealPlan) -> object:
    fd = os.memfd_create("open")
    try:
        return _refusal(plan)
    finally:
        os.close(fd)


def refusal(plan: SealPlan) -> object:
    return _refusal(plan)


def _refusal(plan: SealPlan) -> object:
    try:
        enter(plan)
    except (RuntimeError, VitrineError) as error:
        return f"{type(error).__name__}: {error}"
    return "sealed"


def layer(plan: SealPlan, name: str) -> object:
    """Apply a single layer, then make the attempts that do no harm without the others."""
    from appliance.seal import capabilities, identity, kernel, landlock, limits, privileges, root, seccomp

    if name == "none":
        pass
    elif name == "landlock":
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(plan.landlock)
    elif name == "seccomp":
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(plan.seccomp, seccomp.prepare(plan.seccomp))
    elif name == "root":
        kernel.call("unshare", kernel.CLONE_NEWNS)
        root.replace(tuple(entry.path for entry in plan.landlock.read_only))
    elif name == "net":
        kernel.call("unshare", kernel.CLONE_NEWNET)
    elif name == "limits":
        limits.apply(plan.limits, held_bytes=limits.address_space_bytes(), own_user_namespace=False)
    elif name == "privileges":
        identity.take(plan.identity)
        privileges.drop()
        assert capabilities.effective() == 0
    harmful = {"ptrace", "set-user", "mount", "stop-group", "death-signal", "user-namespace"}
    from appliance.seal.attempts import ATTEMPTS

    if name == "privileges":
        harmful -= {"set-user", "mount"}
    return {r.name: r.outcome for r in probe({one.name for one in ATTEMPTS} - harmful)}


BEFORE = {f.__name__: f for f in (outcome, with_thread, with_socket, with_file, refusal)}


def main() -> None:
    plan, fds, args = received(sys.argv[1:])
    action = args[0]
    if action == "layer":
        report = layer(plan, args[1])
    elif action == "model":
        report = model(plan, fds, *args[1:])
    elif action in BEFORE:
        report = BEFORE[action](plan)
    else:
        _plans.append(plan)
        enter(plan)
        report = ACTIONS[action]()
    data = json.dumps(report).encode()
    with contextlib.suppress(BrokenPipeError):
        os.write(1, data)


__all__ = ["MIB", "MODULE", "ReadOnlyPath", "read_all", "run", "sealed", "sealed_file"]

if __name__ == "__main__":
    main()
