"""A model worker that misbehaves once it is sealed. The model's id in the job says how: `connect`, `hang`, ...

Run by the tests in place of the real one. What the seal denies it, it reports as the sample's error, so that the test
can see that the attempt was made and how it ended.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from appliance.frames import HEADER, Kind
from appliance.worker import Link, main
from tests.tools.manifests import self_test


def prepare(_fds: Mapping[str, int]) -> None:
    """Nothing."""


def serve(link: Link, config: dict[str, Any], _fds: Mapping[str, int], _prepared: None) -> None:
    """Say ready like a real worker, then do what the id says with every request; a behaviour may reply itself."""
    report = self_test(config["id"])
    if config["id"] == "liar":
        report["cells"].pop()
    link.send(Kind.READY, b"")
    link.send_json(Kind.TESTED, report)
    while True:
        frame = link.receive()
        if not BEHAVIOURS[config["id"]](link):
            nothing = {"error": {"code": "rogue", "message": "nothing stopped it"}}
            link.send_json(Kind.REPLY, nothing, frame.route, frame.tag)


def reporting(attempt: Callable[[], object]) -> Callable[[Link], object]:
    """A behaviour that reports how `attempt` ended."""

    def behave(link: Link) -> bool:
        try:
            outcome = f"allowed: {attempt()}"
        except OSError as error:
            outcome = f"denied: {error.strerror}"
        link.send_json(Kind.REPLY, {"error": {"code": "rogue", "message": outcome}}, 0)
        return True

    return behave


def fork_bomb() -> int:
    """Fork without end; the first child that comes into being is proof enough."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def raw(data: bytes) -> Callable[[Link], object]:
    """A behaviour that writes bytes of its own to the frames' pipe."""

    def behave(link: Link) -> None:
        os.write(link._out, data)
        threading.Event().wait(600)

    return behave


def memory_bomb(_link: Link) -> None:
    """Allocate until it is stopped."""
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))


BEHAVIOURS: dict[str, Callable[[Link], object]] = {
    "connect": reporting(lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)),
    "unix": reporting(lambda: socket.socket(socket.AF_UNIX)),
    "write": reporting(lambda: os.open("/tmp/vitrine-rogue", os.O_CREAT | os.O_WRONLY)),
    "read": reporting(lambda: os.open("/etc/passwd", os.O_RDONLY)),
    "exec": reporting(lambda: os.execv("/bin/true", ["true"])),
    "fork": reporting(fork_bomb),
    "kill": reporting(lambda: os.kill(os.getppid(), 9)),
    "huge": raw(HEADER.pack(0xFFFFFFFF, Kind.REPLY, 0, 0) + b"x" * 1000),
    "malformed": raw(b"GET / HTTP/1.1\r\n\r\n" * 10),
    "wrong-kind": raw(HEADER.pack(2, Kind.RESULTS, 0, 0) + b"{}"),
    "flood": raw((HEADER.pack(2, Kind.REPLY, 0, 0) + b"{}") * 1000),
    "wrong-tag": raw(HEADER.pack(2, Kind.REPLY, 0, 99) + b"{}"),
    "hang": lambda _link: threading.Event().wait(600),
    "die": lambda _link: os.abort(),
    "memory": memory_bomb,
    "chatter": lambda _link: sys.stdout.write("x" * (32 << 20)) and None,
    "garbage": lambda link: link.send(Kind.REPLY, b"\xff\x00 not json", 0) or True,
}

if __name__ == "__main__":
    main(prepare, serve)
