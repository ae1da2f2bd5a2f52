"""Another lab's run beside a verified one: the same records, some of them, or the one that was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance import run
from appliance.notary import lab as labs
from appliance.notary.lab import Lab
from attest import canonical, reproduction, verify
from attest.cli import app, read_bundle
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.reproduction import Reproduction, chance, difference
from attest.transcript import Transcript
from attest.verify import Verified
from tests.conftest import Made, now
from tests.tools.resign import Lines, resign, retell

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return labs.create(tmp_path_factory.mktemp("partner") / "lab", "partner.example", now=now)


@pytest.fixture(scope="module")
def again(made: Made, partner: Lab, execute: Callable[..., run.Outcome], tmp_path_factory: Any) -> Path:
    """The partner's run of the same job."""
    return execute(made.job, tmp_path_factory.mktemp("again") / "bundle", lab=partner).bundle


def seen(bundle: Path | dict[str, bytes], root: bytes) -> Verified:
    return verify.verify(bundle if isinstance(bundle, dict) else read_bundle(bundle), root)


def test_a_run_of_another_lab_reproduces_it(made: Made, partner: Lab, again: Path) -> None:
    verified = seen(made.bundle, made.trusted_root)
    rerun = seen(again, partner.trusted_root)
    both = reproduction.add(verified, [rerun])
    (found,) = both.reproductions
    assert (found.whole, found.same_lab, found.same_engine, found.compared) == (True, False, True, 10)
    assert found.issuer == rerun.issuer
    assert any("another lab" in line and "byte for byte" in line for line in both.proven)
    assert not any("that the outputs come from the model" in line for line in both.not_proven)
    assert any("that the outputs come from the model" in line for line in verified.not_proven)


def test_the_verdict_says_so(made: Made, partner: Lab, again: Path, tmp_path: Path) -> None:
    (tmp_path / "ours.json").write_bytes(made.trusted_root)
    (tmp_path / "theirs.json").write_bytes(partner.trusted_root)
    command = ["verify", str(made.bundle), "--trust", str(tmp_path / "ours.json"), "--rerun", str(again)]
    result = CliRunner().invoke(app, [*command, "--rerun-trust", str(tmp_path / "theirs.json")])
    assert result.exit_code == 0
    assert "reproduced (1)" in result.stdout
    result = CliRunner().invoke(app, [*command, "--rerun-trust", str(tmp_path / "theirs.json"), "--json"])
    assert json.loads(result.stdout)["reproductions"][0]["whole"] is True
    assert CliRunner().invoke(app, command).exit_code == 2


def test_a_part_that_was_drawn_again_is_a_sample(
    made: Made, execute: Callable[..., run.Outcome], tmp_path: Path
) -> None:
    text = made.job.read_text()
    assert "limit: 3" in text
    (tmp_path / "part.yaml").write_text(text.replace("limit: 3", "limit: 2"))
    rerun = seen(execute(tmp_path / "part.yaml", tmp_path / "bundle").bundle, made.trusted_root)
    both = reproduction.add(seen(made.bundle, made.trusted_root), [rerun])
    (found,) = both.reproductions
    assert (found.whole, found.same_lab) == (False, True)
    assert 0 < found.compared < found.samples == 10
    assert any(f"{10 - found.compared} samples were not drawn again" in line for line in both.not_proven)
    assert any("every rerun is its own" in line for line in both.not_proven)


def test_a_run_does_not_reproduce_itself(made: Made) -> None:
    verified = seen(made.bundle, made.trusted_root)
    assert refusal(verified, verified) == "same-run"


def test_a_rerun_counts_once_and_a_lab_is_known_by_its_name(made: Made, partner: Lab, again: Path) -> None:
    verified, rerun = seen(made.bundle, made.trusted_root), seen(again, partner.trusted_root)
    with pytest.raises(VerificationError, match="reproduction/same-run"):
        reproduction.add(verified, [rerun, rerun])
    respelled = replace(rerun, issuer=verified.issuer, log_index=verified.log_index + 1)
    assert respelled.trusted_root != verified.trusted_root
    assert reproduction.compare(verified, respelled).same_lab


