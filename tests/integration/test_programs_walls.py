"""HumanEval's programs behind the other walls: the same verdicts, in workers whose own seal is whole there as well.

The job has some rows of the example suite, and rows whose program reaches for what lies around it: files of the wall,
its output, processes, sockets. Such a program stands in the prompt; what the model writes after it is a comment.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from appliance import run
from appliance.enclave import launch, measured, rootfs, wall
from appliance.enclave.built import MACHINE
from appliance.enclave.container import Runtime
from appliance.notary.lab import Lab
from attest import canonical, seal, transcript, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.sample import SampleRecord
from tests.conftest import ROOT, quiet
from tests.tools import host_root

pytestmark = [pytest.mark.engine, pytest.mark.slow]
REACH = """def reach():
    import ctypes, os, socket
    held = []
    def attempt(name, work):
        try:
            work()
            held.append(name)
        except BaseException:
            pass
    attempt("inputs", lambda: os.listdir("/in"))
    attempt("job", lambda: open("/in/job.yaml").read())
    attempt("root", lambda: os.listdir("/"))
    attempt("output", lambda: open("/out/x", "w"))
    attempt("memory disk", lambda: open("/tmp/x", "w"))
    attempt("processes", lambda: open("/proc/1/environ").read())
    attempt("machine", lambda: open("/dev/tpmrm0", "rb"))
    attempt("ports", lambda: open("/dev/vport1p1", "rb"))
    attempt("fork", lambda: os.fork())
    attempt("exec", lambda: os.execv("/usr/bin/python3", ["python3"]))
    attempt("signal", lambda: os.kill(1, 0))
    for family in (socket.AF_UNIX, socket.AF_INET, 40):
        attempt(f"socket {family}", lambda: socket.socket(family))
    attempt("thread", lambda: __import__("threading").Thread(target=print).start())
    attempt("ptrace", lambda: 1 / (1 + ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)))
    return held
# """
ROWS = [
    {"prompt": REACH, "test": "def check(reach):\n    assert reach() == []\n", "entry_point": "reach"},
    {
        "prompt": "def there():\n    return 1\n# ",
        "test": "def check(there):\n    assert there() == 1\n",
        "entry_point": "there",
    },
    {
        "prompt": "def bomb():\n    return len(bytearray(1 << 31))\n# ",
        "test": "def check(bomb):\n    assert bomb() == 1 << 31\n",
        "entry_point": "bomb",
    },
]
VERDICTS = {"000000": "1", "000001": "1", "000002": "0"}
"""By row: what was reached is nothing; a program that is right passes; one that wants 2 GiB does not get them."""
SUITE = """
format: vitrine/suite/v1
name: reaching
dataset: {{path: rows.jsonl, digest: "{digest}", format: jsonl}}
prompt: {{raw: true, user: "{{{{ prompt }}}}"}}
stop: ["\\n"]
scorers:
  - {{scorer: program, name: passed, timeout_s: 30}}
"""
JOB = """
format: vitrine/job/v1
name: programs
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: humaneval.yaml, limit: 2}
  - {path: reaching.yaml}
sampling: {max_tokens: 8}
limits: {context_tokens: 1024, memory_bytes: 1073741824}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The job's file, beside all that it names."""
    folder = tmp_path_factory.mktemp("programs")
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (folder / "rows.jsonl").write_bytes(rows)
    (folder / "reaching.yaml").write_text(SUITE.format(digest=digest_of(rows)))
    suite = yaml.safe_load((ROOT / "examples" / "suites" / "humaneval.yaml").read_text())
    (folder / "humaneval").mkdir()
    shutil.copy(data / "datasets" / suite["dataset"]["path"], folder / "humaneval")
    suite["epochs"], suite["sampling"]["max_tokens"], suite["scorers"][0]["pass_at"] = 2, 64, [1, 2]
    (folder / "humaneval.yaml").write_text(yaml.safe_dump(suite))
    (folder / "job.yaml").write_text(JOB)
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def plain(job: Path, tmp_path_factory: pytest.TempPathFactory, lab: Lab, engine: Path) -> Path:
    """The bundle of the run in front of the walls."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    return run.run(run.Request(job=job, lab=lab, engine=engine, out=out), quiet).bundle


def same(walled: run.Outcome, plain: Path, lab: Lab) -> None:
    """The same verdicts to the last byte; and every seal, that of the programs too, as in front of the wall."""
    for name in ("results.json", "transcript.jsonl"):
        assert (walled.bundle / name).read_bytes() == (plain / name).read_bytes(), name
    script = transcript.read((walled.bundle / "transcript.jsonl").read_bytes())
    records = [canonical.parse(SampleRecord, line.raw_record, "sample") for line in script.samples]
    found = {record.id: record.scores["passed"] for record in records if record.suite == "reaching"}
    assert found == VERDICTS
    assert sum(record.suite == "humaneval" for record in records) == 4
    report = seal.read((walled.bundle / "evidence" / "seal.json").read_bytes())
    worker = report.workers[-1]
    assert worker.worker == "program"
    assert {probe.outcome for probe in worker.probes} <= {"denied", "absent"}
    before = seal.read((plain / "evidence" / "seal.json").read_bytes()).workers[-1]
    assert worker.policy == before.policy
    assert worker.section().level == before.section().level
    verify.verify(read_bundle(walled.bundle), lab.trusted_root)


RUNTIMES: tuple[Runtime, ...] = ("bubblewrap", "runc", "podman")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_programs_are_sealed_in_a_container(
    runtime: Runtime, job: Path, plain: Path, tmp_path: Path, lab: Lab, engine: Path
) -> None:
    if not all(map(shutil.which, launch.TOOLS[runtime])):
        pytest.skip(f"no {runtime} on this host")
    image, more = host_root.make(tmp_path / "root") if not built() else (rootfs.open_image(ROOT / rootfs.DEFAULT), ())
    request = wall.Request(
        job=job, lab=lab, engine=engine, out=tmp_path / "bundle", image=image, more=more, runtime=runtime
    )
    same(wall.run(request, quiet), plain, lab)


def built() -> bool:
    return (ROOT / rootfs.DEFAULT / "index.json").exists()


@pytest.mark.skipif("VITRINE_WHOLE" not in os.environ, reason="minutes without KVM: set VITRINE_WHOLE=1")
def test_programs_are_sealed_in_the_machine(job: Path, plain: Path, tmp_path: Path, lab: Lab) -> None:
    if not (ROOT / MACHINE / "reference.json").exists() or not shutil.which("swtpm"):
        pytest.skip("no machine in build/vm: `make vm`, or no swtpm on this host")
    request = measured.Request(job=job, lab=lab, out=tmp_path / "bundle", image=ROOT / MACHINE, require_seal="full")
    same(measured.run(request, quiet), plain, lab)
