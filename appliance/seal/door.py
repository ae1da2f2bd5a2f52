"""How a worker's process gets its plan, its arguments and its files: by one message over a UNIX socket.

So the process can be started, and import its code, before there is a plan. `pass_on` is the controller's side,
`received` the worker's; the socket is closed before the seal, which would refuse it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import socket
from collections.abc import Mapping, Sequence

from attest import canonical
from attest.sealplan import OPEN_FILES, SealPlan

DOOR = "--door="
PLAN = "plan"
FILES_A_MESSAGE = 200
"""The kernel takes 253 (SCM_MAX_FD of include/net/scm.h)."""
MESSAGE_BYTES = 1 << 16
LOW_FILES = OPEN_FILES // 2
"""Files that are given beyond so many are moved out of the numbers that a sealed worker can still open."""
SEND_TIMEOUT_S = 60.0


def pass_on(door: socket.socket, args: Sequence[str], fds: Mapping[str, int]) -> None:
    """Give `args` and the named descriptors to the worker behind `door`; the descriptors stay open here.

    A worker that has ended gets nothing: its end shows where its replies are read.
    """
    names = sorted(fds)
    parts = [names[at : at + FILES_A_MESSAGE] for at in range(0, len(names), FILES_A_MESSAGE)] or [[]]
    door.settimeout(SEND_TIMEOUT_S)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for part in parts:
            message = {"args": list(args), "names": part, "last": part is parts[-1]}
            socket.send_fds(door, [json.dumps(message).encode("ascii")], [fds[name] for name in part])


def received(argv: Sequence[str]) -> tuple[SealPlan, dict[str, int], list[str]]:
    """What a worker is given, from `sys.argv[1:]`: its plan, its named descriptors, and its arguments; waits for it.

    The variables of the plan are in the environment then. Raises `RuntimeError` when the process was not started by
    `spawn` or when the controller is gone, `MalformedInput` when the plan is not well formed.
    """
    gc.enable()  # the keeper disabled it while code was imported
    if len(argv) != 1 or not argv[0].startswith(DOOR):
        raise RuntimeError("expected a door to get a plan from: workers are started by appliance.seal.spawn")
    named: dict[str, int] = {}
    with socket.socket(fileno=int(argv[0].removeprefix(DOOR))) as door:
        while True:
            data, fds, flags, _ = socket.recv_fds(door, MESSAGE_BYTES, FILES_A_MESSAGE, socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise RuntimeError("expected a plan, found that the controller is gone")
            message = json.loads(data)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) != len(message["names"]):
                raise RuntimeError(f"expected {len(message['names'])} descriptors, found {len(fds)}")
            named.update(zip(message["names"], map(_out_of_the_way, fds), strict=True))
            if message["last"]:
                break
    if PLAN not in named:
        raise RuntimeError("expected a plan among the descriptors: workers are started by appliance.seal.spawn")
    with open(named.pop(PLAN), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        plan = canonical.parse(SealPlan, file.read(), "seal plan")
    os.environ.update({variable.name: variable.value for variable in plan.environment})
    return plan, named, [str(argument) for argument in message["args"]]


def _out_of_the_way(fd: int) -> int:
    if fd < LOW_FILES:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, OPEN_FILES)
    os.close(fd)
    return moved