@pytest.mark.parametrize(
    ("field", "place"), [("tokens", "generation.tokens[0]"), ("text", "generation.text"), ("id", "")]
)
def test_a_changed_sample_is_found(made: Made, partner: Lab, again: Path, field: str, place: str) -> None:
    """The lab signs a transcript that it changed; its own bundle verifies, and no other run agrees."""
    changed = seen(doctored(made, field), made.trusted_root)
    rerun = seen(again, partner.trusted_root)
    if field == "id":  # a sample that nobody else has: the others still agree
        assert not reproduction.compare(changed, rerun).whole
        return
    with pytest.raises(VerificationError) as caught:
        reproduction.compare(changed, rerun)
    assert (caught.value.layer, caught.value.code) == ("reproduction", "divergent")
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("seed: 7", "seed: 8", "settings"), ("max_tokens: 24", "max_tokens: 23", "settings")],
)
def test_another_job_is_no_rerun(
    made: Made, execute: Callable[..., run.Outcome], tmp_path: Path, old: str, new: str, code: str
) -> None:
    text = made.job.read_text()
    assert old in text
    (tmp_path / "other.yaml").write_text(text.replace(old, new))
    other = seen(execute(tmp_path / "other.yaml", tmp_path / "bundle").bundle, made.trusted_root)
    assert refusal(seen(made.bundle, made.trusted_root), other) == code


@pytest.fixture(scope="module")
def verified(made: Made) -> Verified:
    return seen(made.bundle, made.trusted_root)


def rerun_of(verified: Verified, **fields: Any) -> Verified:
    """Another run of the same, with other fields."""
    return replace(verified, **({"log_index": verified.log_index + 1} | fields))


def test_which_run_is_another(verified: Verified) -> None:
    for other in ({"log_index": verified.log_index + 1}, {"issuer": "https://partner.example/ca"}):
        found = reproduction.compare(verified, replace(verified, **other))
        assert (found.whole, found.same_lab, found.same_engine) == (True, True, True)
    engine = verified.manifest.engine.model_copy(update={"library": digest_of(b"another build")})
    manifest = verified.manifest.model_copy(update={"engine": engine})
    assert not reproduction.compare(verified, rerun_of(verified, manifest=manifest)).same_engine


@pytest.mark.parametrize(
    "job",
    [
        {"seed": 8},
        {"sampling": {"temperature": "0.7"}},
        {"limits": {"context_tokens": 512}},
        {"numerics": {"contract": "reported"}},
        {"numerics": {"kv": "q8_0"}},
    ],
)
def test_settings_that_decide_samples_are_equal(verified: Verified, job: dict[str, Any]) -> None:
    fields = {
        name: getattr(verified.job, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in job.items()
    }
    other = rerun_of(verified, job=verified.job.model_copy(update=fields))
    assert refusal(verified, other) == "settings"
    threads = verified.job.numerics.model_copy(update={"threads": 3, "sequences": 2})
    reproduction.compare(verified, rerun_of(verified, job=verified.job.model_copy(update={"numerics": threads})))


def only(verified: Verified, *suites: str) -> Transcript:
    """The transcript of these suites alone."""
    lines = verified.transcript.lines
    kept = [line for line in lines if line.kind != "sample" or line.record["suite"] in suites]  # type: ignore[index]
    return replace(verified.transcript, lines=tuple(kept))


@pytest.mark.parametrize(
    ("kind", "name", "common", "refused"),
    [
        ("model", "organism", ("facts",), True),
        ("suite", "facts", ("facts",), True),
        ("suite", "chat", ("facts",), False),
        ("dataset", "facts", ("facts",), True),
        ("dataset", "facts", ("addition",), False),
        ("dataset", "facts.more", ("facts",), True),
        ("dataset", "factsmore", ("facts",), False),
        ("dataset", "other", ("facts",), False),
        ("model", "other", ("facts",), False),
        ("policy", "facts", ("facts",), False),
        ("policy", "organism", ("facts",), False),
        ("engine", "libllama.so", ("facts",), False),
    ],
)
def test_what_the_samples_in_common_are_made_with_is_equal(
    verified: Verified, kind: Any, name: str, common: tuple[str, ...], refused: bool
) -> None:
    first = next(item for item in verified.lock.artifacts if item.kind == "suite")
    added = first.model_copy(update={"kind": kind, "name": name})
    kept = tuple(item for item in verified.lock.artifacts if (item.kind, item.name) != (kind, name))
    runs = [
        rerun_of(
            verified,
            log_index=number,
            lock=verified.lock.model_copy(
                update={"artifacts": (*kept, added.model_copy(update={"digest": digest_of(bytes(number))}))}
            ),
            transcript=only(verified, *common) if number else verified.transcript,
        )
        for number in (0, 1)
    ]
    if refused:
        assert refusal(*runs) == "artifacts"
    else:
        assert 0 < reproduction.compare(*runs).compared < 10


def test_the_place_of_a_sample_in_its_run_does_not_matter(verified: Verified) -> None:
    lines = []
    for line in verified.transcript.lines:
        record: Any = line.record
        moved_record = record | {"index": 99} if line.kind == "sample" else record
        lines.append(line._replace(raw_record=canonical.dumps(moved_record)))
    moved = rerun_of(verified, transcript=replace(verified.transcript, lines=tuple(lines)))
    assert reproduction.compare(verified, moved).whole


def test_runs_without_a_sample_in_common_say_nothing(verified: Verified) -> None:
    ours, theirs = (
        rerun_of(verified, log_index=at, transcript=only(verified, s)) for at, s in enumerate(("chat", "facts"))
    )
    assert refusal(ours, theirs) == "none-in-common"


def test_what_reruns_add(verified: Verified) -> None:
    assert reproduction.add(verified, []) is verified
    whole = rerun_of(verified)
    part = rerun_of(verified, log_index=verified.log_index + 2, transcript=only(verified, "facts"))
    partner = rerun_of(
        verified,
        issuer="https://partner.example/ca",
        trusted_root=digest_of(b"a partner"),
        transcript=only(verified, "facts", "chat"),
    )
    doubt, own, agreed = "the outputs come from the model", "every rerun is its own", "did not agree with each other"
    for reruns, said in (
        ([whole], [own]),
        ([part, whole], [own]),
        ([part], [doubt, "7 samples were not drawn again", own]),
        ([part, partner], [doubt, "4 samples were not drawn again", agreed]),
        ([partner], [doubt, "4 samples were not drawn again", agreed]),
    ):
        found = reproduction.add(verified, reruns)
        assert found.proven == (*verified.proven, *(each.describe() for each in found.reproductions))
        for sentence in (doubt, "7 samples", "4 samples", own, agreed):
            hits = [line for line in found.not_proven if sentence in line]
            assert len(hits) == any(sentence in each for each in said), sentence
        kept = [line for line in verified.not_proven if doubt not in line]
        assert [line for line in kept if line in found.not_proven] == kept


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ((True, True, 9, 9), "the same lab drew all 9 samples again: the same records, byte for byte"),
        ((True, True, 8, 9), "the same lab drew 8 of 9 samples again: the same records, byte for byte"),
        (
            (False, False, 9, 9),
            "another lab, https://p.example/ca, drew all 9 samples again, with another build of the engine: "
            "the same records, byte for byte",
        ),
    ],
)
def test_a_rerun_in_a_sentence(fields: tuple[bool, bool, int, int], sentence: str) -> None:
    assert Reproduction("https://p.example/ca", *fields).describe() == sentence


