"""A lab that signs what it likes is caught, check by check: each case leaves every other part of its bundle right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.notary import lab as labs
from attest import canonical, eventlog, lockfile, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.errors import Exit, MalformedInput, VerificationError, VitrineError
from attest.policy import Policy
from tests.conftest import Made, now
from tests.tools.resign import Change, Lines, lie, resign, retell

pytestmark = pytest.mark.engine
DIGEST = "sha256:" + "0" * 64


def code_of(files: dict[str, bytes], made: Made) -> str:
    """Layer and code of what refuses the bundle, or `malformed` and what is."""
    with pytest.raises(VitrineError) as caught:
        verify.verify(files, made.trusted_root)
    error = caught.value
    if isinstance(error, VerificationError):
        return f"{error.layer}/{error.code}"
    assert isinstance(error, MalformedInput)
    assert error.exit_code is Exit.MALFORMED
    return f"malformed {error.what}"


def test_signed_anew_without_a_change_the_bundle_verifies(made: Made) -> None:
    assert verify.verify(resign(made), made.trusted_root).manifest.counts.run == 10
    assert verify.verify(resign(made, retell(lambda _lines: None)), made.trusted_root).manifest.counts.run == 10


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("suites.0.scores.0.estimate.value", "1.000001", "results/suites"),
        ("suites.0.failed", 1, "results/suites"),
        ("claims.0.value", "0.123456", "results/claims"),
        ("counts.planned", 11, "results/counts"),
        ("complete", False, "results/complete"),
        ("ended_by", "interrupted", "transcript/closing"),
        ("wall", "container", "malformed statement"),
        ("wall", "vm", "malformed statement"),
        ("evidence", ["tpm"], "files/list"),
        ("container", {"image": DIGEST, "plan": DIGEST, "runtime": "runc"}, "malformed statement"),
        ("job.attempt", 99, "intent/attempt"),
        ("job.nonce", "ff" * 16, "job/nonce"),
        ("job.digest", DIGEST, "transcript/opening"),
        ("job.name", "other", "job/name"),
        ("job.intent_index", 12345, "intent/index"),
        ("lock.digest", DIGEST, "lock/digest"),
        ("lock.version", 9, "lock/version"),
        ("engine.library", DIGEST, "engine/library"),
        ("engine.record", DIGEST, "engine/record"),
        ("engine.profile", "portable", "engine/profile"),
        ("boot.registers.model", "0" * 64, "boot/registers"),
        ("seal.0.plan", DIGEST, "seal/sections"),
        ("seal.0.probes", 1000, "seal/sections"),
        ("seal.1.level", "partial", "seal/sections"),
        ("numerics.threads", 7, "job/numerics"),
        ("determinism.0.model", "other", "numerics/self-tests"),
        ("determinism.0.cells", [], "malformed self-test of model organism"),
        ("determinism.0.cells.3.differing", 1, "numerics/self-test"),
        ("started", "2020-01-01T00:00:00Z", "intent/time"),
        ("ended", "2099-01-01T00:00:00Z", "intent/times"),
        ("plan.0.samples", 5, "transcript/opening"),
        ("results_digest", DIGEST, "manifest/results-digest"),
        ("transcript.root", DIGEST, "manifest/transcript-root"),
        ("transcript.head", DIGEST, "manifest/transcript-head"),
        ("transcript.samples", 11, "manifest/transcript-samples"),
        ("files.0.digest", DIGEST, "files/digest"),
        ("files.0.size_bytes", 1, "files/digest"),
        ("files.0.name", "evidence/other.json", "files/list"),
    ],
)
def test_a_false_manifest(made: Made, path: str, value: object, code: str) -> None:
    assert code_of(resign(made, lie(path, value)), made) == code


def file(name: str, edit: Callable[[bytes], bytes]) -> Change:
    """A change of a file's bytes."""

    def change(_signed: Any, files: dict[str, bytes]) -> None:
        files[name] = edit(files[name])

    return change


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(signed: Any, files: dict[str, bytes]) -> None:
        for one in changes:
            one(signed, files)

    return change


def subject(number: int, **fields: object) -> Change:
    """A change of one of the statement's subjects."""
    return lambda signed, _files: signed["subject"][number].update(fields)


def another_job(**fields: Any) -> Change:
    """Another job, named by manifest and transcript; not by the intent, nor by the results."""

    def change(signed: Any, files: dict[str, bytes]) -> None:
        predicate, value = signed["predicate"], json.loads(files[verify.JOB])
        value["numerics"] |= fields
        files[verify.JOB] = canonical.dumps(value)
        predicate["numerics"] = value["numerics"]
        predicate["job"]["digest"] = digest_of(files[verify.JOB])
        retell(lambda lines: lines[0][1].update(job=predicate["job"]["digest"]))(signed, files)

    return change


