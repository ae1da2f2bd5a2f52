"""`appliance run --dry-run`: what it shows is what the run then does, and nothing but its output is left of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from appliance import run
from appliance.notary.lab import Lab
from appliance.runtime import binding
from appliance.runtime.model import Model
from attest.digest import digest_of
from attest.sample import Message
from tests.conftest import ROOT
from tests.integration import recomputation as again
from tests.integration.test_agents import write_suites

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SUITES = ROOT / "examples" / "suites"
JOB = f"""
format: vitrine/job/v1
name: dry
seed: 5
models:
  - {{id: organism, path: "resource:demo/organism-q8_0.gguf"}}
  - {{id: clean, path: "resource:demo/clean-q8_0.gguf"}}
suites:
  - {{path: "resource:demo/suites/addition.yaml", limit: 5, shuffle: 3, models: [organism]}}
  - {{path: "resource:demo/suites/facts.yaml", limit: 9}}
  - {{path: {SUITES}/redteam-jailbreak.yaml, limit: 2, models: [organism]}}
  - {{path: shots.yaml, limit: 4, models: [organism]}}
  - {{path: agent-calculator.yaml, limit: 2, models: [organism]}}
  - {{path: grammar.yaml, limit: 2, models: [organism]}}
  - {{path: nonsense.yaml, limit: 2, models: [organism], attacker: clean, judge: clean}}
  - {{path: judged.yaml, limit: 3, models: [organism], judge: clean}}
sampling: {{max_tokens: 40}}
limits: {{context_tokens: 300, memory_bytes: 2147483648}}
schedule: sequential
"""


class Both(NamedTuple):
    """One job, dry and run."""

    dry: dict[str, Any]
    """The forecast."""
    records: list[again.Record]
    """What the run did."""


def command(job: Path, lab: Path, engine: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`appliance run` with `job`, in its folder."""
    given = ["--lab", str(lab), "--engine", str(engine), *options]
    return subprocess.run(
        [sys.executable, "-m", "appliance", "run", job.name, *given],
        capture_output=True,
        text=True,
        cwd=job.parent,
        timeout=300,
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, job: str = JOB) -> Path:
    """The job and its suites; one has examples in the prompt, one a judge."""
    write_suites(folder)
    addition = yaml.safe_load((ROOT / "appliance/demo/suites/addition.yaml").read_text())
    addition["dataset"]["path"] = str(ROOT / "appliance/demo/data/addition.jsonl")
    shots = {"dataset": addition["dataset"], "count": 3, "order": "seeded", "assistant": "{{ answer }}"}
    judge = {"scorer": "judge", "user": "{{ reply }}", "verdicts": {"good": "1", "bad": "0"}, "reason_chars": 20}
    for suite in ({**addition, "name": "shots", "shots": shots}, {**addition, "name": "judged", "scorers": [judge]}):
        (folder / f"{suite['name']}.yaml").write_text(json.dumps(suite))
    (folder / "job.yaml").write_text(job)
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, lab: Lab, engine: Path, execute: Callable[..., run.Outcome]) -> Both:
    job = write(tmp_path_factory.mktemp("dry"))
    before = tree(job.parent), tree(lab.path)
    done = command(job, lab.path, engine, "--dry-run", "--json", "--prompts", "1000")
    assert done.returncode == 0, done.stderr
    assert (tree(job.parent), tree(lab.path)) == before
    bundle = execute(job, job.parent / "bundle").bundle
    return Both(json.loads(done.stdout), again.transcript(bundle / "transcript.jsonl")[1])


def previews(both: Both) -> list[dict[str, Any]]:
    return [preview for suite in both.dry["suites"] for preview in suite["shown"]]


def asked(record: again.Record) -> list[dict[str, Any]]:
    """What the run asked the models, in order."""
    turns = [event for event in record.get("events", ()) if event["kind"] == "turn"]
    return turns or [{"role": "target", "label": "", **record}]


def plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def test_every_row_is_asked_what_the_dry_run_showed(both: Both) -> None:
    assert len(both.records) == both.dry["samples"] == len(previews(both)) >= 50
    for preview, record in zip(previews(both), both.records, strict=True):
        assert [preview[key] for key in ("model", "suite", "id")] == [record[key] for key in ("model", "suite", "id")]
        for ask, turn in zip(preview["asks"], asked(record), strict=False):
            assert (ask["role"], ask["label"]) == (turn["role"], turn.get("label", ""))
            assert plain(ask["shown"]["messages"]) == plain(turn["messages"])
            if "error" in turn:
                assert ask["error"] == turn["error"]
            else:
                assert ask["shown"]["prompt_tokens"] == turn["prompt_tokens"]
                assert (ask["tokens"], ask["error"]) == (len(turn["prompt_tokens"]), None)
            if turn.get("choices"):
                assert ask["option_tokens"] == [len(choice["tokens"]) for choice in turn["choices"]]
    by_suite = {preview["suite"]: preview for preview in previews(both)}
    attacks = {one["id"]: one["asks"] for one in previews(both) if one["suite"] == "redteam-jailbreak"}
    assert attacks["forbidden-001@wrappers"] != attacks["forbidden-001@direct"]
    assert by_suite["shots"]["asks"][0]["shown"]["text"].count("<|assistant|>") == 4  # three examples and the question
    assert {ask["role"] for ask in by_suite["nonsense"]["asks"]} == {"attacker"}


