"""The channel through a wall: hostile peers on both sides, one clear error each, and a log never half written."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import run
from appliance.enclave import delivery
from appliance.enclave.channel import EnclaveFailure, Host, Service, Start
from appliance.enrol import digest_of_key
from appliance.frames import HEADER, ChannelError, Kind, Reader, pack
from appliance.notary import lab as labs
from appliance.notary.desk import Desk, Expected
from appliance.notary.lab import Lab
from appliance.notary.protocol import MAX_QUESTION_BYTES, ORDER, Enrolment, Intent, Notary, Register
from appliance.notary.remote import RemoteNotary
from attest import canonical, dsse, statement, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError, VitrineError
from attest.eventlog import EventLog, LockEvent, measurement
from attest.manifest import ExecutionManifest
from attest.statement import Statement
from tests.conftest import Made, now, quiet

JOB, LOCK, OTHER = (digest_of(name) for name in (b"job", b"lock", b"other"))
EXPECTED = Expected(job_digest=JOB, nonce=None, wall="container")
CHALLENGE = "5c" * 32
KEY = ec.generate_private_key(ec.SECP256R1())
LOG = EventLog().append(LockEvent(digest=LOCK, size_bytes=1, version=1))
MEASUREMENT = measurement(LOG.registers)
SHOWN = Enrolment(log=LOG.dump())
"""What a run without hardware that speaks for it shows of itself."""


def entries(lab: Lab) -> int:
    """How many leaves the lab's log holds, as somebody finds it who opens the lab anew: every check of it passes."""
    return len(labs.open_lab(lab.path, now=now).log)


def promises(lab: Lab) -> int:
    """How many certificates it promised."""
    return len(labs.open_lab(lab.path, now=now).ctlog)


def leaves(lab: Lab) -> int:
    """The same, as the open lab finds it: quicker."""
    with lab.log.locked():
        return len(lab.log)


def register(**changes: Any) -> bytes:
    question = Register(intent=Intent.model_validate(intent(JOB, LOCK) | changes), enrolment=SHOWN)
    return canonical.dump_model(question)


def intent(job: str, lock: str, nonce: str | None = None) -> dict[str, Any]:
    """The intent of a run whose boot key is `KEY`."""
    return {"job_digest": job, "lock_digest": lock, "key_digest": digest_of_key(KEY), "nonce": nonce}


def conclude(lab: Lab, key: ec.EllipticCurvePrivateKey | None = None, identity: str | None = None) -> bytes:
    notary = RemoteNotary(lab.name, b"{}", CHALLENGE, asked := Asked())
    with pytest.raises(StopAskingError):
        notary.conclude((key or KEY).public_key(), identity or lab.identity(MEASUREMENT), b"{}", "text/plain", b"s")
    return asked.question


class StopAskingError(Exception):
    """The question is known now."""


class Asked:
    """Remembers a question in place of sending it."""

    question = b""

    def __call__(self, question: bytes) -> bytes:
        self.question = question
        raise StopAskingError


# --- the desk --------------------------------------------------------------------------------------------------------


def test_both_sides_speak_of_the_same_notary(lab: Lab) -> None:
    """The lab itself and its proxy are both what a run asks."""
    notaries: list[Notary] = [lab, RemoteNotary(lab.name, lab.trusted_root, CHALLENGE, Desk(lab, EXPECTED).answer)]
    assert [notary.trusted_root for notary in notaries] == [lab.trusted_root] * 2
    assert [notary.identity("0" * 64) for notary in notaries] == [lab.identity("0" * 64)] * 2


