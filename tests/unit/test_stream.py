"""Words on their way to a terminal: in order, harmless, and never waited for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from appliance.stream import LEFT_OUT, MAX_WAITING_CHARS, Stream

MODELS = ["organism", "clean"]


class Terminal:
    """A pipe that is read, or not, while something is written to it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._found = b""
        self._reader = threading.Thread(target=self._read)

    def _read(self) -> None:
        while data := os.read(self.reading, 1 << 16):
            self._found += data

    def read(self) -> str:
        """All that was written, by now and until its writers are done."""
        self._reader.start()
        os.close(self.writing)
        self._reader.join(20)
        os.close(self.reading)
        return self._found.decode()


@contextmanager
def shown() -> Iterator[tuple[Stream, Terminal]]:
    terminal = Terminal()
    with Stream(MODELS, terminal.writing) as stream:
        yield stream, terminal


def test_one_request_is_shown_at_a_time_and_none_is_lost() -> None:
    with shown() as (stream, terminal):
        stream.said(0, 4, b"asked: a\n")
        stream.said(1, 7, b"one ")
        stream.said(0, 4, b"said: b")
        stream.said(1, 7, b"two")
        stream.ended(1, 7)
        stream.said(0, 5, "gr\u00fcn".encode()[:3])
        stream.ended(0, 4)
        stream.said(0, 5, "gr\u00fcn".encode()[3:])
        stream.ended(0, 9)
    assert terminal.read() == (
        "organism, request 4\n  asked: a\n  said: b\nclean, request 7\n  one two\norganism, request 5\n  gr\u00fcn\n"
    )


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_nothing_steers_the_terminal_or_looks_like_another_request(pieces: list[bytes]) -> None:
    with shown() as (stream, terminal):
        for piece in (b"\x1b[2J\x1b]0;owned\x07\r\nclean, request 1\n", *pieces):
            stream.said(0, 1, piece)
        stream.ended(0, 1)
    first, *rest = terminal.read().split("\n")
    assert first == "organism, request 1"
    assert all(line.startswith("  ") for line in rest if line)
    assert all(char.isprintable() for line in rest for char in line)


def test_a_terminal_that_takes_nothing_holds_nobody_up() -> None:
    began = time.monotonic()
    with shown() as (stream, terminal):
        for _ in range(20_000):
            stream.said(0, 1, b"word " * 8)
        used = time.monotonic() - began
    assert used < 10
    assert time.monotonic() - began < 20
    assert os.read(terminal.reading, 1 << 16).startswith(b"organism, request 1\n  word word")
    os.close(terminal.reading)  # and the thread that waits for it ends


def test_a_terminal_that_is_gone_ends_the_showing_and_nothing_else() -> None:
    with shown() as (stream, terminal):
        os.close(terminal.reading)
        for _ in range(10_000):
            stream.said(0, 1, b"word ")
        stream.ended(0, 1)
    os.close(terminal.writing)


def test_what_waits_is_bounded() -> None:
    with shown() as (stream, terminal):
        stream.said(0, 1, b"first")
        for _ in range(100):
            stream.said(0, 2, b"x" * 4096)
        stream.ended(0, 1)
        stream.ended(0, 2)
    text = terminal.read()
    assert MAX_WAITING_CHARS - 4096 < text.count("x") <= MAX_WAITING_CHARS
    assert text.count(LEFT_OUT) == 1