def booted_more(signed: Any, files: dict[str, bytes]) -> None:
    """A boot of the same lock that measured one thing more."""
    log = eventlog.parse(files[verify.BOOT]).append(eventlog.DataEvent(name="more", data={}))
    files[verify.BOOT] = log.dump()
    signed["predicate"]["boot"]["registers"] = log.registers


def shorter_report(signed: Any, files: dict[str, bytes]) -> None:
    """The model's worker is left out of the seal report."""
    value = json.loads(files[verify.SEAL])
    del value["workers"][1:], signed["predicate"]["seal"][1:]
    files[verify.SEAL] = canonical.dumps(value)


def with_programs(signed: Any, files: dict[str, bytes]) -> None:
    """The model's seal once more, called that of programs."""
    value = json.loads(files[verify.SEAL])
    value["workers"].append(value["workers"][1] | {"worker": "program"})
    signed["predicate"]["seal"].append(signed["predicate"]["seal"][1] | {"worker": "program"})
    files[verify.SEAL] = canonical.dumps(value)


def other_results(signed: Any, files: dict[str, bytes]) -> None:
    """Results that do not follow from the records, signed."""
    value = json.loads(files[verify.RESULTS])
    value["suites"][0]["run"] -= 1
    files[verify.RESULTS] = canonical.dumps(value)
    signed["predicate"]["results_digest"] = digest_of(files[verify.RESULTS])
    signed["subject"][0]["digest"]["sha256"] = digest_of(files[verify.RESULTS]).removeprefix("sha256:")


def swap(lines: Lines) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def once_more(lines: Lines) -> None:
    lines.insert(-1, lines[-2])


def unscored(lines: Lines) -> None:
    lines[1][1]["scores"] = {}


def failed(lines: Lines) -> None:
    record = lines[1][1]
    record["scores"], record["error"] = {}, {"code": "deadline", "message": "it took too long"}


def ended(signed: Any, files: dict[str, bytes]) -> None:
    """All samples are there, and yet the run is said to have failed."""
    signed["predicate"]["ended_by"] = "failed"
    retell(lambda lines: lines[-1][1].update(ended_by="failed"))(signed, files)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (subject(0, name="other.json"), "statement/subjects"),
        (subject(1, name="root"), "statement/subjects"),
        (subject(0, digest={"sha256": "0" * 64}), "statement/results-subject"),
        (subject(1, digest={"sha256": "0" * 64}), "statement/root-subject"),
        (file(verify.JOB, lambda data: data.replace(b'"seed":7', b'"seed":8')), "job/digest"),
        (file(verify.JOB, lambda data: b" " + data), "job/bytes"),
        (another_job(profile="portable"), "engine/job-profile"),
        (another_job(threads=2), "intent/job"),
        (booted_more, "boot/lock"),
        (file(verify.ENGINE, lambda data: data + b" "), "engine/record-bytes"),
        (shorter_report, "seal/workers"),
        (with_programs, "seal/kind"),
        (other_results, "results/bytes"),
        (ended, "results/complete-end"),
        (retell(swap), "results/order"),
        (retell(once_more), "results/order"),
        (retell(unscored), "results/scorers"),
        (retell(failed), "results/bytes"),
        (retell(lambda lines: lines.pop()), "transcript/closing"),
    ],
)
def test_a_false_file_or_subject(made: Made, change: Change, code: str) -> None:
    assert code_of(resign(made, change), made) == code


@pytest.mark.parametrize(("contract", "code"), [("exact", "numerics/self-test"), ("reported", "results/bytes")])
def test_numerics_have_to_be_exact_where_the_job_says_so(made: Made, contract: str, code: str) -> None:
    """The results name the true job, so that a job that does not ask for that is refused for them."""
    value = json.loads((made.bundle / verify.JOB).read_bytes())
    value["numerics"]["contract"] = contract
    change = both(another_job(contract=contract), lie("determinism.0.cells.3.differing", 1))
    assert code_of(resign(made, change, intent={"job_digest": digest_of(canonical.dumps(value))}), made) == code


def test_what_the_caller_knows_is_compared_and_told(made: Made) -> None:
    files = read_bundle(made.bundle)
    for known, sentence in (
        ({"nonce": "00112233445566778899AABBCCDDEEFF"}, "the run answers your nonce"),
        ({"lock": files[verify.LOCK]}, "those of the lockfile that you gave"),
    ):
        for fields in ({}, known):
            found = verify.verify(files, made.trusted_root, **fields)  # type: ignore[arg-type]
            assert any(sentence in line for line in found.proven) == bool(fields)
    with pytest.raises(VerificationError, match="policy/witnesses"):
        verify.verify(files, made.trusted_root, policy=Policy(required_witnesses=1))
    with pytest.raises(MalformedInput, match="witnessed"):
        verify.verify(files, made.trusted_root, witnessed=b"{}")


