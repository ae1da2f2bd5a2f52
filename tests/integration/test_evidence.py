"""A whole run that a TPM speaks for: its evidence is bound to key, boot, job and results, and to nothing else.

The TPM is real software (swtpm) that was told of a recorded boot of the measured machine; the run is in front of the
wall, so that these tests take seconds. `test_vm.py` does the same behind the wall.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance import run
from appliance.attester.machine import MachineAttester
from appliance.notary.tlog import TransparencyLog
from attest import canonical, conclusions, evidence, hardware, policy, verify
from attest.cli import read_bundle
from attest.errors import VerificationError, VitrineError
from attest.log import LogReceipt
from tests.conftest import Made
from tests.tools import swtpm
from tests.tools.quoted import Quoted
from tests.tools.resign import resign


def test_evidence_raises_the_assurance_and_says_what_it_does_not_prove(quoted: Quoted) -> None:
    verified = quoted.verify(quoted.files(), references=[quoted.values])
    assert verified.assurance == ("signed", "measured", "quoted (software TPM)")
    assert verified.machine == quoted.values.image
    assert any("nobody vouches for its TPM" in line for line in verified.not_proven)
    without = quoted.verify(quoted.files())
    assert without.machine is None
    assert any("give its reference values" in line for line in without.not_proven)


UNVOUCHED = b"""
[hardware]
[hardware.tpm]
kinds = ["unknown"]
unsafe_skipped = true
secure_boot = false
"""


def test_a_policy_on_hardware_is_applied_to_start_and_end(quoted: Quoted, made: Made) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    accepted = quoted.verify(quoted.files(), policy=policy.read(UNVOUCHED), now=now)
    assert accepted.assurance == ("signed", "measured", "quoted (software TPM)")
    assert [one.status for one in accepted.appraisals] == ["warning", "warning"]
    assert any("Nobody vouches" in line for line in accepted.not_proven)
    refused = [
        (b"[hardware.tpm]\nsecure_boot = false", "appraisal/tpm.kind"),
        (UNVOUCHED.replace(b"unsafe_skipped = true", b""), "appraisal/tpm.skipped"),
        (UNVOUCHED.replace(b"[hardware]", b"[hardware]\nrequire = ['tdx']"), "appraisal/hardware.required"),
        (b"[hardware.nitro]\nunsafe_any_measurement = true", "appraisal/hardware.platform"),
        (b"assurance = 'confidential'" + UNVOUCHED, "policy/assurance"),
    ]
    for text, code in refused:
        with pytest.raises(VerificationError, match=code):
            quoted.verify(quoted.files(), policy=policy.read(text), now=now)
    with pytest.raises(TypeError):
        quoted.verify(quoted.files(), policy=policy.read(UNVOUCHED))
    # A policy on hardware refuses a bundle that has no evidence, also where it names no platform that has to be there.
    with pytest.raises(VerificationError, match="evidence/missing"):
        verify.verify(read_bundle(made.bundle), made.trusted_root, policy=policy.read(UNVOUCHED), now=now)


def test_start_and_end_have_to_be_of_one_machine_and_a_debugged_one_is_not_confidential(quoted: Quoted) -> None:
    found = quoted.verify(quoted.files(), policy=policy.read(UNVOUCHED), now=datetime(2026, 1, 1, tzinfo=UTC))
    start, end = found.appraisals
    hardware.check_same(start, end)
    (claims,) = end.claims["tpm"]
    for change in ({"key": "00"}, {"resets": 99}, {"restarts": 99}):
        other = replace(end, claims={"tpm": (claims.model_copy(update=change),)})  # type: ignore[attr-defined]
        with pytest.raises(VerificationError, match="evidence/machine"):
            hardware.check_same(start, other)
    with pytest.raises(VerificationError, match="evidence/machine"):
        hardware.check_same(start, replace(end, claims={}))
    for debug, reached in ((False, True), (True, False)):
        # Whose claims they are does not matter to the ladder, but which platform's.
        guest = replace(end, claims={"sev-snp": (claims.model_copy(update={"debug": debug}),)})  # type: ignore[attr-defined]
        assert ("confidential" in conclusions.ladder(found.manifest, (guest, guest))) is reached


def test_an_image_that_is_too_old_is_refused(quoted: Quoted, made: Made) -> None:
    required = policy.read(b"minimum_image_version = 1795305600")
    newer = quoted.values.model_copy(update={"version": 1795305600})
    assert quoted.verify(quoted.files(), references=[newer], policy=required).machine == newer.image
    older = newer.model_copy(update={"version": 1795305599})
    # The recorded machine's own values have no version: it is of before there was one.
    for values, code in ((older, "reference/version"), (quoted.values, "reference/version")):
        with pytest.raises(VerificationError, match=code):
            quoted.verify(quoted.files(), references=[values], policy=required)
    for files in (quoted.files(), read_bundle(made.bundle)):
        with pytest.raises(VerificationError, match="policy/image-version"):
            verify.verify(files, made.trusted_root, policy=required)


def test_a_policy_may_ask_for_a_tpm_that_keeps_versions(quoted: Quoted, made: Made) -> None:
    required = policy.read(b"rollback_refused = true")
    assert any("as the newest version of the lock" in line for line in quoted.verify(quoted.files()).proven)
    quoted.verify(quoted.files(), policy=required)
    with pytest.raises(VerificationError, match="policy/rollback"):
        verify.verify(read_bundle(made.bundle), made.trusted_root, policy=required)


def logging(counter: object) -> Callable[..., LogReceipt]:
    """`TransparencyLog.register` as a lab can make it that has the log's key."""
    register = TransparencyLog.register
    return lambda log, intent, now: register(log, {**intent, "counter": counter}, now)


