"""Evidence of start and end as the machine gives it: what it was told, in which boot, and the lab that looks at it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.attester.machine import MachineAttester
from appliance.enclave import measured
from appliance.enclave.tpm_device import Tpm
from appliance.notary.desk import Desk, Expected
from appliance.notary.protocol import Enrolment, Intent, Register
from attest import canonical, eventlog, evidence, hardware, policy, reference, trust, verify
from attest.binding import StartStatement, binding
from attest.digest import digest_of, sha256
from attest.errors import VerificationError
from attest.evidence import Evidence
from attest.rollback import Kept, Thing
from tests.tools import swtpm
from tests.tools.quoted import INPUTS, Quoted, parts


def test_a_run_is_checked_with_its_start_and_its_end(quoted: Quoted) -> None:
    _, _, log, given = parts(quoted)
    files = quoted.files()
    signature = trust.verify_signature(files[verify.SIGNATURE], quoted.made.trusted_root, identity="https://*")
    manifest = quoted.verify(files).manifest
    found = hardware.Run(files, manifest, given["key"], digest_of(signature.payload), log)
    assert hardware.check(found, ()) is None
    assert hardware.check(found, [quoted.values]) == quoted.values
    other_lock = manifest.model_copy(update={"lock": manifest.lock.model_copy(update={"digest": digest_of(b"other")})})
    more = manifest.model_copy(update={"evidence": ("tpm", "tdx")})
    for changed, code in (
        ({"manifest": other_lock}, "tpm/nonce"),  # which the end does not bear
        ({"statement": digest_of(b"other")}, "tpm/nonce"),  # which the start does not
        ({"manifest": more}, "evidence/platforms"),
    ):
        with pytest.raises(VerificationError, match=code):
            hardware.check(replace(found, **changed), ())  # type: ignore[arg-type]


def test_what_the_tpm_keeps_are_the_versions_of_the_run(quoted: Quoted) -> None:
    _, _, log, given = parts(quoted)
    files = quoted.files()
    manifest = quoted.verify(files).manifest
    run = hardware.Run(files, manifest, given["key"], digest_of(b"any"), log)
    kept = (Kept(Thing("lock", manifest.job.name), manifest.lock.version),)
    assert hardware.versions(run, None) == hardware.versions(run, quoted.values) == kept
    assert hardware.versions(replace(run, manifest=manifest.model_copy(update={"evidence": ()})), None) == ()
    newer = manifest.model_copy(update={"lock": manifest.lock.model_copy(update={"version": 99})})
    with pytest.raises(VerificationError, match="rollback/lock"):
        hardware.versions(replace(run, manifest=newer), None)


@pytest.mark.parametrize("what", ["nonce", "key", "job", "lock", "log"])
def test_the_start_is_of_this_key_job_lock_and_boot(quoted: Quoted, what: str) -> None:
    start, _, log, given = parts(quoted)
    evidence.check_start(start, log, **given)
    if what == "log":
        log = log.append(eventlog.DataEvent(name="more", data={}))
    else:
        given[what] = "ff" * 16 if what == "nonce" else digest_of(b"other")
    with pytest.raises(VerificationError, match="tpm/nonce"):
        evidence.check_start(start, log, **given)


def test_the_machine_was_told_what_the_bundle_shows(quoted: Quoted) -> None:
    """The right binding over another story: a machine whose boot or results were others."""
    start, _, log, given = parts(quoted)
    measurement = eventlog.measurement(log.registers)
    statement = StartStatement(job=given["job"], lock=given["lock"], measurement=measurement, challenge=start.challenge)
    extra = binding("start", nonce=given["nonce"], key=given["key"], statement=statement.digest())
    liar = MachineAttester(quoted.tpm, swtpm.EVENT_LOG)
    items = liar.start(eventlog.EventLog(log.records[:-1]), given["job"], extra)
    with pytest.raises(VerificationError, match="machine/application-register"):
        evidence.check_start(
            Evidence(when="start", challenge=start.challenge, before=liar.before, items=items), log, **given
        )
    signed, results = digest_of(b"a statement"), digest_of(b"results")
    extra = binding("end", nonce=given["nonce"], key=given["key"], statement=signed)
    items = liar.end(digest_of(b"other results"), extra)
    del given["lock"]
    end = Evidence(when="end", challenge=start.challenge, before=liar.before, items=items)
    with pytest.raises(VerificationError, match="machine/application-register"):
        evidence.check_end(
            start.model_copy(update={"before": liar.before}), end, log, **given, statement=signed, results=results
        )


class Story:
    """A machine that goes through a run's two quotes, with a stop in between."""

    def __init__(self, quoted: Quoted) -> None:
        _, _, self.log, self.given = parts(quoted)
        self.challenge = "5c" * 32
        self.signed, self.results = digest_of(b"a statement"), digest_of(b"results")

    def start(self, attester: MachineAttester) -> Evidence:
        measurement = eventlog.measurement(self.log.registers)
        statement = StartStatement(
            job=self.given["job"], lock=self.given["lock"], measurement=measurement, challenge=self.challenge
        )
        extra = binding("start", nonce=self.given["nonce"], key=self.given["key"], statement=statement.digest())
        items = attester.start(self.log, self.given["job"], extra)
        return Evidence(when="start", challenge=self.challenge, before=attester.before, items=items)

    def end(self, attester: MachineAttester) -> Evidence:
        extra = binding("end", nonce=self.given["nonce"], key=self.given["key"], statement=self.signed)
        items = attester.end(self.results, extra)
        return Evidence(when="end", challenge=self.challenge, before=attester.before, items=items)

    def check(self, start: Evidence, end: Evidence) -> None:
        given = {name: self.given[name] for name in ("nonce", "key", "job")}
        evidence.check_start(start, self.log, **self.given)
        evidence.check_end(start, end, self.log, **given, statement=self.signed, results=self.results)


