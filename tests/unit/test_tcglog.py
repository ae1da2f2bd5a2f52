"""The firmware's event log: read, replayed, and refused where it is out of form."""

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import tcglog
from attest.errors import MalformedInput


def header(algorithms: tuple[tuple[int, int], ...] = ((4, 20), (11, 32))) -> bytes:
    """The first event."""
    body = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2) + struct.pack("<I", len(algorithms))
    body += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    return struct.pack("<II20xI", 0, 3, len(body)) + body


def event(register: int, content: bytes, kind: int = 0xD) -> bytes:
    """An event with both digests."""
    digests = struct.pack("<H", 4) + hashlib.sha1(content).digest()
    digests += struct.pack("<H", 11) + hashlib.sha256(content).digest()
    return struct.pack("<III", register, kind, 2) + digests + struct.pack("<I", len(content)) + content


LOG = header() + event(4, b"first") + event(0, b"says something", kind=3) + event(11, b"other") + event(4, b"second")


def test_a_log_replays_to_the_registers() -> None:
    events = tcglog.parse(LOG)
    assert [(item.register, item.data) for item in events] == [(4, b"first"), (11, b"other"), (4, b"second")]
    first = hashlib.sha256(bytes(32) + hashlib.sha256(b"first").digest()).digest()
    second = hashlib.sha256(first + hashlib.sha256(b"second").digest()).digest()
    assert tcglog.replay(events)[4] == second


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LOG[:-1],
        LOG + b"\0",
        LOG[8:],
        header(((4, 20),)) + event(4, b"x"),
        header(((11, 20),)),
        header(((4, 20), (11, 32), (99, 2))),
        header() + struct.pack("<III", 24, 13, 0) + struct.pack("<I", 0),
        header() + struct.pack("<III", 4, 13, 1) + struct.pack("<H", 12) + bytes(48),
        header() + struct.pack("<III", 4, 13, 1) + struct.pack("<H", 4) + bytes(20) + struct.pack("<I", 0),
        header() + struct.pack("<IIII", 4, 13, 0, 0xFFFFFFFF),
        bytes(2 << 20),
    ],
)
def test_other_logs_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="TCG event log"):
        tcglog.parse(data)


@given(st.binary(max_size=400), st.integers(0, len(LOG)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    for hostile in (data, LOG[:at] + data, LOG[:at] + data + LOG[at:]):
        try:
            tcglog.parse(hostile)
        except MalformedInput:
            continue