def test_chance() -> None:
    assert chance(300, 3, 0) == 1
    assert chance(10, 1, 10) == 0
    assert chance(10, 1, 5) == 1 / 2
    # PEERS of this method say: 300 samples catch one doctored in a hundred with 95 percent.
    assert chance(100_000, 1000, 300) < 0.05


@pytest.mark.parametrize(
    ("ours", "theirs", "place"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": 1}, {}, "a"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "a[1]"),
        ({"a": [1]}, {"a": [1, 2]}, "a, its length"),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b"),
        ({}, {"b": 3}, "b"),
        ({"tokens": [1]}, {"text": "x"}, "tokens"),
        ({"text": "x"}, {"tokens": [1]}, "tokens"),
        ({"a": [1]}, {"a": {"0": 1}}, "a"),
        ({"a": {"0": 1}}, {"a": [1]}, "a"),
        ([1, 2], [1, 2, 3], ", its length"),
        (
            {"generation": {"text": "x", "tokens": [1]}},
            {"generation": {"text": "y", "tokens": [2]}},
            "generation.tokens[0]",
        ),
    ],
)
def test_the_first_difference_is_named(ours: Any, theirs: Any, place: str) -> None:
    assert difference(ours, theirs)[0] == place


def refusal(first: Verified, second: Verified) -> str:
    with pytest.raises(VerificationError) as caught:
        reproduction.compare(first, second)
    assert caught.value.layer == "reproduction"
    return caught.value.code


def doctored(made: Made, field: str) -> dict[str, bytes]:
    """The bundle with another third sample, and with everything that follows from it."""

    def edit(lines: Lines) -> None:
        sample = lines[3][1]
        if field == "tokens":
            sample["generation"]["tokens"][0] += 1
        elif field == "text":
            sample["generation"]["text"] += " "
        else:
            sample["id"] = "nobody"

    return resign(made, retell(edit))
