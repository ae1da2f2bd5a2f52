"""Frames over real pipes: whole ones come out, broken ones are refused, and nobody waits for ever."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.frames import MAX_PAYLOAD_BYTES, ChannelError, Frame, Kind, Reader, pack, write_all

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(Kind), st.integers(0, 255), st.binary(max_size=300), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=8,
)


class Pipe:
    """Both ends of a pipe, closed at the end of the test."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self._open = {self.out, self.into}

    def close(self, *ends: int) -> None:
        for end in ends or tuple(self._open):
            if end in self._open:
                self._open.remove(end)
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_the_form_is_the_documented_one() -> None:
    assert pack(Kind.SAMPLE, b"abc", 5, 258) == b"\x00\x00\x00\x03\x06\x05\x00\x00\x01\x02abc"
    assert pack(Kind.STOP, b"") == b"\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00"
    assert [kind.value for kind in Kind] == list(range(1, 14))


@settings(max_examples=60)
@given(FRAMES, st.lists(st.integers(1, 400), max_size=20))
def test_however_a_stream_is_cut_the_same_frames_come_out(frames: list[Frame], sizes: list[int]) -> None:
    made = Pipe()
    try:
        stream = b"".join(pack(frame.kind, frame.payload, frame.route, frame.tag) for frame in frames)
        reader, found, at = Reader(made.out), [], 0
        for size in [*sizes, len(stream)]:
            piece = stream[at : at + size]
            at += len(piece)
            if piece:
                os.write(made.into, piece)
                reader.fill()
            while (frame := reader.take()) is not None:
                found.append(frame)
        assert found == frames
        assert reader.take() is None
    finally:
        made.close()


def test_a_frame_of_the_largest_size_and_no_larger(pipe: Pipe) -> None:
    payload = os.urandom(1 << 16) * (MAX_PAYLOAD_BYTES >> 16)
    writer = background(lambda: write_all(pipe.into, pack(Kind.REPLY, payload, 255), 20))
    assert Reader(pipe.out).receive(20) == Frame(Kind.REPLY, 255, payload)
    writer.join(5)
    with pytest.raises(ChannelError, match="at most"):
        pack(Kind.REPLY, payload + b"x")


def test_frames_that_follow_at_once_are_kept_apart(pipe: Pipe) -> None:
    write_all(pipe.into, pack(Kind.HELLO, b"1") + pack(Kind.READY, b"") + pack(Kind.SAMPLE, b"3")[:-1])
    reader = Reader(pipe.out)
    assert reader.receive(1) == Frame(Kind.HELLO, 0, b"1")
    assert reader.receive(1) == Frame(Kind.READY, 0, b"")
    with pytest.raises(ChannelError, match="within"):
        reader.receive(0.05)
    os.write(pipe.into, b"3")
    assert reader.receive(1) == Frame(Kind.SAMPLE, 0, b"3")


@pytest.mark.parametrize("kind", [0, max(Kind) + 1, 127, 255])
def test_an_unknown_kind_is_refused_by_its_header(pipe: Pipe, kind: int) -> None:
    os.write(pipe.into, struct.pack(">IBBI", 1000, kind, 0, 0))
    with pytest.raises(ChannelError, match=f"known kind of frame, found {kind}"):
        Reader(pipe.out).receive(5)


@pytest.mark.parametrize("length", [MAX_PAYLOAD_BYTES + 1, 2**31, 2**32 - 1])
def test_an_oversized_frame_is_refused_by_its_header(pipe: Pipe, length: int) -> None:
    os.write(pipe.into, struct.pack(">IBBI", length, Kind.REPLY, 0, 0))
    with pytest.raises(ChannelError, match=f"found one of {length}"):
        Reader(pipe.out).receive(5)


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0\0\2\6", b"\0\0\0\2\6\0", b"\0\0\0\2\6\0a"])
def test_the_end_of_a_stream_is_an_error_wherever_it_comes(pipe: Pipe, sent: bytes) -> None:
    os.write(pipe.into, sent)
    pipe.close(pipe.into)
    with pytest.raises(ChannelError, match="end of the stream"):
        Reader(pipe.out).receive(5)


def test_what_was_sent_before_the_end_still_arrives(pipe: Pipe) -> None:
    os.write(pipe.into, pack(Kind.FAILURE, b"{}"))
    pipe.close(pipe.into)
    reader = Reader(pipe.out)
    assert reader.receive(5).kind == Kind.FAILURE
    with pytest.raises(ChannelError, match="end of the stream"):
        reader.receive()


def test_silence_ends_at_the_deadline(pipe: Pipe) -> None:
    started = time.monotonic()
    with pytest.raises(ChannelError, match=r"within 0\.1 s"):
        Reader(pipe.out).receive(0.1)
    assert 0.09 <= time.monotonic() - started < 3


def test_a_trickle_does_not_move_the_deadline(pipe: Pipe) -> None:
    stop = threading.Event()

    def trickle() -> None:
        for byte in pack(Kind.SAMPLE, b"x" * 10_000):
            if stop.wait(0.01):
                return
            os.write(pipe.into, bytes([byte]))

    writer = background(trickle)
    started = time.monotonic()
    with pytest.raises(ChannelError, match="within"):
        Reader(pipe.out).receive(0.2)
    assert time.monotonic() - started < 3
    stop.set()
    writer.join(5)


def test_a_reader_that_does_not_read_ends_the_write(pipe: Pipe) -> None:
    started = time.monotonic()
    with pytest.raises(ChannelError, match=r"within 0\.1 s"):
        write_all(pipe.into, bytes(1 << 20), 0.1)
    assert 0.09 <= time.monotonic() - started < 3


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_a_reader_that_is_gone_ends_the_write(pipe: Pipe, timeout_s: float | None) -> None:
    pipe.close(pipe.out)
    with pytest.raises(ChannelError, match="gone"):
        write_all(pipe.into, b"x", timeout_s)


def test_a_reader_that_goes_away_ends_the_write(pipe: Pipe) -> None:
    def leave() -> None:
        os.read(pipe.out, 1000)
        pipe.close(pipe.out)

    writer = background(leave)
    with pytest.raises(ChannelError, match="gone"):
        write_all(pipe.into, bytes(1 << 20), 10)
    writer.join(5)


@pytest.mark.parametrize("timeout_s", [None, 10.0])
def test_a_slow_reader_gets_everything(pipe: Pipe, timeout_s: float | None) -> None:
    payload = os.urandom(300_000)
    writer = background(lambda: write_all(pipe.into, pack(Kind.REPLY, payload), timeout_s))
    time.sleep(0.05)
    assert Reader(pipe.out).receive(10).payload == payload
    writer.join(5)
    assert not writer.is_alive()


def test_a_wait_without_a_deadline_does_not_spin(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(pipe.into, b"x", 1)  # which makes the descriptor non-blocking
    calls, write = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: calls.append(fd) or write(fd, data))
    writer = background(lambda: write_all(pipe.into, bytes(1 << 17)))
    time.sleep(0.1)
    left = 1 + (1 << 17)
    while left:
        left -= len(os.read(pipe.out, left))
    writer.join(5)
    assert calls.count(pipe.into) < 50


@given(st.binary(min_size=6, max_size=40))
def test_any_bytes_give_frames_or_our_error(data: bytes) -> None:
    made = Pipe()
    try:
        os.write(made.into, data)
        made.close(made.into)
        reader = Reader(made.out)
        with pytest.raises(ChannelError):
            while True:
                assert len(reader.receive(5).payload) <= len(data)
    finally:
        made.close()
