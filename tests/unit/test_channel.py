"""The host's end of the channel through a wall: hostile peers, one clear error each."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import run
from appliance.enclave.channel import EnclaveFailure, Host, Service
from appliance.frames import HEADER, ChannelError, Kind, pack
from appliance.notary.desk import Desk
from appliance.notary.lab import Lab
from appliance.notary.protocol import MAX_QUESTION_BYTES
from attest import canonical
from attest.errors import MalformedInput, VerificationError, VitrineError
from tests.conftest import quiet
from tests.tools.questions import EXPECTED, entries, leaves, register, start


class Peer:
    """The inside, as a hostile one would be: it writes what it wants."""

    def __init__(self) -> None:
        self.from_inside, self.out = os.pipe()
        self.inp, self.to_inside = os.pipe()
        self._open = {self.from_inside, self.out, self.inp, self.to_inside}

    def write(self, data: bytes) -> None:
        """In a thread, because a pipe holds only so much."""

        def work() -> None:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self.out, rest) :]
            except OSError:
                return

        threading.Thread(target=work, daemon=True).start()

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self._open):
            if fd in self._open:
                self._open.remove(fd)
                os.close(fd)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


HELLO = pack(Kind.HELLO, canonical.dumps({"format": "vitrine/enclave-hello/v1", "version": "0"}))


def attend(lab: Lab, peer: Peer, data: bytes, *, timeout_s: float = 5.0, close: bool = True) -> None:
    """Serve a peer that writes `data` after its hello and, if told to, ends."""
    host = Host(peer.from_inside, peer.to_inside)
    peer.write(HELLO)
    host.hello(5.0)
    if close:
        os.write(peer.out, data)
        peer.close(peer.out)
    else:
        peer.write(data)
    host.attend(start(lab), Desk(lab, EXPECTED), quiet, timeout_s=timeout_s)


def ask(question: bytes, route: int = Service.NOTARY, kind: Kind = Kind.REQUEST) -> bytes:
    return pack(kind, question, route, 1)


def step(**changes: Any) -> bytes:
    return pack(Kind.REQUEST, json.dumps({"phase": "p", "done": 1, "total": 2} | changes).encode(), Service.PROGRESS)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", EnclaveFailure, "end of the stream"),
        (b"\0\0", EnclaveFailure, "end of the stream"),
        (HEADER.pack(1 << 31, 4, 0, 0), EnclaveFailure, "at most"),
        (HEADER.pack(4, 99, 0, 0) + b"abcd", EnclaveFailure, "known kind"),
        (HELLO, MalformedInput, "found HELLO"),
        (pack(Kind.REPLY, b"{}"), MalformedInput, "found REPLY"),
        (pack(Kind.CONFIG, b"{}"), MalformedInput, "found CONFIG"),
        (ask(b"{}", route=77), MalformedInput, "number 77"),
        (ask(b"x", route=Service.FILE), MalformedInput, "no files"),
        (ask(b'{"call":"conclude"}'), VerificationError, "notary/order"),
        (ask(register()) + ask(register()), VerificationError, "notary/order"),
        (step(done=-1), MalformedInput, "done"),
        (step(surprise=1), MalformedInput, "surprise"),
        (step(phase="x" * 300), MalformedInput, "phase"),
        (pack(Kind.RESULTS, b'{"ended_by":"done"}'), MalformedInput, "every question"),
        (pack(Kind.RESULTS, b'{"ended_by":"luck"}'), MalformedInput, "ended_by"),
        (pack(Kind.HELLO, b" " * 100_000), MalformedInput, "found HELLO"),
        (pack(Kind.FAILURE, b" " * 100_000), MalformedInput, "at most"),
        (pack(Kind.FAILURE, b'{"code":"A","message":"m","exit":0}'), MalformedInput, "exit"),
        (pack(Kind.FAILURE, b'{"code":"A","message":"gone \\u001b[2J","exit":20}'), EnclaveFailure, r"gone \?\[2J"),
    ],
)  # fmt: skip
def test_host_ends_a_peer_that_breaks_the_form(
    lab: Lab, peer: Peer, data: bytes, error: type[VitrineError], words: str
) -> None:
    before, asked = entries(lab), data.count(b'"register"')
    if len(data) > 60_000:
        with pytest.raises(error, match=words):
            attend(lab, peer, data, close=False)
        return
    with pytest.raises(error, match=words):
        attend(lab, peer, data)
    assert entries(lab) - before == min(asked, 1)


def test_exit_code_of_the_inside_is_kept(lab: Lab, peer: Peer) -> None:
    with pytest.raises(EnclaveFailure) as caught:
        attend(lab, peer, pack(Kind.FAILURE, b'{"code":"BootRefused","message":"boot/digest-mismatch","exit":10}'))
    assert (caught.value.exit_code, caught.value.code) == (10, "BootRefused")
    assert str(caught.value) == "boot/digest-mismatch"


def test_interrupted_inside_is_an_interrupt(lab: Lab, peer: Peer) -> None:
    with pytest.raises(KeyboardInterrupt):
        attend(lab, peer, pack(Kind.FAILURE, b'{"code":"KeyboardInterrupt","message":"interrupted","exit":130}'))


def test_nobody_waits_for_a_peer_that_says_nothing(lab: Lab, peer: Peer) -> None:
    began = time.monotonic()
    with pytest.raises(EnclaveFailure, match=r"within 0\.2 s"):
        Host(peer.from_inside, peer.to_inside).hello(0.2)
    with pytest.raises(EnclaveFailure, match="to end in time"):
        attend(lab, peer, HEADER.pack(100, 4, 0, 0) + b"slow", timeout_s=0.3, close=False)
    assert time.monotonic() - began < 5


def test_peer_that_does_not_read_is_given_up(lab: Lab, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.enclave.channel.WRITE_TIMEOUT_S", 0.2)
    os.set_blocking(peer.to_inside, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(peer.to_inside, b"x" * 4096)
    with pytest.raises(EnclaveFailure, match="to read within"):
        attend(lab, peer, b"")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(pack, st.sampled_from(Kind), st.binary(max_size=60), st.integers(0, 255)),
            st.just(step()),
        ),
        max_size=6,
    ).filter(lambda parts: b"".join(parts) != b"")
)
def test_host_survives_any_stream(lab: Lab, parts: list[bytes]) -> None:
    """Whatever comes: one of our errors or an interrupt that the peer reports, and a whole log."""
    peer, before = Peer(), leaves(lab)
    try:
        with pytest.raises((VitrineError, KeyboardInterrupt)):
            attend(lab, peer, b"".join(parts))
    finally:
        peer.close()
    assert leaves(lab) == before


def test_progress_is_cleaned(lab: Lab, peer: Peer) -> None:
    seen: list[tuple[str, int, int]] = []
    host = Host(peer.from_inside, peer.to_inside)
    peer.write(HELLO)
    host.hello(5.0)
    os.write(peer.out, step(phase="a\x1b[31mb\n", done=5, total=2) + pack(Kind.STOP, b""))
    with pytest.raises(MalformedInput, match="found STOP"):
        host.attend(start(lab), Desk(lab, EXPECTED), lambda *args: seen.append(args), timeout_s=5)
    assert seen == [("a?[31mb?", 5, 5)]


def test_frames_are_those_of_the_workers() -> None:
    """The channel adds no form of its own: a frame that the workers' reader refuses is refused here."""
    with pytest.raises(ChannelError):
        pack(Kind.REQUEST, b" " * ((8 << 20) + 1))
    assert max(MAX_QUESTION_BYTES.values()) < 8 << 20
    assert run.Request.__dataclass_fields__["lab"].type == "Notary"
