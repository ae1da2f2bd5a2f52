"""What both kinds of worker do first: prepare, seal themselves, probe the seal, say hello, take the configuration.

Until it is sealed a worker reads nothing but its plan; the files that it was given stay unread. It may be started long
before there is a plan, and has all its code by the time it asks for one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from appliance.frames import Frame, Kind, Reader, pack, write_all
from appliance.seal.enter import enter
from appliance.seal.launch import received
from appliance.seal.preload import preload
from appliance.seal.probe import probe
from attest import canonical
from attest.errors import VitrineError

Prepare = Callable[[Mapping[str, int]], Any]
"""Imports and opens what is needed before the seal; gets the named descriptors."""
Serve = Callable[["Link", dict[str, Any], Mapping[str, int], Any], None]
"""Works behind the seal; gets the link, the configuration, the named descriptors and what was prepared."""


class Link:
    """The worker's end of its two pipes."""

    def __init__(self, fd_in: int, fd_out: int) -> None:
        self._reader = Reader(fd_in)
        self._out = fd_out

    def receive(self) -> Frame:
        """The next frame; waits as long as it takes."""
        return self._reader.receive()

    def arrived(self) -> Frame | None:
        """The next frame if it is here already, else None; never waits."""
        while (frame := self._reader.take()) is None and self._reader.ready():
            self._reader.fill()
        return frame

    def send(self, kind: Kind, payload: bytes, route: int = 0, tag: int = 0) -> None:
        """Send one frame."""
        write_all(self._out, pack(kind, payload, route, tag))

    def send_json(self, kind: Kind, value: Any, route: int = 0, tag: int = 0) -> None:
        """Send one frame of JSON."""
        self.send(kind, json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"), route, tag)


def main(prepare: Prepare, serve: Serve) -> None:
    """Run a worker that `appliance.seal.launch` started. It ends when its work or its input ends."""
    # Frames keep a descriptor of their own; whatever a library prints goes to the log instead.
    link = Link(0, os.dup(1))
    os.dup2(2, 1)
    preload()
    try:
        plan, fds, _ = received(sys.argv[1:])
        prepared = prepare(fds)
        outcome = enter(plan)
        hello = {
            "policy": outcome.policy_digest,
            "layers": [layer.model_dump(mode="json") for layer in outcome.layers],
            "probes": [result.model_dump(mode="json", exclude={"expected"}) for result in probe()],
        }
        link.send_json(Kind.HELLO, hello)
        config = canonical.loads(link.receive().payload, "worker configuration")
        serve(link, config, fds, prepared)
    except VitrineError as error:
        report = {"code": type(error).__name__, "message": str(error)[:4000], "exit": int(error.exit_code)}
        link.send_json(Kind.FAILURE, report)
        sys.exit(int(error.exit_code))
