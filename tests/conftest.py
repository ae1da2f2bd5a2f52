"""Fixtures: the test data outside the project, the engine, a lab, and one small signed bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from appliance import resources, run
from appliance.notary import lab as labs
from appliance.notary.lab import Lab

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ROOT / "build" / "engine"
ENGINE = ENGINES / "x86-64-v3"

MAY_SKIP = (
    "no test data in",  # data sets and evidence of others, which the project may not hand on
    "needs the GGUF samples",
    "tests.conformance.bridges.python",  # harnesses of others, which could not be fetched
    "tests/conformance/clients/setup.sh",  # stock clients that could not be fetched
    "cannot fetch",  # a pinned package of an image that the archive no longer has: lock it anew
    "image build --format uki images/vm.toml` fetches it",
    "no podman with Quadlet",  # Debian 12 has podman 4.3
    "no access to /dev/kvm",
    "core dumps do not go to the working directory",
    "this host has no large pages for memory files",
    "this host offers no",  # namespaces
    "Landlock ABI",
    "needs root",  # to become somebody else
    "only root can",
    "readable by root only",  # an interpreter or packages that somebody else could not use
    "VITRINE_WHOLE",
)
"""Reasons for a skip that VITRINE_TEST_NO_SKIP=1 lets pass: what a machine lacks, and no package gives."""

SMALL_JOB = """
format: vitrine/job/v1
name: small
nonce: 00112233445566778899aabbccddeeff
seed: 7
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: "resource:demo/suites/addition.yaml", limit: 4}
  - {path: "resource:demo/suites/facts.yaml", limit: 3}
  - {path: "resource:demo/suites/chat.yaml", limit: 3}
sampling: {temperature: "0.8", top_p: "0.95", max_tokens: 24}
limits: {context_tokens: 256, memory_bytes: 1073741824, sample_timeout_s: 60}
numerics: {sequences: 4, threads: 1}
claims:
  - {suite: addition, model: organism, metric: accuracy, comparator: ">=", threshold: "0.1"}
"""


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes and long texts are named after their argument: some are random, and every worker has to agree on names."""
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > 60) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With VITRINE_TEST_NO_SKIP=1, a test that is skipped fails, but for what a machine may lack."""
    report = yield
    if os.environ.get("VITRINE_TEST_NO_SKIP") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not any(allowed in reason for allowed in MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"skipped, where VITRINE_TEST_NO_SKIP=1 allows no skip: {reason}"
    return report


def quiet(phase: str, done: int, total: int) -> None:
    """A progress callback that says nothing."""


def now() -> datetime:
    """The clock of the tests' labs."""
    return datetime.now(UTC)


@pytest.fixture(autouse=True)
def logs_go_where_they_went() -> Iterator[None]:
    """A command that runs in this process sets up logging to its own standard error, which is gone afterwards."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the test writes has to survive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets and evidence; tests that need it are skipped without it."""
    folder = Path(os.environ.get("VITRINE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}: set VITRINE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def engine() -> Path:
    """The folder of the pinned engine."""
    if not (ENGINE / "record.json").exists():
        pytest.skip(f"no engine in {ENGINE}: run `make engine`")
    return ENGINE


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab of this test session."""
    return labs.create(tmp_path_factory.mktemp("labs") / "lab", now=now)


@dataclass(frozen=True)
class Made:
    """A signed bundle, its lab's trust root, and the job it is of."""

    bundle: Path
    trusted_root: bytes
    job: Path
    lab: Lab


@pytest.fixture(scope="session")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of ten samples on the organism."""
    path = tmp_path_factory.mktemp("job") / "small.yaml"
    path.write_text(SMALL_JOB)
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small job, in a folder with all that it names: nothing is taken from the image but its code."""
    folder = tmp_path_factory.mktemp("job")
    shutil.copytree(ROOT / "appliance" / "demo", folder / "demo")
    job = folder / "demo" / "small.yaml"
    job.write_text(SMALL_JOB.replace("resource:demo/", ""))
    return job


@pytest.fixture(scope="session")
def execute(engine: Path, lab: Lab) -> Callable[..., run.Outcome]:
    """Runs a job file in sealed workers: `execute(job, out, **fields of the request)`."""

    def start(job: Path, out: Path, **fields: object) -> run.Outcome:
        return run.run(run.Request(**{"job": job, "lab": lab, "engine": engine, "out": out} | fields), quiet)  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory, job_file: Path, execute: Callable[..., run.Outcome], lab: Lab
) -> Made:
    """The bundle of the small job."""
    outcome = execute(job_file, tmp_path_factory.mktemp("made") / "bundle")
    return Made(outcome.bundle, lab.trusted_root, job_file, lab)


@pytest.fixture(scope="session")
def demo() -> Path:
    """The embedded demo's folder."""
    return resources.demo()