def test_whole_run_over_the_wall_is_the_one_of_the_lab(made: Made) -> None:
    """A signed statement of a real run, made anew through a desk: the bundle verifies as before."""
    files, old = read_bundle(made.bundle), verify.verify(read_bundle(made.bundle), made.trusted_root)
    expected = Expected(job_digest=old.manifest.job.digest, nonce=old.manifest.job.nonce, wall="process")
    desk = Desk(made.lab, expected)
    notary = RemoteNotary(made.lab.name, made.trusted_root, CHALLENGE, desk.answer)
    registered = notary.enrol(
        intent(expected.job_digest, old.manifest.lock.digest, expected.nonce), Enrolment(log=files[verify.BOOT])
    )
    receipt = registered.receipt
    assert bytes.fromhex(registered.salt_key) == made.lab.salt_key(expected.job_digest)
    files[verify.INTENT] = canonical.dump_model(receipt)
    payload = again(files, receipt.intent.attempt, receipt.log_index, receipt.intent.time)
    signature = KEY.sign(dsse.pae(statement.PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    files[verify.SIGNATURE] = notary.conclude(
        KEY.public_key(), old.identity, payload, statement.PAYLOAD_TYPE, signature
    )
    assert desk.done
    assert verify.verify(files, made.trusted_root).manifest.job.attempt == receipt.intent.attempt


def again(files: dict[str, bytes], attempt: int, index: int, started: str) -> bytes:
    """The statement in `files`, about another attempt."""
    from attest import trust

    root = files[verify.TRUST]
    payload = trust.verify_signature(files[verify.SIGNATURE], root, identity="https://*").payload
    value = canonical.loads(payload)
    predicate = value["predicate"]
    predicate["job"] |= {"attempt": attempt, "intent_index": index}
    predicate |= {"started": started, "ended": max(started, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))}
    for entry in predicate["files"]:
        if entry["name"] == verify.INTENT:
            entry |= {"digest": digest_of(files[verify.INTENT]), "size_bytes": len(files[verify.INTENT])}
    return canonical.dump_model(canonical.validate(Statement, value, "statement"))


@pytest.mark.parametrize(
    ("questions", "code"),
    [
        ([b'{"call":"conclude"}'], "order"),
        ([register(), register()], "order"),
        ([register(job_digest=OTHER)], "job"),
        ([register(nonce="00" * 16)], "nonce"),
        ([b'{"call":"open-the-door"}'], "order"),
    ],
)
def test_question_out_of_place_closes_the_desk(lab: Lab, questions: list[bytes], code: str) -> None:
    desk, before = Desk(lab, EXPECTED), entries(lab)
    for question in questions[:-1]:
        desk.answer(question)
    with pytest.raises(VerificationError) as caught:
        desk.answer(questions[-1])
    assert (caught.value.layer, caught.value.code) == ("notary", code)
    for question in (register(), b'{"call":"conclude"}'):
        with pytest.raises(VerificationError, match="notary/closed"):
            desk.answer(question)
    assert entries(lab) - before == len(questions[:1]) - (len(questions) == 1)


def test_lock_and_measurement_that_were_handed_in_are_the_only_ones(lab: Lab) -> None:
    expected = Expected(JOB, None, "container", lock_digest=LOCK, measurement=MEASUREMENT)
    with pytest.raises(VerificationError, match="notary/measurement"):
        Desk(lab, replace(expected, measurement="ab" * 32)).answer(register())
    with pytest.raises(VerificationError, match="notary/lock"):
        Desk(lab, expected).answer(register(lock_digest=OTHER))
    desk = Desk(lab, expected)
    desk.answer(register())
    with pytest.raises(VerificationError, match="notary/identity"):
        desk.answer(conclude(lab, identity=lab.identity("cd" * 32)))


def test_key_that_is_not_ours_to_certify_is_refused(lab: Lab) -> None:
    refused: list[tuple[ec.EllipticCurvePrivateKey, str | None, str]] = [
        (ec.generate_private_key(ec.SECP384R1()), None, "P-256"),
        (ec.generate_private_key(ec.SECP256R1()), None, "notary/key"),
        (KEY, "https://other.example/appliance/" + "0" * 64, "notary/identity"),
    ]
    for key, identity, words in refused:
        desk = Desk(lab, EXPECTED)
        desk.answer(register())
        with pytest.raises(VitrineError, match=words):
            desk.answer(conclude(lab, key, identity))


@pytest.mark.parametrize("change", ["job", "attempt", "wall", "lock", "registers", "signature", "type", "policy"])
def test_statement_about_anything_else_is_not_logged(made: Made, change: str) -> None:
    files, old = read_bundle(made.bundle), verify.verify(read_bundle(made.bundle), made.trusted_root)
    manifest = old.manifest
    accept = refuse if change == "policy" else None
    desk = Desk(made.lab, Expected(manifest.job.digest, manifest.job.nonce, "process", accept=accept))
    notary = RemoteNotary(made.lab.name, made.trusted_root, CHALLENGE, desk.answer)
    receipt = notary.enrol(
        intent(manifest.job.digest, manifest.lock.digest, manifest.job.nonce), Enrolment(log=files[verify.BOOT])
    ).receipt
    files[verify.INTENT] = canonical.dump_model(receipt)
    value = canonical.loads(again(files, receipt.intent.attempt, receipt.log_index, receipt.intent.time))
    predicate = value["predicate"]
    if change == "job":
        predicate["job"]["digest"] = OTHER
    elif change == "attempt":
        predicate["job"]["attempt"] += 1
    elif change == "wall":
        predicate["wall"] = "vm"
    elif change == "registers":
        predicate["boot"]["registers"]["model"] = "0" * 64
    elif change == "lock":
        predicate["lock"]["digest"] = OTHER
    payload = canonical.dumps(value)
    signed = payload + b" " if change == "signature" else payload
    signature = KEY.sign(dsse.pae(statement.PAYLOAD_TYPE, signed), ec.ECDSA(hashes.SHA256()))
    kind = "text/plain" if change == "type" else statement.PAYLOAD_TYPE
    before, promised = entries(made.lab), promises(made.lab)
    with pytest.raises(VitrineError):
        notary.conclude(KEY.public_key(), old.identity, payload, kind, signature)
    assert (entries(made.lab), promises(made.lab)) == (before, promised)


def refuse(manifest: ExecutionManifest, _shown: Register) -> None:
    """A policy that no statement meets."""
    raise VerificationError("policy", "complete", expected="another run", found=manifest.job.name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 1),
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
        st.sampled_from(ORDER).map(lambda call: canonical.dumps({"call": call})),
        st.sampled_from(ORDER).map(lambda call: b'{"call":"' + call.encode() + b'","intent":' + b"[" * 200),
    ),
)
def test_garbage_is_refused_with_our_errors(lab: Lab, before: int, data: bytes) -> None:
    desk = Desk(lab, EXPECTED)
    if before:
        desk.answer(register())
    size = leaves(lab)
    with pytest.raises(VitrineError):
        desk.answer(data)
    assert leaves(lab) == size
    assert not desk.done


