"""The lab's side of a wall: hostile questions, one clear error each, a log never half written, and no other bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.notary.desk import Desk, Expected
from appliance.notary.lab import Lab
from appliance.notary.protocol import MAX_QUESTION_BYTES, ORDER, Enrolment, Notary, Register
from appliance.notary.remote import RemoteNotary
from attest import canonical, dsse, statement, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError, VitrineError
from attest.manifest import ExecutionManifest
from attest.statement import Statement
from tests.conftest import Made
from tests.tools.questions import (
    CHALLENGE,
    EXPECTED,
    JOB,
    KEY,
    LOCK,
    MEASUREMENT,
    OTHER,
    conclude,
    entries,
    intent,
    leaves,
    promises,
    register,
)


def test_both_sides_speak_of_the_same_notary(lab: Lab) -> None:
    """The lab itself and its proxy are both what a run asks."""
    notaries: list[Notary] = [lab, RemoteNotary(lab.name, lab.trusted_root, CHALLENGE, Desk(lab, EXPECTED).answer)]
    assert [notary.trusted_root for notary in notaries] == [lab.trusted_root] * 2
    assert [notary.identity("0" * 64) for notary in notaries] == [lab.identity("0" * 64)] * 2


@pytest.mark.parametrize("resumed", [False, True])
def test_whole_run_over_the_wall_is_the_one_of_the_lab(made: Made, resumed: bool) -> None:
    """A signed statement of a real run, made anew through a desk: the bundle verifies as before.

    One that names an earlier attempt does where the run was to go on with one.
    """
    files, old = read_bundle(made.bundle), verify.verify(read_bundle(made.bundle), made.trusted_root)
    job = old.manifest.job
    expected = Expected(job_digest=job.digest, nonce=job.nonce, wall="process", resumed=resumed)
    desk = Desk(made.lab, expected)
    notary = RemoteNotary(made.lab.name, made.trusted_root, CHALLENGE, desk.answer)
    registered = notary.enrol(
        intent(expected.job_digest, old.manifest.lock.digest, expected.nonce), Enrolment(log=files[verify.BOOT])
    )
    receipt = registered.receipt
    assert bytes.fromhex(registered.salt_key) == made.lab.salt_key(expected.job_digest)
    files[verify.INTENT] = canonical.dump_model(receipt)
    payload = again(files, receipt.intent.attempt, receipt.log_index, receipt.intent.time)
    if resumed:
        value = canonical.loads(payload)
        value["predicate"]["resumed"] = [{"attempt": 1, "samples": 3}]
        payload = canonical.dumps(value)
    signature = KEY.sign(dsse.pae(statement.PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    files[verify.SIGNATURE] = notary.conclude(
        KEY.public_key(), old.identity, payload, statement.PAYLOAD_TYPE, signature
    )
    assert desk.done
    assert verify.verify(files, made.trusted_root).manifest.job.attempt == receipt.intent.attempt
    desk.check_delivered(files)
    for name, data, code in (
        (verify.SIGNATURE, read_bundle(made.bundle)[verify.SIGNATURE], "notary/delivered"),
        (verify.SIGNATURE, files[verify.SIGNATURE] + b"\n", "notary/delivered"),
        (verify.RESULTS, files[verify.RESULTS] + b"\n", "files/digest"),
        (verify.START, b"{}", "files/evidence"),
    ):
        with pytest.raises(VerificationError, match=code):
            desk.check_delivered(files | {name: data})


def test_nothing_is_delivered_that_was_not_assembled(made: Made) -> None:
    with pytest.raises(RuntimeError, match="expected a bundle to be assembled"):
        Desk(made.lab, EXPECTED).check_delivered(read_bundle(made.bundle))


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


@pytest.mark.parametrize(
    "change", ["job", "attempt", "wall", "lock", "registers", "signature", "type", "policy", "resumed"]
)
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
    elif change == "resumed":  # by a run that was given nothing to go on with
        predicate["resumed"] = [{"attempt": 1, "samples": 1}]
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