def test_runs_are_numbered_by_the_counter_of_the_tpm(
    quoted: Quoted,
    execute: Callable[..., run.Outcome],
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (
        evidence.counter(evidence.read(read_bundle(path)[verify.START], "start"))
        for path in (quoted.made.bundle, quoted.other)
    )
    assert first is not None
    assert second == first.model_copy(update={"value": first.value + 1})
    assert any(f"counter of runs to {first.value} " in line for line in quoted.verify(quoted.files()).proven)
    # A lab that logs the attempt without the counter, or with another value, is caught by every bundle.
    for name, other in (("without", None), ("again", first.model_dump(mode="json"))):
        with monkeypatch.context() as patched:
            patched.setattr(TransparencyLog, "register", logging(other))
            bundle = execute(job_file, tmp_path / name, attester=MachineAttester(quoted.tpm, swtpm.EVENT_LOG)).bundle
        with pytest.raises(VerificationError, match="intent/counter"):
            quoted.verify(read_bundle(bundle))


def test_a_bundle_without_evidence_is_no_machine(made: Made, quoted: Quoted) -> None:
    with pytest.raises(VerificationError, match="evidence/missing"):
        verify.verify(read_bundle(made.bundle), made.trusted_root, references=[quoted.values])


def test_results_are_those_of_the_run_without_a_tpm(made: Made, quoted: Quoted) -> None:
    for name in (verify.RESULTS, verify.TRANSCRIPT):
        assert (quoted.made.bundle / name).read_bytes() == (made.bundle / name).read_bytes()


def test_another_image_is_refused(quoted: Quoted) -> None:
    other = quoted.values.model_copy(update={"image": "other", "registers": quoted.values.registers | {"11": "0" * 64}})
    with pytest.raises(VerificationError, match="reference/registers"):
        quoted.verify(quoted.files(), references=[other])
    assert quoted.verify(quoted.files(), references=[other, quoted.values]).machine == quoted.values.image


def test_evidence_cannot_be_left_out_or_added(quoted: Quoted, made: Made) -> None:
    for left_out in (verify.END, verify.START):
        files = quoted.files()
        del files[left_out]
        with pytest.raises(VerificationError, match="files/"):
            quoted.verify(files)
    for name in (verify.END, verify.START):
        with pytest.raises(VerificationError, match="files/evidence"):
            verify.verify(read_bundle(made.bundle) | {name: quoted.files()[name]}, made.trusted_root)


def test_evidence_of_another_moment_or_run_is_refused(quoted: Quoted) -> None:
    start, other = quoted.files()[verify.START], read_bundle(quoted.other)
    with pytest.raises(VerificationError, match="evidence/when"):
        quoted.verify(quoted.files(end=start))
    as_end = json.loads(start) | {"when": "end"}
    with pytest.raises(VerificationError, match="tpm/nonce"):
        quoted.verify(quoted.files(end=canonical.dumps(as_end)))
    with pytest.raises(VerificationError, match="evidence/challenge"):
        quoted.verify(quoted.files(end=other[verify.END]))
    mine = json.loads(start)
    replayed = json.loads(other[verify.END]) | {"challenge": mine["challenge"], "before": mine["before"]}
    with pytest.raises(VerificationError, match="tpm/nonce"):
        quoted.verify(quoted.files(end=canonical.dumps(replayed)))


@pytest.mark.parametrize("field", ["before", "registers", "event_log", "key", "attested", "signature"])
@pytest.mark.parametrize("name", ["start", "end"])
def test_any_other_part_is_refused(quoted: Quoted, name: str, field: str) -> None:
    """A part of the other run's other moment, or where that is the same, one with its end changed."""
    names = {"start": verify.START, "end": verify.END}
    value = json.loads(quoted.files()[names[name]])
    other = json.loads(read_bundle(quoted.other)[verify.END if name == "start" else verify.START])
    (mine, theirs) = (one["items"][0] for one in (value, other))
    if field in ("attested", "signature"):
        mine, theirs = mine["quotes"][0], theirs["quotes"][0]
    elif field == "before":
        mine, theirs = value, other
    same = mine[field] == theirs[field]
    mine[field] = mine[field][:-8] + "A" * 7 + "=" if same else theirs[field]
    with pytest.raises(VitrineError):
        quoted.verify(quoted.files(**{name: canonical.dumps(value)}))


def test_a_lab_that_signs_other_evidence_is_caught(quoted: Quoted) -> None:
    """Validly registered and signed, by another boot key than the one that the TPM quoted."""
    with pytest.raises(VerificationError, match="tpm/nonce"):
        quoted.verify(resign(quoted.made))

    def strip(signed: Any, _files: dict[str, bytes]) -> None:
        signed["predicate"]["evidence"] = []
        signed["predicate"]["files"] = [f for f in signed["predicate"]["files"] if f["name"] != verify.START]

    # The certificate still names the machine, ...
    files = resign(quoted.made, strip)
    del files[verify.START], files[verify.END]
    with pytest.raises(VerificationError, match="identity/measurement"):
        quoted.verify(files)
    # ... and a bundle of no machine, by a lab that wants it so, is one that has no evidence at all.
    plain = quoted.verify(quoted.files()).identity
    lab = quoted.made.lab
    files = resign(quoted.made, strip, lab.identity(plain.rpartition("/")[2]))
    with pytest.raises(VerificationError, match="files/evidence"):
        quoted.verify(files)
    del files[verify.START], files[verify.END]
    assert quoted.verify(files).assurance == ("signed", "measured")