@pytest.mark.parametrize("call", ORDER)
def test_question_that_is_too_long_is_not_parsed(lab: Lab, call: str) -> None:
    desk = Desk(lab, EXPECTED)
    if call != ORDER[0]:
        desk.answer(register())
    with pytest.raises(MalformedInput, match="at most"):
        desk.answer(b" " * (MAX_QUESTION_BYTES[call] + 1))  # type: ignore[index]


# --- the host's end --------------------------------------------------------------------------------------------------


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


def start(lab: Lab) -> Start:
    return Start(
        wall="container", container=None, job="/in/job.yaml", engine="/e", out="/out/b", deliver="folder",
        lab=lab.name, trusted_root=lab.trusted_root,
    )  # fmt: skip


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


# --- the inside's end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b'{"bundle":""}',
        b'{"bundle":"zz=="}',
        b'{"bundle":1}',
        b'{"bundle":"AA==","more":1}',
        b"\xff",
    ],
)
def test_inside_refuses_a_wrong_answer(lab: Lab, answer: bytes) -> None:
    with pytest.raises(MalformedInput, match="notary answer"):
        RemoteNotary(lab.name, lab.trusted_root, CHALLENGE, lambda _question: answer).conclude(
            KEY.public_key(), lab.identity("0" * 64), b"p", "t", b"s"
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_inside_survives_any_answer(lab: Lab, answer: bytes) -> None:
    notary = RemoteNotary(lab.name, lab.trusted_root, CHALLENGE, lambda _question: answer)
    for call in (
        lambda: notary.enrol(intent(JOB, LOCK), SHOWN),
        lambda: notary.conclude(KEY.public_key(), lab.identity("0" * 64), b"p", "t", b"s"),
    ):
        with pytest.raises(MalformedInput):
            call()


def inside(script: Callable[[Reader, int], None], *, timeout_s: float = 60.0) -> tuple[int, str]:
    """Run the real inside as a process against a host that does what `script` does: exit status, standard error."""
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "appliance.enclave.inside"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        script(Reader(process.stdout.fileno()), process.stdin.fileno())
        process.stdin.close()
        process.stdin = None
        _, errors = process.communicate(timeout=timeout_s)
        return process.returncode, errors.decode()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "config",
    [pack(Kind.STOP, b""), pack(Kind.CONFIG, b"{}"), pack(Kind.CONFIG, b"\xff"), HEADER.pack(1 << 31, 1, 0, 0)],
)
def test_inside_reports_a_host_that_breaks_the_form(config: bytes) -> None:
    reports: list[dict[str, Any]] = []

    def script(reader: Reader, out: int) -> None:
        assert reader.receive(20).kind == Kind.HELLO
        os.write(out, config)
        frame = reader.receive(20)
        assert frame.kind == Kind.FAILURE
        reports.append(canonical.loads(frame.payload))

    status, _ = inside(script)
    assert status in (1, 30)
    assert reports[0]["exit"] == status
    assert "expected" in reports[0]["message"] or "required" in reports[0]["message"]