def told(tpm: Tpm) -> MachineAttester:
    """An attester on a machine that has booted."""
    swtpm.measured_boot(tpm)
    tpm.extend(reference.APPLICATION, INPUTS)
    return MachineAttester(tpm, swtpm.EVENT_LOG)


def test_start_and_end_are_of_one_boot_of_one_machine(quoted: Quoted, tmp_path: Path) -> None:
    story = Story(quoted)
    with swtpm.started(tmp_path / "one") as tpm:
        attester = told(tpm)
        start = story.start(attester)
        story.check(start, story.end(attester))
    # The same machine booted again, and told the same from the start.
    with swtpm.started(tmp_path / "one") as tpm:
        attester = told(tpm)
        story.start(attester)
        with pytest.raises(VerificationError, match="machine/boot"):
            story.check(start, story.end(attester))
    # Another machine.
    with swtpm.started(tmp_path / "two") as tpm:
        attester = told(tpm)
        story.start(attester)
        with pytest.raises(VerificationError, match="machine/key"):
            story.check(start, story.end(attester))


UNVOUCHED = policy.read(b"[hardware.tpm]\nkinds = ['unknown']\nunsafe_skipped = true\nsecure_boot = false")


def test_an_appraisal_is_of_one_machine(quoted: Quoted, tmp_path: Path) -> None:
    """Both quotes bear what they have to, and the policy accepts either."""
    story, manifest, now = Story(quoted), quoted.verify(quoted.files()).manifest, datetime(2026, 1, 1, tzinfo=UTC)
    with swtpm.started(tmp_path / "one") as one, swtpm.started(tmp_path / "two") as two:
        attester, other = told(one), told(two)
        start = story.start(attester)
        story.start(other)
        for end, accepted in ((story.end(attester), True), (story.end(other), False)):
            packages = {verify.START: canonical.dump_model(start), verify.END: canonical.dump_model(end)}
            run = hardware.Run(packages, manifest, story.given["key"], story.signed, story.log)
            if accepted:
                assert [found.as_of for found in hardware.appraise(run, UNVOUCHED, None, now)] == [now, now]
                continue
            with pytest.raises(VerificationError, match="evidence/machine"):
                hardware.appraise(run, UNVOUCHED, None, now)


def test_nothing_else_is_measured_between_start_and_end(quoted: Quoted, tmp_path: Path) -> None:
    story = Story(quoted)
    with swtpm.started(tmp_path / "state") as tpm:
        attester = told(tpm)
        start = story.start(attester)
        tpm.extend(8, bytes(range(32)))
        with pytest.raises(VerificationError, match="machine/changed"):
            story.check(start, story.end(attester))


def test_a_run_is_told_to_a_machine_once(quoted: Quoted, tmp_path: Path) -> None:
    """A second program on the machine tells it of the same run again, and quotes the end of that."""
    story = Story(quoted)
    with swtpm.started(tmp_path / "state") as tpm:
        start = story.start(told(tpm))
        again = MachineAttester(tpm, swtpm.EVENT_LOG)
        story.start(again)
        with pytest.raises(VerificationError, match="evidence/before"):
            story.check(start, story.end(again))


# --- the lab appraises before it registers ---------------------------------------------------------------------------


def question(quoted: Quoted, **changes: Any) -> tuple[Register, dict[str, Any]]:
    """What a run behind the wall asks first, and what the lab compares it with."""
    start, _, log, given = parts(quoted)
    fields = {"job_digest": given["job"], "lock_digest": given["lock"], "key_digest": given["key"]}
    counted = {"nonce": given["nonce"], "counter": evidence.counter(start)}
    intent = Intent.model_validate(fields | counted | changes)
    asked = Register(intent=intent, enrolment=Enrolment(log=log.dump(), evidence=start))
    before = sha256(bytes(32), INPUTS).hex()
    return asked, {"challenge": start.challenge, "values": quoted.values, "before": before}


def test_a_run_is_registered_when_its_evidence_holds(quoted: Quoted) -> None:
    asked, known = question(quoted)
    intent = asked.intent

    def desk(**changes: Any) -> Desk:
        against = known | changes
        expected = Expected(
            intent.job_digest, intent.nonce, "vm", appraise=lambda asked: measured.appraise(asked, **against)
        )
        return Desk(quoted.made.lab, expected)

    other = quoted.values.model_copy(update={"registers": quoted.values.registers | {"4": "0" * 64}})
    refused: list[tuple[dict[str, Any], str]] = [
        ({"challenge": "00" * 32}, "evidence/challenge"),
        ({"values": other}, "reference/registers"),
        ({"before": "00" * 32}, "evidence/before"),
    ]
    for changes, code in refused:
        with pytest.raises(VerificationError, match=code):
            desk(**changes).answer(canonical.dump_model(asked))
    with pytest.raises(VerificationError, match="tpm/nonce"):
        desk().answer(canonical.dump_model(question(quoted, key_digest=digest_of(b"other"))[0]))
    with pytest.raises(VerificationError, match="notary/counter"):
        desk().answer(canonical.dump_model(question(quoted, counter=None)[0]))
    bare = asked.model_copy(update={"enrolment": Enrolment(log=asked.enrolment.log)})
    with pytest.raises(VerificationError, match="evidence/missing"):
        desk().answer(canonical.dump_model(bare))
    with pytest.raises(VerificationError, match="notary/evidence"):
        Desk(quoted.made.lab, Expected(intent.job_digest, intent.nonce, "container")).answer(
            canonical.dump_model(asked)
        )
    before = len(quoted.made.lab.log)
    desk().answer(canonical.dump_model(asked))
    assert len(quoted.made.lab.log) == before + 1