def test_other_forms_of_the_statement(made: Made) -> None:
    assert code_of(resign(made, spell=lambda signed: json.dumps(signed).encode()), made) == "malformed statement"
    assert code_of(resign(made, payload_type="application/json"), made) == "statement/payload-type"


def test_rows_that_are_out_of_order_are_named(made: Made) -> None:
    for edit, expected in ((swap, "('organism', 'addition', 1)"), (once_more, "no more rows")):
        with pytest.raises(VerificationError) as caught:
            verify.verify(resign(made, retell(edit)), made.trusted_root)
        assert caught.value.expected == expected


@pytest.mark.parametrize(
    ("intent", "code"),
    [
        ({"job_digest": DIGEST}, "intent/job"),
        ({"lock_digest": DIGEST}, "intent/lock"),
        ({"key_digest": DIGEST}, "intent/key"),
        ({"nonce": "ff" * 16}, "intent/nonce"),
    ],
)
def test_an_intent_of_another_run(made: Made, intent: dict[str, str], code: str) -> None:
    assert code_of(resign(made, intent=intent), made) == code


@pytest.mark.parametrize("later", [0, 1])
def test_an_intent_that_was_not_logged_before_the_signature(made: Made, tmp_path: Path, later: int) -> None:
    """A lab that keeps two logs with one key registers in one, and signs in the other."""
    shutil.copytree(made.lab.path, tmp_path / "lab")
    other = labs.open_lab(tmp_path / "lab", now=now)
    for _ in range(later):
        other.register({"job_digest": DIGEST, "lock_digest": DIGEST, "key_digest": DIGEST})
    assert code_of(resign(made, registrar=other), made) == "intent/order"


def test_an_identity_of_another_boot(made: Made) -> None:
    assert code_of(resign(made, identity=made.lab.identity("0" * 64)), made) == "identity/measurement"


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        ("engine", "libllama.so", "engine/library"),
        ("engine-record", "record.json", "engine/record"),
        ("policy", "seccomp-eval", "seal/seccomp-policy"),
    ],
)
def test_a_lock_that_does_not_pin_what_ran(made: Made, kind: str, name: str, code: str) -> None:
    """The boot follows it, and so do certificate and intent."""
    lock = lockfile.read((made.bundle / verify.LOCK).read_bytes())
    kept = [item for item in lock.artifacts if (item.kind, item.name) != (kind, name)]
    assert len(kept) == len(lock.artifacts) - 1
    assert code_of(relocked(made, lockfile.make(lock.numerics, kept)), made) == code


def test_an_engine_record_that_is_no_object(made: Made) -> None:
    lock = lockfile.read((made.bundle / verify.LOCK).read_bytes())
    record = {"digest": digest_of(b"[]"), "size_bytes": 2}
    pinned = [item.model_copy(update=record) if item.kind == "engine-record" else item for item in lock.artifacts]

    def change(signed: Any, files: dict[str, bytes]) -> None:
        files[verify.ENGINE] = b"[]"
        signed["predicate"]["engine"]["record"] = record["digest"]

    assert code_of(relocked(made, lockfile.make(lock.numerics, pinned), change), made) == "seal/engine-environment"


def relocked(made: Made, lock: lockfile.Lockfile, change: Change = lambda _signed, _files: None) -> dict[str, bytes]:
    """The bundle as of a run with this lock, and then changed."""
    data = lockfile.write(lock)
    log = lockfile.expected_log(data)

    def locked(signed: Any, files: dict[str, bytes]) -> None:
        files[verify.LOCK], files[verify.BOOT] = data, log.dump()
        signed["predicate"]["lock"] |= {"digest": digest_of(data), "version": lock.version}
        signed["predicate"]["boot"]["registers"] = log.registers

    identity = made.lab.identity(eventlog.measurement(log.registers))
    return resign(made, both(locked, change), identity, intent={"lock_digest": digest_of(data)})


def test_a_missing_file_and_a_surplus_file_are_told(made: Made) -> None:
    files = resign(made)
    assert code_of({name: data for name, data in files.items() if name != verify.SEAL}, made) == "malformed bundle"
    assert code_of(files | {"evidence/more.json": b"{}"}, made) == "bundle/surplus-file"
    # A log of Inspect may be there, when the manifest names it.
    assert code_of(files | {verify.INSPECT: b"log"}, made) == "files/list"
    assert code_of(files | {verify.START: b"{}", verify.END: b"{}"}, made) == "files/evidence"
