"""Shows what models say while they say it, on the operator's terminal, and on nothing but a terminal.

One request is shown at a time, token by token: the oldest that has not ended. What the others say meanwhile waits, up
to a bound, and is shown when it is their turn. A thread of its own writes; what a slow terminal does not take is left
out, and a terminal that is gone ends the showing. So the run never waits for it, and no bit of a result depends on it.

What a model wrote is decoded and cleaned of what could steer a terminal, and not parsed. It goes to no log and no file.
"""

from __future__ import annotations

import codecs
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from attest.console import printable

MAX_PIECES = 4096
"""That may wait for the terminal."""
MAX_WAITING_CHARS = 1 << 16
"""Of a request that is not shown yet."""
LEFT_OUT = "[...]"
CLOSE_TIMEOUT_S = 2.0


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


@dataclass
class _Request:
    """A request that a model answers."""

    decoder: codecs.IncrementalDecoder = field(default_factory=_decoder)
    waiting: str = ""
    ended: bool = False


class Listener(Protocol):
    """Is told what models say while they say it."""

    def said(self, route: int, tag: int, data: bytes) -> None:
        """Request `tag` of the model of `route` goes on with `data`. Must not wait."""

    def ended(self, route: int, tag: int) -> None:
        """It has its reply."""


class Stream:
    """Takes the words of running requests; a context manager. `models`: the names of the routes. `fd`: a terminal."""

    def __init__(self, models: Sequence[str], fd: int) -> None:
        self._models = models
        self._fd = fd
        self._requests: dict[tuple[int, int], _Request] = {}
        """By route and tag, in the order in which they were first heard of; the first one is shown."""
        self._begun = False
        self._pieces: queue.Queue[str | None] = queue.Queue(MAX_PIECES)
        self._gap = False
        self._writer = threading.Thread(target=self._write, name="stream", daemon=True)

    def said(self, route: int, tag: int, data: bytes) -> None:
        """A request goes on with `data`."""
        request = self._requests.setdefault((route, tag), _Request())
        text = request.decoder.decode(data)
        if len(request.waiting) + len(text) > MAX_WAITING_CHARS:
            text = LEFT_OUT if not request.waiting.endswith(LEFT_OUT) else ""
        request.waiting += text
        self._show()

    def ended(self, route: int, tag: int) -> None:
        """A request has its reply."""
        if (request := self._requests.get((route, tag))) is not None:
            request.ended = True
            self._show()

    def _show(self) -> None:
        """Show what is there of the first request, and of those after it once it has ended."""
        while self._requests:
            (route, tag), request = next(iter(self._requests.items()))
            if not self._begun:
                self._put(f"{self._models[route]}, request {tag}\n  ")
                self._begun = True
            if request.waiting:
                self._put(printable(request.waiting).replace("\n", "\n  "))
                request.waiting = ""
            if not request.ended:
                return
            self._put("\n")
            del self._requests[route, tag]
            self._begun = False

    def _put(self, text: str) -> None:
        """Hand `text` to the writer, if it has room for it and for what was left out before."""
        try:
            self._pieces.put_nowait(f"{LEFT_OUT}\n  {text}" if self._gap else text)
            self._gap = False
        except queue.Full:
            self._gap = True

    def _write(self) -> None:
        while (text := self._pieces.get()) is not None:
            data = text.encode("utf-8", "replace")
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                return  # the terminal is gone; the run is not

    def __enter__(self) -> Stream:
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun:
            self._put("\n")
        try:
            self._pieces.put(None, timeout=CLOSE_TIMEOUT_S)
            self._writer.join(CLOSE_TIMEOUT_S)
        except queue.Full:
            pass  # a terminal that takes nothing; the thread ends with the process
