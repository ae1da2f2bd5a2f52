"""Witnesses: keys, cosignatures, what a witness refuses, crashes, two at once; and what a bundle gets from one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.enrol import digest_of_key
from appliance.notary import lab as notary
from appliance.notary.lab import Lab
from attest import canonical, cosignature, durable, growth, trust, witness, witnessed
from attest.checkpoint import MAX_NOTE_CHARS, Checkpoint, NoteSignature, TrustedLog, check_cosigned
from attest.cosignature import Signer
from attest.dsse import b64encode
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError, VitrineError
from attest.growth import Growth
from attest.ledger_cli import read_copy
from attest.witnessed import Witnessed
from tests.tools.lab_logs import JOB, LOCK, START, Clock, appliance_log, attest, register, sign

pytestmark = pytest.mark.usefixtures("quick")

NOW = START + timedelta(days=1)
SIGNER = cosignature.make_signer("auditor.example", bytes(range(32)))
OTHER = cosignature.make_signer("auditor.example", bytes(32))
THIRD = cosignature.make_signer("third.example", bytes(32))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "lab"
    lab = notary.create(path, now=Clock())
    for _ in range(3):
        register(lab)
    return path


@pytest.fixture
def lab(template: Path, tmp_path: Path) -> Lab:
    return notary.open_lab(Path(shutil.copytree(template, tmp_path / "lab")), now=Clock())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def logs(lab: Lab) -> tuple[TrustedLog, ...]:
    return trust.read(lab.trusted_root).logs


def head(lab: Lab) -> Checkpoint:
    return check_cosigned(lab.log.note, logs(lab))


def proof(lab: Lab, old: int) -> Growth:
    return Growth(old, tuple(lab.log.consistency_proof(old)), lab.log.note)


def cosign(
    lab: Lab, state: Path, old: int | None = None, *, signer: Signer = SIGNER, now: datetime = NOW
) -> Checkpoint:
    """The lab's checkpoint, cosigned; for the first time without `old`."""
    grown = None if old is None else proof(lab, old)
    note = witness.cosign(state, signer, head(lab), grown, logs(lab), now=now, first=old is None)
    return check_cosigned(note, logs(lab))


# --- keys and lines --------------------------------------------------------------------------------------------------


def test_keys_are_written_and_read() -> None:
    assert cosignature.parse_key(f"{SIGNER.witness}\n".encode()) == SIGNER.witness
    again = cosignature.parse_signer(f"{SIGNER.secret()}\n".encode())
    assert (again.name, again.witness) == (SIGNER.name, SIGNER.witness)
    assert "auditor.example" in repr(SIGNER)
    assert SIGNER.secret().rpartition("+")[2] not in repr(SIGNER)


def test_keys_of_other_kinds_and_altered_ones_are_refused() -> None:
    public, secret = str(SIGNER.witness), SIGNER.secret()
    kind = b64encode(b"\x01" + SIGNER.witness.public)
    seed = b64encode(b"\x04" + bytes(range(32)))
    for text in (
        f"{public.rpartition('+')[0]}+{kind}",
        secret,
        "",
        "x",
        public + "x",
        public.replace("auditor", "another"),
        public + "\n\n",
        "a b" + public,
    ):
        with pytest.raises(MalformedInput):
            cosignature.parse_key(text.encode())
    for text in (
        f"{secret.rpartition('+')[0]}+{seed}",
        public,
        secret.replace("+auditor", "+another"),
        secret.replace("PRIVATE", "PUBLIC"),
        secret[:-1],
        secret + "\0",
    ):
        with pytest.raises(MalformedInput) as caught:
            cosignature.parse_signer(text.encode())
        assert secret[-20:-2] not in str(caught.value)
    for name in ("", "a+b", "a b", "a\n", "x" * 300, "é"):
        with pytest.raises(MalformedInput):
            cosignature.make_signer(name, bytes(32))


