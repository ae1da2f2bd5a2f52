"""Whole runs whose notary is on another machine: two folders stand for the machines, and only files go between them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance import job as jobs
from appliance import run
from appliance.attester import host
from appliance.attester.machine import MachineAttester
from appliance.cli import app
from appliance.notary import carried, gap, office
from appliance.notary import lab as labs
from appliance.notary.appraisal import Appraiser, Judge
from appliance.notary.gap import Shown
from appliance.notary.protocol import Register
from attest import canonical, policy, reference, verify
from attest.appraise import Appraisal
from attest.cli import read_bundle
from attest.digest import sha256
from attest.errors import VerificationError
from attest.job import dump
from attest.manifest import Wall
from tests.conftest import ROOT, SMALL_JOB, now
from tests.tools import swtpm

FIRST, LAST = gap.request_name("register"), gap.request_name("conclude")
STRICT = 'reviewed_lock = true\nwalls = ["process"]\n'


def program(*arguments: str | Path) -> list[str]:
    """The command line of a program of ours."""
    return [sys.executable, "-m", *map(str, arguments)]


def command(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program that ends with this status."""
    done = subprocess.run(program(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Sites:
    """The machine that runs jobs, and the notary's."""

    machine: Path
    notary: Path
    engine: Path

    def carry(self, name: str | Path, policy_text: str = STRICT, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Carry a request to the notary, and its answer back, if there is one, as `machine/answer`."""
        shutil.copy(self.machine / "run" / name, self.notary / "request")
        (self.notary / "policy.toml").write_text(policy_text)
        (self.notary / "answer").unlink(missing_ok=True)
        done = self.appraise(self.notary / "request", status)
        assert (self.notary / "answer").exists() == (status == 0)
        if status == 0:
            shutil.copy(self.notary / "answer", self.machine / "answer")
        return done

    def appraise(self, request: Path, status: int) -> subprocess.CompletedProcess[str]:
        """The notary's command."""
        options = ["--lab", self.notary / "lab", "--policy", self.notary / "policy.toml"]
        return command(
            "appliance.notary.cli", "appraise", request, *options, "--out", self.notary / "answer", status=status
        )

    def accept(self, status: int = 0) -> subprocess.CompletedProcess[str]:
        """The machine's command."""
        return command("appliance", "enroll", "accept", self.machine / "run", self.machine / "answer", status=status)

    @contextmanager
    def asking(self) -> Iterator[subprocess.Popen[str]]:
        """The process that runs the job, with a new invitation."""
        invitation = self.notary / "invitation"
        invitation.unlink(missing_ok=True)
        command("appliance.notary.cli", "invite", "--lab", self.notary / "lab", "--out", invitation)
        shutil.copy(invitation, self.machine / "invitation")
        arguments = ["--invitation", self.machine / "invitation", "--out", self.machine / "run"]
        command_line = program(
            "appliance", "enroll", "request", self.machine / "small.yaml", *arguments, "--engine", self.engine
        )
        # A shell that starts tests in the background has SIGINT ignored, and a child inherits that.
        process = subprocess.Popen(
            ["env", "--default-signal=INT", *command_line],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def wait(self, process: subprocess.Popen[str], name: str) -> None:
        """Wait until the process has written a request."""
        for _ in range(1200):
            if (self.machine / "run" / name).exists():
                return
            if process.poll() is not None:
                assert process.stdout is not None
                pytest.fail(f"ended with {process.returncode}: {process.stdout.read()}")
            time.sleep(0.1)
        pytest.fail(f"no {name}")

    def verified(self, status: int = 0) -> subprocess.CompletedProcess[str]:
        """What an auditor says who has the notary's trust root."""
        trust = self.notary / "lab" / "public" / "trusted_root.json"
        return command("attest", "verify", self.machine / "run" / "bundle", "--trust", trust, status=status)


@pytest.fixture
def sites(tmp_path: Path, engine: Path) -> Sites:
    """A notary with a lab, and a machine with a job, its lock and an engine."""
    found = Sites(tmp_path / "machine", tmp_path / "notary", engine)
    found.machine.mkdir()
    found.notary.mkdir()
    (found.machine / "small.yaml").write_text(SMALL_JOB)
    command("appliance", "lock", found.machine / "small.yaml", "--engine", engine)
    command("appliance", "init", found.notary / "lab", "--name", "notary.example")
    return found


def ended(process: subprocess.Popen[str], status: int) -> str:
    """What the process printed, which ends with this status."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    return output


def test_a_run_completes_whose_notary_is_on_another_machine(sites: Sites) -> None:
    lab = sites.notary / "lab"
    with sites.asking() as process:
        sites.wait(process, FIRST)
        # Nothing has run yet, and nothing runs before the notary's answer.
        assert not (sites.machine / "run" / "bundle.incomplete").exists()
        refused = sites.carry(FIRST, 'walls = ["vm"]', status=10)
        assert "policy/wall" in refused.stderr
        said = sites.carry(FIRST)
        assert "attempt 1" in said.stdout
        shown = command("appliance.notary.cli", "show", sites.notary / "request")
        assert "small" in shown.stdout and "register" in shown.stdout
        assert "the run goes on" in sites.accept().stdout
        sites.wait(process, LAST)
        # An old answer is refused, and does no harm.
        assert "enrolment/request" in sites.accept(status=10).stderr
        sites.carry(LAST)
        sites.accept()
        output = ended(process, 0)
    assert "carry it to the notary" in output
    assert str(sites.machine / "run" / "bundle") in output
    assert "signed -> measured" in sites.verified().stdout
    # The machine has seen no key of the lab: none of its private keys' files, and no other secret of it than salts.
    secrets = [path.read_bytes() for path in (lab / "keys").iterdir()] + [(lab / "passphrase").read_bytes()]
    files = [path.read_bytes() for path in sites.machine.rglob("*") if path.is_file()]
    assert files and not any(secret in file or b"PRIVATE KEY" in file for secret in secrets for file in files)
    # A second time nothing is taken.
    assert "exists already" in sites.accept(status=1).stderr


def test_a_bundle_waits_for_its_signature_after_ctrl_c(sites: Sites) -> None:
    with sites.asking() as process:
        sites.wait(process, FIRST)
        sites.carry(FIRST)
        sites.accept()
        sites.wait(process, LAST)
        process.send_signal(signal.SIGINT)
        output = ended(process, 130)
    assert "the bundle waits in" in output
    assert (sites.machine / "run" / "bundle.incomplete" / "transcript.jsonl").exists()
    sites.carry(LAST)
    assert "bundle:" in sites.accept().stdout
    assert not (sites.machine / "run" / "bundle.incomplete").exists()
    assert "signed -> measured" in sites.verified().stdout


def test_a_run_that_ended_before_its_answer_is_not_run_later(sites: Sites) -> None:
    with sites.asking() as process:
        sites.wait(process, FIRST)
        process.send_signal(signal.SIGINT)
        assert "nothing was run" in ended(process, 130)
    sites.carry(FIRST)
    assert "make a new request" in sites.accept(status=1).stderr
    assert not (sites.machine / "run" / "bundle").exists()


# --- evidence --------------------------------------------------------------------------------------------------------

HARDWARE = b"""
assurance = "quoted"
[hardware]
require = ["tpm"]
[hardware.tpm]
kinds = ["unknown"]
unsafe_skipped = true
secure_boot = false
"""


def test_evidence_is_appraised_before_the_run_is_registered(
    tmp_path: Path, engine: Path, execute: Callable[..., run.Outcome]
) -> None:
    """With a real software TPM, in front of the wall: the certificate names the machine's image."""
    lab = labs.create(tmp_path / "lab", "notary.example", now=now)
    seen: list[Appraisal] = []

    def judge(challenge: str, wall: Wall) -> Appraiser:
        return Appraiser(lab, policy.read(HARDWARE), None, now, challenge, wall, seen.append)

    job = tmp_path / "small.yaml"
    job.write_text(SMALL_JOB)
    command("appliance", "lock", job, "--engine", engine)
    shown = Shown(job=dump(jobs.load(job).job), lock=(tmp_path / "small.lock").read_bytes(), wall="process")
    with swtpm.started(tmp_path / "state") as tpm:
        swtpm.measured_boot(tpm)
        tpm.extend(reference.APPLICATION, sha256(b"the disk of inputs"))
        answered = threading.Thread(target=serve, args=(tmp_path / "run", lab, judge))
        answered.start()
        invitation = office.invite(lab, days=1, now=now())
        with carried.ask(tmp_path / "run", invitation, shown, lambda *_: None) as notary:
            attester = MachineAttester(tpm, swtpm.EVENT_LOG)
            out = tmp_path / "run" / "bundle"
            execute(job, out, lab=notary, lock=tmp_path / "small.lock", attester=attester)
        answered.join()
    # Both times: before it was registered, and before its key was certified.
    assert [one.status for one in seen] == ["warning", "warning"]
    files = read_bundle(out)
    values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    verified = verify.verify(files, lab.trusted_root, references=[values])
    assert verified.machine == values.image
    # A policy that does not speak of hardware knows nothing about evidence, and lets none pass.
    request = gap.read_request((tmp_path / "run" / FIRST).read_bytes())
    assert isinstance(request.question, Register)
    mute = Appraiser(lab, policy.read(b""), None, now, request.challenge, "process")
    with pytest.raises(VerificationError, match="policy/hardware"):
        mute.start(request.question)
    # Evidence that was made for another invitation is of no use to register anything.
    other = gap.read_invitation(office.invite(lab, days=1, now=now()))
    before = len(lab.log)
    with pytest.raises(VerificationError, match="evidence/challenge"):
        moved = request.model_copy(update={"challenge": other.challenge})
        office.answer(lab, canonical.dump_model(moved), judge, now=now())
    assert len(lab.log) == before


def test_the_command_carries_evidence_to_the_notary(
    tmp_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`appliance enroll request --attester tpm`, with a real software TPM, and a notary that appraises it."""
    lab = labs.create(tmp_path / "lab", "notary.example", now=now)

    def judge(challenge: str, wall: Wall) -> Appraiser:
        return Appraiser(lab, policy.read(b"rollback_refused = true\n" + HARDWARE), None, now, challenge, wall)

    (tmp_path / "small.yaml").write_text(SMALL_JOB)
    command("appliance", "lock", tmp_path / "small.yaml", "--engine", engine)
    (tmp_path / "invitation").write_bytes(office.invite(lab, days=1, now=now()))
    with swtpm.served(tmp_path / "state") as socket:
        with swtpm.opened(socket) as tpm:
            swtpm.measured_boot(tpm)
        here = partial(host.Devices, tpm=lambda: swtpm.connected(socket), event_log=swtpm.EVENT_LOG)
        monkeypatch.setattr(host, "Devices", here)
        answered = threading.Thread(target=serve, args=(tmp_path / "run", lab, judge), daemon=True)
        answered.start()
        arguments = ["--invitation", tmp_path / "invitation", "--out", tmp_path / "run", "--engine", engine]
        asked = ["enroll", "request", tmp_path / "small.yaml", *arguments, "--attester", "tpm"]
        done = CliRunner().invoke(app, [str(argument) for argument in asked])
        assert done.exit_code == 0, done.exception
        answered.join(timeout=60)
    verified = verify.verify(read_bundle(tmp_path / "run" / "bundle"), lab.trusted_root)
    assert verified.manifest.evidence == ("tpm",)
    assert "/machine/" in verified.identity
    # It was certified because its TPM kept the lock's version; without that, or with another, it is not.
    request = gap.read_request((tmp_path / "run" / FIRST).read_bytes())
    asked, appraiser = request.question, judge(request.challenge, "process")
    assert isinstance(asked, Register) and asked.enrolment.evidence is not None
    appraiser.end(verified.manifest, asked)
    newer = verified.manifest.lock.model_copy(update={"version": 2})
    with pytest.raises(VerificationError, match="rollback/lock"):
        appraiser.end(verified.manifest.model_copy(update={"lock": newer}), asked)
    silent = [
        {name: part for name, part in item.items() if name != "versions"} for item in asked.enrolment.evidence.items
    ]
    shown = asked.enrolment.evidence.model_copy(update={"items": tuple(silent)})
    bare = asked.model_copy(update={"enrolment": asked.enrolment.model_copy(update={"evidence": shown})})
    with pytest.raises(VerificationError, match="policy/rollback"):
        appraiser.end(verified.manifest, bare)


@pytest.mark.parametrize("wall", ["container", "vm"])
def test_other_walls_ask_a_lab_on_their_own_host(wall: str, sites: Sites) -> None:
    arguments = ["--invitation", sites.notary / "none", "--out", sites.machine / "run", "--wall", wall]
    done = command("appliance", "enroll", "request", sites.machine / "small.yaml", *arguments, status=20)
    assert f"--wall {wall} across an air gap: expected --wall process" in done.stderr
    assert f"--wall {wall} --appraise POLICY" in done.stderr
    assert not (sites.machine / "run").exists()


def serve(folder: Path, lab: labs.Lab, judge: Judge) -> None:
    """Carry both requests and answers at once."""
    for name in (FIRST, LAST):
        while not (folder / name).exists():
            time.sleep(0.05)
        carried.accept(folder, office.answer(lab, (folder / name).read_bytes(), judge, now=now()))


# --- a lab on one machine --------------------------------------------------------------------------------------------


def test_a_lab_on_one_machine_appraises_before_it_registers(sites: Sites, tmp_path: Path) -> None:
    job, lab, rules = sites.machine / "small.yaml", sites.notary / "lab", tmp_path / "policy.toml"
    options = ["--lab", lab, "--engine", sites.engine, "--appraise", rules]
    rules.write_text("locks = []")
    refused = command("appliance", "run", job, *options, "--out", tmp_path / "one", status=10)
    assert "policy/lock" in refused.stderr
    rules.write_text("[hardware]")
    refused = command("appliance", "run", job, *options, "--out", tmp_path / "one", status=10)
    assert "evidence/missing" in refused.stderr
    # Neither was registered: the run that the policy accepts is the first.
    rules.write_text(STRICT + "max_attempts = 1")
    command("appliance", "run", job, *options, "--out", tmp_path / "one")
    trust = lab / "public" / "trusted_root.json"
    command("attest", "verify", tmp_path / "one", "--trust", trust, "--policy", rules)
    again = command("appliance", "run", job, *options, "--out", tmp_path / "two", status=10)
    assert "policy/attempts" in again.stderr
    # What only the results tell is judged before the key is certified. What there is of the run stays.
    rules.write_text("claims_hold = true")
    job.write_text(SMALL_JOB.replace('comparator: ">="', 'comparator: "<"'))
    entries = len(labs.open_lab(lab, now=now).ctlog)
    refused = command("appliance", "run", job, *options, "--out", tmp_path / "three", status=10)
    assert "policy/claims" in refused.stderr
    assert len(labs.open_lab(lab, now=now).ctlog) == entries
    assert not (tmp_path / "three").exists()
    assert (tmp_path / "three.incomplete" / "transcript.jsonl").exists()
    assert command("appliance", "run", job, "--capsule", rules, status=2).stderr
