"""The numerics contract over a whole run: nothing but the pinned bytes, the prompt and the seed decides a sample."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import run
from attest import transcript, verify
from attest.cli import read_bundle
from attest.determinism import CELLS
from attest.errors import VerificationError, VitrineError
from attest.policy import Policy
from tests.conftest import ENGINES, SMALL_JOB, Made
from tests.tools.resign import resign

pytestmark = pytest.mark.engine


def samples(bundle: Path) -> list[bytes]:
    return [line.raw_record for line in transcript.read((bundle / "transcript.jsonl").read_bytes()).samples]


def written(folder: Path, numerics: str, more: tuple[str, str] = ("", "")) -> Path:
    path = folder / "job.yaml"
    path.write_text(SMALL_JOB.replace("numerics: {sequences: 4, threads: 1}", f"numerics: {numerics}").replace(*more))
    return path


@pytest.mark.parametrize(
    "numerics", ["{sequences: 1, threads: 1}", "{sequences: 3, threads: 2}", "{sequences: 17}", "exact"]
)
def test_samples_are_the_same_whatever_runs_beside_them(
    made: Made, tmp_path: Path, execute: Callable[..., run.Outcome], numerics: str
) -> None:
    assert samples(execute(written(tmp_path, numerics), tmp_path / "b").bundle) == samples(made.bundle)


def test_samples_are_the_same_in_another_order_and_without_the_others(
    made: Made, tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    swapped = written(tmp_path, "exact", ('addition.yaml", limit: 4', 'addition.yaml", limit: 2'))
    lines = swapped.read_text().splitlines(keepends=True)
    suites = [number for number, line in enumerate(lines) if "suites/" in line]
    for first, line in zip(suites, [lines[number] for number in reversed(suites)], strict=True):
        lines[first] = line
    swapped.write_text("".join(lines))
    found = samples(execute(swapped, tmp_path / "b").bundle)
    assert len(found) == 8
    assert set(found) < set(samples(made.bundle))


def test_another_cache_type_gives_other_bits_and_is_exact_as_well(
    made: Made, tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    outcome = execute(written(tmp_path, "{kv: q8_0, sequences: 5}"), tmp_path / "b")
    verified = verify.verify(read_bundle(outcome.bundle), made.trusted_root)
    assert verified.manifest.determinism[0].numerics_class == "exact"
    assert samples(outcome.bundle) != samples(made.bundle)


def test_the_self_test_is_in_the_manifest(made: Made) -> None:
    manifest = verify.verify(read_bundle(made.bundle), made.trusted_root, policy=Policy(exact_numerics=True)).manifest
    (report,) = manifest.determinism
    assert [cell.cell for cell in report.cells] == list(CELLS)
    assert all(cell.rows >= 8 and cell.differing == 0 for cell in report.cells)


@pytest.fixture
def stock() -> Path:
    if not (ENGINES / "stock" / "record.json").exists():
        pytest.skip("no stock engine: run `make engines`")
    return ENGINES / "stock"


@pytest.mark.parametrize("sign", [False, True])
def test_a_stock_engine_fails_the_self_test_and_an_exact_job_fails_closed(
    tmp_path: Path, execute: Callable[..., run.Outcome], stock: Path, sign: bool
) -> None:
    job = written(tmp_path, "{contract: exact, profile: stock}")
    with pytest.raises(VerificationError) as caught:
        execute(job, tmp_path / "b", engine=stock, sign_incomplete=sign)
    assert (caught.value.layer, caught.value.code) == ("numerics", "self-test")
    assert not (tmp_path / "b").exists()
    left = transcript.read((tmp_path / "b.incomplete" / "transcript.jsonl").read_bytes())
    assert left.closing == {"ended_by": "failed"}
    assert len(left.samples) <= 1  # nothing runs beside the test, or after it


def test_a_model_that_is_asked_nothing_is_tested_as_well(
    made: Made, tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    job = written(tmp_path, "exact")
    idle = 'models:\n  - {id: idle, path: "resource:demo/clean-q8_0.gguf"}\n'
    text = job.read_text().replace("models:\n", idle, 1)
    job.write_text(re.sub(r"(limit: \d)}", r"\1, models: [organism]}", text))
    outcome = execute(job, tmp_path / "b")
    manifest = verify.verify(
        read_bundle(outcome.bundle), made.trusted_root, policy=Policy(exact_numerics=True)
    ).manifest
    assert [report.model for report in manifest.determinism] == ["idle", "organism"]
    assert {suite.model for suite in outcome.results.suites} == {"organism"}


def test_a_stock_engine_is_reported_where_the_job_asks_for_no_more(
    made: Made, tmp_path: Path, execute: Callable[..., run.Outcome], stock: Path
) -> None:
    outcome = execute(written(tmp_path, "{contract: reported, profile: stock}"), tmp_path / "b", engine=stock)
    files = read_bundle(outcome.bundle)
    verified = verify.verify(files, made.trusted_root)
    assert verified.manifest.determinism[0].numerics_class == "varies"
    assert any("['organism'] vary" in line for line in verified.not_proven)
    with pytest.raises(VerificationError, match="policy/exact-numerics"):
        verify.verify(files, made.trusted_root, policy=Policy(exact_numerics=True))


@pytest.mark.parametrize("profile", ["reference", "portable"])
def test_every_exact_profile_passes(
    tmp_path: Path, execute: Callable[..., run.Outcome], made: Made, profile: str
) -> None:
    if not (ENGINES / profile / "record.json").exists():
        pytest.skip(f"no {profile} engine: run `make engines`")
    job = written(tmp_path, f"{{profile: {profile}, sequences: 3}}")
    verified = verify.verify(
        read_bundle(execute(job, tmp_path / "b", engine=ENGINES / profile).bundle), made.trusted_root
    )
    assert verified.manifest.determinism[0].numerics_class == "exact"


def test_an_engine_of_another_profile_is_refused(tmp_path: Path, execute: Callable[..., run.Outcome]) -> None:
    with pytest.raises(VerificationError, match="lock/profile"):
        execute(written(tmp_path, "{profile: portable}"), tmp_path / "b")


Reports = list[dict[str, Any]]


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.clear(),
        lambda found: found.append(found[0]),
        lambda found: found[0].update(model="other"),
        lambda found: found[0]["cells"].pop(),
        lambda found: found[0]["cells"].reverse(),
        lambda found: found[0]["cells"][3].update(cell="decode"),
        lambda found: found[0]["cells"][3].update(differing=1),
        lambda found: found[0]["cells"][3].update(rows=0),
        lambda found: found[0]["cells"][3].update(differing=10**6),
    ],
)
def test_a_lab_that_signs_another_self_test_is_caught(made: Made, change: Callable[[Reports], object]) -> None:
    def lie(signed: Any, _files: dict[str, bytes]) -> None:
        change(signed["predicate"]["determinism"])

    with pytest.raises(VitrineError):
        verify.verify(resign(made, lie), made.trusted_root)