def test_a_cosignature_is_of_one_witness_one_tree_and_one_time(lab: Lab, state: Path) -> None:
    cosigned = cosign(lab, state)
    (found,) = cosignature.check(cosigned, [SIGNER.witness, OTHER.witness])
    assert (found.witness, found.time) == (SIGNER.witness, NOW)
    assert cosignature.check(cosigned, [OTHER.witness, THIRD.witness]) == ()
    *others, line = cosigned.note.signatures
    raw = line.signature

    def check(changed: bytes) -> None:
        note = replace(cosigned.note, signatures=(*others, replace(line, signature=changed)))
        cosignature.check(replace(cosigned, note=note), [SIGNER.witness])

    for index in range(2, len(raw)):  # a time of before 1970 or after 6000 is malformed
        with pytest.raises(VitrineError):
            check(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
    for short in (raw[:-1], raw + b"\0", raw[:8], b"", bytes(8) + raw[8:], b"\xff" * 8 + raw[8:]):
        with pytest.raises(MalformedInput):
            check(short)
    with pytest.raises(VerificationError, match="witness/signature"):
        other = replace(cosigned.note, text=cosigned.note.text.replace("\n3\n", "\n4\n"))
        cosignature.check(replace(cosigned, note=other), [SIGNER.witness])


@pytest.mark.parametrize(
    ("seconds", "good"), [(0, False), (1, True), (cosignature.MAX_TIME - 1, True), (cosignature.MAX_TIME, False)]
)
def test_the_times_of_cosignatures_are_bounded(lab: Lab, seconds: int, good: bool) -> None:
    """Each is signed as it says."""
    tree = head(lab)
    message = f"cosignature/v1\ntime {seconds}\n{tree.note.text}".encode()
    line = NoteSignature(SIGNER.name, SIGNER.witness.hint, seconds.to_bytes(8, "big") + SIGNER.key.sign(message))
    signed = replace(tree, note=replace(tree.note, signatures=(*tree.note.signatures, line)))
    if good:
        (found,) = cosignature.check(signed, [SIGNER.witness])
        assert found.time.timestamp() == seconds
    else:
        with pytest.raises(MalformedInput, match="a time and 64 bytes"):
            cosignature.check(signed, [SIGNER.witness])


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_any_key_raises_our_errors_only(data: bytes) -> None:
    for read in (cosignature.parse_key, cosignature.parse_signer):
        with pytest.raises(MalformedInput):
            read(data)


# --- what a witness refuses ------------------------------------------------------------------------------------------


def test_a_log_that_grows_is_cosigned(lab: Lab, state: Path) -> None:
    cosign(lab, state)
    for more in (1, 5, 1):
        old = len(lab.log)
        for _ in range(more):
            register(lab)
        assert cosign(lab, state, old).size == old + more
    again = witness.cosign(state, SIGNER, head(lab), None, logs(lab), now=NOW + timedelta(hours=1))
    (found,) = cosignature.check(check_cosigned(again, logs(lab)), [SIGNER.witness])
    assert found.time == NOW + timedelta(hours=1)
    assert again.count("auditor.example") == 1


def refused(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(VerificationError, match=code):
        call()


def test_a_witness_has_one_line_and_writes_what_can_be_read(lab: Lab, state: Path) -> None:
    first = cosign(lab, state)
    later = NOW + timedelta(seconds=1)
    again = check_cosigned(witness.cosign(state, SIGNER, first, None, logs(lab), now=later), logs(lab))
    assert [line.name for line in again.note.signatures].count(SIGNER.name) == 1
    (remembered,) = state.glob("*.checkpoint")
    before = remembered.read_bytes()
    new = head(lab)
    filler = NoteSignature("filler", bytes(4), bytes(6000))
    while len(str(new.note)) + 8100 < MAX_NOTE_CHARS:
        new = replace(new, note=replace(new.note, signatures=(*new.note.signatures, filler)))
    rest = (MAX_NOTE_CHARS - len(str(new.note)) - 20) * 3 // 4 - 4
    last = NoteSignature("filler", bytes(4), bytes(rest // 3 * 3 + 2))
    new = replace(new, note=replace(new.note, signatures=(*new.note.signatures, last)))
    assert MAX_NOTE_CHARS - 50 < len(str(new.note)) <= MAX_NOTE_CHARS
    with pytest.raises(MalformedInput, match="at most"):
        witness.cosign(state, SIGNER, new, None, logs(lab), now=later)
    assert remembered.read_bytes() == before


def test_forks_and_older_states_are_refused_and_change_nothing(lab: Lab, state: Path, tmp_path: Path) -> None:
    saved = shutil.copytree(lab.path, tmp_path / "saved")
    register(lab)
    cosign(lab, state)
    (remembered,) = state.glob("*.checkpoint")
    before = remembered.read_bytes()
    twin = notary.open_lab(saved, now=Clock())
    refused("log/rolled-back", lambda: cosign(twin, state, 3))
    register(twin)
    refused("log/forked", lambda: cosign(twin, state, 4))
    register(twin)
    refused("log/consistency", lambda: cosign(twin, state, 4))
    refused("log/proof-start", lambda: cosign(twin, state, 3))
    register(lab)
    refused("witness/proof", lambda: witness.cosign(state, SIGNER, head(lab), None, logs(lab), now=NOW))
    refused("log/proof-end", lambda: witness.cosign(state, SIGNER, head(lab), proof(twin, 4), logs(lab), now=NOW))
    refused("witness/known-log", lambda: cosign(twin, state))
    refused("witness/clock", lambda: cosign(lab, state, 4, now=NOW - timedelta(seconds=1)))
    refused("witness/state", lambda: cosign(lab, state, 4, signer=OTHER))
    assert remembered.read_bytes() == before
    assert cosign(lab, state, 4).size == 5


def test_a_log_that_is_new_has_to_be_called_so(lab: Lab, state: Path) -> None:
    refused("witness/unknown-log", lambda: witness.cosign(state, SIGNER, head(lab), proof(lab, 0), logs(lab), now=NOW))
    cosign(lab, state)
    shutil.rmtree(state)
    state.mkdir()
    refused("witness/unknown-log", lambda: cosign(lab, state, 3))


def test_a_state_that_was_altered_is_refused(lab: Lab, state: Path) -> None:
    cosign(lab, state)
    (path,) = state.glob("*.checkpoint")
    whole = path.read_bytes()
    for other in (b"", b"\xff", whole[:-9], whole.replace(b"\n3\n", b"\n2\n"), lab.log.note.encode()):
        path.write_bytes(other)
        with pytest.raises(VitrineError):
            cosign(lab, state, 3)
    path.write_bytes(whole)
    assert cosign(lab, state, 3).size == 3


def test_two_logs_are_kept_apart(lab: Lab, state: Path, tmp_path: Path) -> None:
    other = notary.create(tmp_path / "other", now=Clock())
    assert [cosign(one, state).size for one in (lab, other)] == [3, 0]
    refused("witness/known-log", lambda: cosign(other, state))


def test_nothing_is_cosigned_that_is_not_remembered(lab: Lab, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cosign(lab, state)
    kept = {path.name: path.read_bytes() for path in state.iterdir()}
    register(lab)
    monkeypatch.setattr(os, "replace", _no_space)
    monkeypatch.setattr(Path, "replace", _no_space)
    with pytest.raises(OSError, match="No space"):
        cosign(lab, state, 3)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == kept


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def _race(lab: Path, state: Path, old: int, queue: multiprocessing.Queue[str]) -> None:
    opened = notary.open_lab(lab, now=Clock())
    try:
        cosign(opened, state, old)
    except VitrineError as error:
        queue.put(getattr(error, "code", str(error)))
    else:
        queue.put("cosigned")


def test_of_two_histories_at_once_one_is_cosigned(lab: Lab, state: Path, tmp_path: Path) -> None:
    cosign(lab, state)
    paths = [Path(shutil.copytree(lab.path, tmp_path / f"twin{number}")) for number in range(4)]
    for path in paths:
        register(notary.open_lab(path, now=Clock()))
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    racing = [context.Process(target=_race, args=(path, state, 3, queue)) for path in paths]
    for process in racing:
        process.start()
    found = sorted(queue.get(timeout=60) for _ in racing)
    for process in racing:
        process.join()
    assert found == ["cosigned", "forked", "forked", "forked"]


def test_a_witness_that_is_busy_is_waited_for(state: Path) -> None:
    lock = state / witness.LOCK
    with durable.exclusive(lock), pytest.raises(EnvironmentProblem), durable.exclusive(lock, timeout_s=0.05):
        pass


# --- a bundle --------------------------------------------------------------------------------------------------------


def run(lab: Lab, folder: Path) -> tuple[bytes, bytes]:
    """Signature and receipt of a run, as a bundle has them."""
    key = ec.generate_private_key(ec.SECP256R1())
    receipt = lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": digest_of_key(key)})
    signature, written = sign(lab, key), canonical.dump_model(receipt)
    (folder / "evidence").mkdir(parents=True)
    (folder / "bundle.sigstore.json").write_bytes(signature)
    (folder / "evidence/intent.json").write_bytes(written)
    return signature, written


def seen(lab: Lab, cosigned: Checkpoint, bundle: tuple[bytes, bytes]) -> Witnessed:
    return witnessed.make(read_copy(lab.path / "log", logs(lab)), cosigned, *bundle)


def test_a_bundle_is_seen_by_the_witnesses_that_cosigned_its_log(lab: Lab, state: Path, tmp_path: Path) -> None:
    cosign(lab, state)
    bundle = run(lab, tmp_path / "bundle")
    with pytest.raises(VerificationError, match="witness/not-in-tree"):
        seen(lab, check_cosigned(next(state.glob("*.checkpoint")).read_text(), logs(lab)), bundle)
    register(lab)
    made = seen(lab, cosign(lab, state, 3), bundle)
    assert witnessed.read(canonical.dump_model(made)) == made
    (found,) = witnessed.check(made, *bundle, logs(lab), [SIGNER.witness, THIRD.witness])
    assert (found.witness, found.time) == (SIGNER.witness, NOW)
    other = run(lab, tmp_path / "other")
    for code, changed, of, witnesses in (
        ("witness/cosignature", made, bundle, [OTHER.witness, THIRD.witness]),
        ("witness/cosignature", made, bundle, []),
        ("witness/inclusion", made, other, [SIGNER.witness]),
        ("witness/inclusion", made, (bundle[0], other[1]), [SIGNER.witness]),
        ("witness/inclusion", made.model_copy(update={"intent": made.signature}), bundle, [SIGNER.witness]),
        ("witness/inclusion", made.model_copy(update={"signature": made.intent}), bundle, [SIGNER.witness]),
        ("log/checkpoint-signer", made.model_copy(update={"checkpoint": _only(made, "auditor")}), bundle, []),
    ):
        with pytest.raises(VerificationError, match=code):
            witnessed.check(changed, *of, logs(lab), witnesses)


def test_a_witnessed_file_is_not_made_of_two_logs(lab: Lab, state: Path, tmp_path: Path) -> None:
    """Both hold the bundle's entries in their places, and went on in two ways."""
    bundle = run(lab, tmp_path / "bundle")
    twin = notary.open_lab(Path(shutil.copytree(lab.path, tmp_path / "twin")), now=Clock())
    register(lab)
    register(twin)
    cosigned = cosign(twin, state)
    with pytest.raises(VerificationError, match="log/"):
        seen(lab, cosigned, bundle)
    assert seen(twin, cosigned, bundle)


def test_a_witnessed_file_is_of_entries_that_were_cosigned(lab: Lab, state: Path, tmp_path: Path) -> None:
    twin = notary.open_lab(Path(shutil.copytree(lab.path, tmp_path / "twin")), now=Clock())
    bundle, other = run(lab, tmp_path / "bundle"), run(twin, tmp_path / "other")
    cosigned = cosign(lab, state)
    assert seen(lab, cosigned, bundle)
    with pytest.raises(VerificationError, match="witness/not-in-tree"):
        seen(lab, cosigned, other)  # in the same places of another log
    # The signature is the first entry after the tree, its intent the last one in it.
    key = ec.generate_private_key(ec.SECP256R1())
    receipt = lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": digest_of_key(key)})
    between = cosign(lab, state, cosigned.size)
    late = (sign(lab, key), canonical.dump_model(receipt))
    with pytest.raises(VerificationError, match="witness/not-in-tree"):
        seen(lab, between, late)


def _only(made: Witnessed, name: str) -> str:
    text, _, lines = made.checkpoint.partition("\n\n")
    return f"{text}\n\n" + "".join(line + "\n" for line in lines.splitlines() if name in line)


def test_no_bit_of_a_witnessed_file_can_change(lab: Lab, state: Path, tmp_path: Path) -> None:
    bundle = run(lab, tmp_path / "bundle")
    whole = canonical.dump_model(seen(lab, cosign(lab, state), bundle))
    for at in range(0, len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(VitrineError):
            witnessed.check(witnessed.read(changed), *bundle, logs(lab), [SIGNER.witness])
            pytest.fail(f"byte {at} does not matter")


# --- commands --------------------------------------------------------------------------------------------------------


def test_an_auditor_is_a_witness_over_files(lab: Lab, tmp_path: Path) -> None:
    root, folder = lab.path / "public/trusted_root.json", tmp_path
    for name in ("one", "two"):
        assert attest("witness", "keygen", f"{name}.example", "--out", folder / name)[0] == 0
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert attest("witness", "keygen", "one.example", "--out", folder / "one")[0] == 1
    (folder / "three.pub").write_text("somebody's")
    assert attest("witness", "keygen", "three.example", "--out", folder / "three")[0] == 1
    assert not (folder / "three").exists()  # no private key whose public one is nowhere

    def lab_says(command: str, out: str, *more: object) -> Path:
        code, text, error = appliance_log(command, *more, "--lab", lab.path, "--out", folder / out)
        assert code == 0, (text, error)
        return folder / out

    def cosigns(who: str, checkpoint: Path, out: str, *more: object) -> tuple[int, str]:
        keys = ("--key", folder / who, "--state", folder / f"{who}.state", "--trust", root)
        code, _, error = attest("witness", "cosign", checkpoint, *keys, "--out", folder / out, *more)
        return code, getattr(error, "code", "")

    kept = lab_says("checkpoint", "kept")
    assert cosigns("one", kept, "kept.one") == (10, "unknown-log")
    assert cosigns("one", kept, "kept.one", "--first") == (0, "")
    assert cosigns("one", kept, "kept.one") == (1, "")
    run(lab, folder / "bundle")
    now = lab_says("checkpoint", "now")
    assert cosigns("one", now, "now.one") == (10, "proof")
    assert cosigns("one", now, "now.one", "--proof", lab_says("prove", "grown", "--old", 3)) == (0, "")
    register(lab)
    # The second witness adds its line to the same tree, though the log went on.
    assert cosigns("two", folder / "now.one", "now.both", "--first") == (0, "")
    both = lab_says("witnessed", "bundle.witnessed", folder / "bundle", "--cosigned", folder / "now.both")
    assert [name in both.read_text() for name in ("one.example", "two.example")] == [True, True]
    keys = [cosignature.parse_key((folder / f"{name}.pub").read_bytes()) for name in ("one", "two")]
    bundle = [(folder / "bundle" / name).read_bytes() for name in ("bundle.sigstore.json", "evidence/intent.json")]
    found = witnessed.check(witnessed.read(both.read_bytes()), bundle[0], bundle[1], logs(lab), keys)
    assert [one.witness.name for one in found] == ["one.example", "two.example"]
    # What a witness cosigned is a checkpoint as any other.
    assert attest("consistency", folder / "now.both", lab.path / "log", "--trust", root)[0] == 0
    proved = lab_says("prove", "to-both", "--old", 3, "--new", folder / "now.both")
    assert growth.parse(proved.read_bytes()).note == (folder / "now.both").read_text()
    assert attest("consistency", kept, folder / "now.both", "--proof", proved, "--trust", root)[0] == 0
    assert attest("verify", folder / "bundle", "--trust", root, "--witnessed", both)[0] == 2
    assert abs((found[0].time - datetime.now(UTC)).total_seconds()) < 600