def test_inside_ends_when_the_host_is_gone() -> None:
    def script(reader: Reader, _out: int) -> None:
        assert reader.receive(20).kind == Kind.HELLO

    status, _ = inside(script, timeout_s=10)
    assert status == 1


def test_inside_reports_a_missing_job_with_its_exit_code(lab: Lab) -> None:
    reports: list[dict[str, Any]] = []

    def script(reader: Reader, out: int) -> None:
        reader.receive(20)
        os.write(out, pack(Kind.CONFIG, canonical.dump_model(start(lab))))
        reports.append(canonical.loads(reader.receive(20).payload))

    assert inside(script)[0] == 30
    assert reports == [{"code": "MalformedInput", "exit": 30, "message": reports[0]["message"]}]
    assert "/in/job.yaml" in reports[0]["message"]


# --- delivery --------------------------------------------------------------------------------------------------------


def test_bundle_over_the_channel_is_the_same(made: Made) -> None:
    inbox = delivery.Inbox()
    delivery.send_bundle(made.bundle, lambda _kind, payload, _route: inbox.take(payload))
    assert inbox.bundle() == read_bundle(made.bundle) == delivery.collect(made.bundle)
    assert inbox.incomplete() == {}


def test_what_an_incomplete_run_left_comes_over_the_channel(tmp_path: Path) -> None:
    folder = tmp_path / "bundle.incomplete"
    folder.mkdir()
    left = {"failure.txt": b"why", "transcript.jsonl": b"{}"}
    for name, data in (left | {"other": b"covert"}).items():
        (folder / name).write_bytes(data)
    inbox = delivery.Inbox()
    delivery.send_incomplete(tmp_path / "bundle", lambda _kind, payload, _route: inbox.take(payload))
    assert inbox.incomplete() == delivery.collect_incomplete(folder) == left


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"results.json"],
        [b"../results.json\0x"],
        [b"evidence/more.json\0x"],
        [b"results.json\0x", b"evidence/job.json\0x"],
        [b"results.json\0" + b"x" * 101],
        [b"results.json\0" + b"x" * 60, b"results.json\0" + b"x" * 60],
        [b"\xff\0x"],
    ],
)
def test_pieces_out_of_bounds_are_refused(pieces: list[bytes]) -> None:
    inbox = delivery.Inbox(max_bytes=100)
    with pytest.raises(MalformedInput):
        for piece in pieces:
            inbox.take(piece)
        raise AssertionError("taken")


def test_missing_file_is_no_bundle() -> None:
    inbox = delivery.Inbox()
    inbox.take(b"results.json\0{}")
    with pytest.raises(MalformedInput, match="missing are"):
        inbox.bundle()


@pytest.mark.parametrize("trick", ["link", "folder", "pipe", "link-above", "huge"])
def test_output_folder_full_of_tricks_gives_nothing_away(made: Made, tmp_path: Path, trick: str) -> None:
    import shutil

    secret = tmp_path / "secret"
    secret.write_text("the host's")
    out = tmp_path / "bundle"
    shutil.copytree(made.bundle, out)
    target = out / "results.json"
    if trick == "link-above":
        shutil.move(out / "evidence", tmp_path / "evidence")
        (out / "evidence").symlink_to(tmp_path / "evidence")
    else:
        target.unlink()
    if trick == "link":
        target.symlink_to(secret)
    elif trick == "folder":
        target.mkdir()
    elif trick == "pipe":
        os.mkfifo(target)
    elif trick == "huge":
        with target.open("wb") as file:
            file.truncate(delivery.MAX_DELIVERY_BYTES + 1)
    with pytest.raises(MalformedInput):
        delivery.collect(out)


def test_other_files_stay_behind(made: Made, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made.bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "notes.txt").write_text("covert")
    (tmp_path / "bundle" / "evidence" / "more.json").write_text("{}")
    assert delivery.collect(tmp_path / "bundle") == read_bundle(made.bundle)


def test_frames_are_those_of_the_workers() -> None:
    """The channel adds no form of its own: a frame that the workers' reader refuses is refused here."""
    with pytest.raises(ChannelError):
        pack(Kind.REQUEST, b" " * ((8 << 20) + 1))
    assert max(MAX_QUESTION_BYTES.values()) < 8 << 20
    assert run.Request.__dataclass_fields__["lab"].type == "Notary"