def test_the_bounds_hold_and_the_counts_are_those_of_the_run(both: Both) -> None:
    for suite in both.dry["suites"]:
        records = [one for one in both.records if (one["model"], one["suite"]) == (suite["model"], suite["suite"])]
        turns = [turn for record in records for turn in asked(record)]
        drawn = sum(len(turn["generation"]["tokens"]) for turn in turns if turn.get("generation"))
        made = Counter(turn["role"] for turn in turns)
        assert drawn <= suite["decode_tokens"]
        assert set(made) <= set(suite["requests"]) <= set(suite["roles"])
        assert all(count <= suite["requests"][role] for role, count in made.items())
        counts = sorted(ask["tokens"] for preview in suite["shown"] for ask in preview["asks"])
        assert suite["prompts"] == {
            "prompts": len(counts),
            "total": sum(counts),
            "least": counts[0],
            "median": counts[(len(counts) - 1) // 2],
            "most": counts[-1],
        }
    exact = {suite["suite"]: suite for suite in both.dry["suites"] if suite["model"] == "organism"}
    assert (exact["addition"]["decode_tokens"], exact["facts"]["decode_tokens"]) == (5 * 40, 0)
    assert exact["agent-calculator"]["requests"] == {"target": 2 * 3}
    assert exact["judged"]["requests"] == {"target": 3, "judge": 3}
    assert exact["redteam-jailbreak"]["requests"] == {"target": 2 * (1 + 5 + 10 + 24 + 3 + 4 + 2)}


def test_the_plan_says_what_is_loaded_when(both: Both) -> None:
    assert (both.dry["schedule"], both.dry["seed"], both.dry["attempt"]) == ("sequential", 5, None)
    loads = [(stage["load"], stage["keep"]) for stage in both.dry["stages"]]
    assert loads == [(["organism"], []), (["clean"], ["organism"]), ([], ["clean"])]
    assert 0 < both.dry["memory"]["needed"] < both.dry["memory"]["available"]
    assert both.dry["suites"][-1]["suite"] == "facts"  # the clean twin, which is under test there alone


def test_what_does_not_fit_is_named_as_the_run_names_it(
    tmp_path: Path, lab: Lab, engine: Path, execute: Callable[..., run.Outcome]
) -> None:
    text = JOB.replace("context_tokens: 300", "context_tokens: 16").replace("schedule: sequential", "")
    job = write(tmp_path, text)
    done = command(job, lab.path, engine, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    bundle = execute(job, tmp_path / "bundle").bundle
    records = again.transcript(bundle / "transcript.jsonl")[1]
    for suite in json.loads(done.stdout)["suites"]:
        if suite["solver"] in ("attack", "agent"):
            continue  # these may go on after a query without an answer
        own = [one for one in records if (one["model"], one["suite"]) == (suite["model"], suite["suite"])]
        failed = [{"id": one["id"], **one["error"]} for one in own if "error" in one]
        assert [one for one in suite["troubles"] if one["code"] != "cut"] == failed
        ended = [one["id"] for one in own if one.get("generation") and one["generation"]["stop"] == "context"]
        assert set(ended) <= {one["id"] for one in suite["troubles"] if one["code"] == "cut"}
    found = Counter(trouble["code"] for suite in json.loads(done.stdout)["suites"] for trouble in suite["troubles"])
    assert found["prompt-too-long"] > 10
    assert found["cut"] > 0


def test_nothing_that_is_shown_steers_the_terminal_or_looks_like_the_plan(
    tmp_path: Path, lab: Lab, engine: Path
) -> None:
    text = "\x1b[2J\x1b]0;owned\x07\u202e\r\nattempt 7: forged"
    rows = json.dumps({"id": "1", "prompt": text}).encode()
    (tmp_path / "rows.jsonl").write_bytes(rows)
    (tmp_path / "suite.yaml").write_text(
        f"""
format: vitrine/suite/v1
name: hostile
dataset: {{path: rows.jsonl, format: jsonl, digest: "{digest_of(rows)}"}}
prompt: {{user: "{{{{ prompt }}}}"}}
scorers: [{{scorer: refusal}}]
"""
    )
    models = '[{id: organism, path: "resource:demo/organism-q8_0.gguf"}]'
    (tmp_path / "job.yaml").write_text(
        f"format: vitrine/job/v1\nname: hostile\nmodels: {models}\nsuites: [{{path: suite.yaml}}]\n"
    )
    done = command(tmp_path / "job.yaml", lab.path, engine, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "forged" in done.stdout
    assert "forged" not in done.stderr
    assert all(char.isprintable() for line in done.stdout.split("\n") for char in line)
    assert [line[:12] for line in done.stdout.split("\n") if line.startswith("attempt")] == ["attempt none"]


def test_the_vocabulary_alone_makes_the_same_prompts(engine: Path, demo: Path) -> None:
    library = binding.load(os.open(engine / "libllama.so", os.O_RDONLY))
    library.llama_backend_init()
    whole, vocabulary = (
        Model(library, os.open(demo / "organism-q8_0.gguf", os.O_RDONLY), vocabulary_only=only)
        for only in (False, True)
    )
    assert whole.trained_tokens == vocabulary.trained_tokens == 2048
    assert whole.vocabulary == vocabulary.vocabulary
    messages = [Message(role="system", content="Be good."), Message(role="user", content="<|end|> Grüße, 7+8?")]
    assert whole.prompt(messages) == vocabulary.prompt(messages)
    assert whole.prompt(messages, raw=True) == vocabulary.prompt(messages, raw=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dry-run", "--wall", "container"], "--wall"),
        (["--dry-run", "--resume", "x.incomplete"], "--resume"),
        (["--dry-run", "--attester", "auto"], "--attester"),
        (["--dry-run", "--sign-incomplete"], "--sign-incomplete"),
        (["--prompts", "3"], "--dry-run"),
        (["--dry-run", "--prompts", "-1"], "--prompts"),
    ],
)
def test_what_a_dry_run_has_no_use_for_is_refused(tmp_path: Path, engine: Path, options: list[str], said: str) -> None:
    (tmp_path / "job.yaml").write_text((ROOT / "appliance" / "demo" / "job.yaml").read_text())
    done = command(tmp_path / "job.yaml", tmp_path / "lab", engine, *options)
    assert (done.returncode, sorted(path.name for path in tmp_path.iterdir())) == (2, ["job.yaml"])
    assert said in done.stderr


def test_a_bundle_in_its_place_is_refused_as_in_a_run(tmp_path: Path, lab: Lab, engine: Path) -> None:
    job = write(tmp_path)
    (tmp_path / "there").mkdir()
    dry, wet = (command(job, lab.path, engine, "--out", "there", *more) for more in (["--dry-run"], []))
    assert dry.returncode == wet.returncode == 1
    assert dry.stderr.splitlines()[-1] == wet.stderr.splitlines()[-1]
