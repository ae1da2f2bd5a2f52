"""Length-framed messages over pipes: 4 bytes length, 1 byte kind, 1 byte route, 4 bytes tag (big endian), payload.

The controller reads the ten bytes and forwards, hashes or stores the payload; only the kinds that it must understand
are JSON to it. A reply bears the route and the tag of its request, and replies come in any order. Sizes are bounded,
reads have a deadline, and a stream that breaks the form raises `ChannelError`: the other side is then past trusting and
is killed.
"""

from __future__ import annotations

import os
import selectors
import struct
import time
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct(">IBBI")
MAX_PAYLOAD_BYTES = 8 << 20
READ_BYTES = 1 << 16


class Kind(IntEnum):
    """What a frame carries."""

    CONFIG = 1
    """Controller to worker: what to do (JSON)."""
    HELLO = 2
    """Worker to controller: seal outcome and probes, sent before the worker sees an untrusted byte (JSON)."""
    READY = 3
    """Worker to controller: model loaded (empty) or data sets read; the plan (JSON of names and counts)."""
    REQUEST = 4
    """Eval worker to model worker `route`; the controller forwards it unread."""
    REPLY = 5
    """Model worker to eval worker; forwarded unread."""
    SAMPLE = 6
    """Eval worker to controller: one sample record, hashed and stored unread."""
    RESULTS = 7
    """Eval worker to controller: the results (JSON, checked strictly against its model)."""
    FAILURE = 8
    """Worker to controller: why it cannot go on (JSON of code and message)."""
    STOP = 9
    """Controller to worker: finish with what there is."""
    CANCEL = 10
    """Eval worker to model worker `route`: end the request with this tag. It is answered like any other."""
    TESTED = 11
    """Model worker to controller, once, after its first reply or when it is told to stop: its self-test (JSON)."""
    RECORD = 12
    """Controller to eval worker, before the word to begin: a sample record of the run that this one goes on with."""
    WORDS = 13
    """Model worker to controller, where the operator wants to see them: more text of the request with this tag."""


class ChannelError(Exception):
    """The stream broke its form, its bounds or its deadline, or it ended."""


class TooLargeError(ChannelError):
    """A payload that no frame carries. Nothing of it was sent."""


@dataclass(frozen=True)
class Frame:
    """One message."""

    kind: Kind
    route: int
    payload: bytes
    tag: int = 0
    """Which request of the route, or the reply to which."""


def pack(kind: Kind, payload: bytes, route: int = 0, tag: int = 0) -> bytes:
    """A frame's bytes. Raises `TooLargeError` when the payload is larger than the channel takes."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise TooLargeError(f"expected at most {MAX_PAYLOAD_BYTES} bytes in a frame, found {len(payload)}")
    return HEADER.pack(len(payload), kind, route, tag) + payload


class Reader:
    """Takes frames out of a file descriptor, with a deadline for each."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray()

    def take(self) -> Frame | None:
        """A whole frame that has been read already, or None. Raises `ChannelError` for a broken header."""
        if len(self._buffer) < HEADER.size:
            return None
        length, kind, route, tag = HEADER.unpack_from(self._buffer)
        if length > MAX_PAYLOAD_BYTES:
            raise ChannelError(f"expected frames of at most {MAX_PAYLOAD_BYTES} bytes, found one of {length}")
        if kind not in Kind.__members__.values():
            raise ChannelError(f"expected a known kind of frame, found {kind}")
        if len(self._buffer) < HEADER.size + length:
            return None
        payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        return Frame(Kind(kind), route, payload, tag)

    def fill(self) -> None:
        """Read once what the descriptor has. Raises `ChannelError` at its end."""
        data = os.read(self.fd, READ_BYTES)
        if not data:
            raise ChannelError("expected a frame, found the end of the stream")
        self._buffer += data

    def ready(self) -> bool:
        """Whether the descriptor has something to read, or has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.fd, selectors.EVENT_READ)
            return bool(selector.select(0))

    def receive(self, timeout_s: float | None = None) -> Frame:
        """The next frame. Raises `ChannelError` after `timeout_s` seconds without a whole one."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.fd, selectors.EVENT_READ)
            while (frame := self.take()) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and (left <= 0 or not selector.select(left)):
                    raise ChannelError(f"expected a frame within {timeout_s:g} s, found none")
                self.fill()
        return frame


def write_all(fd: int, data: bytes, timeout_s: float | None = None) -> None:
    """Write all of `data`. Raises `ChannelError` when the other side is gone or does not read in time."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    view = memoryview(data)
    if deadline is not None and os.get_blocking(fd):  # a sealed worker may ask, and not change it
        os.set_blocking(fd, False)
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_WRITE)
        while view:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not selector.select(left):
                raise ChannelError(f"expected the other side to read within {timeout_s:g} s, it did not")
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise ChannelError("expected the other side to read, it is gone") from None


def write_some(fd: int, data: bytes | bytearray) -> int:
    """Write what `fd` takes without waiting; the number of bytes. Raises `ChannelError` when the other side is gone."""
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data) if data else 0
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        raise ChannelError("expected the other side to read, it is gone") from None
