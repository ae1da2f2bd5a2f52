"""Suites made of other projects' files, and what is refused of those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance import job
from appliance.bridges import imports
from appliance.evals import dataset, prompts
from appliance.evals.prompts import Task
from appliance.evals.suite import Suite
from attest.errors import MalformedInput, Unsupported, VitrineError

ROWS = [
    {"q": "Which?", "options": ["left", "right"], "gold": 1, "word": "left", "a": "up", "b": "down", "c": "down"},
    {"q": "What?", "options": ["one", "two"], "gold": 0, "word": "two", "a": "in", "b": "out", "c": "in"},
]
TASK: dict[str, Any] = {
    "task": "My Task",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{q}}\nA:",
    "doc_to_choice": "options",
    "doc_to_target": "gold",
}


def tasks(kind: imports.Kind, source: Path) -> tuple[Suite, list[Task]]:
    """The suite that is made of `source`, written beside it, and its tasks."""
    out = source.with_name("suite.yaml")
    out.write_bytes(imports.make(kind, source, out))
    suite = job.parse(Suite, out.read_bytes(), "suite")
    (file,) = suite.files.values()
    return suite, prompts.tasks(suite, dataset.read((out.parent / file.path).read_bytes(), file))


def lm_eval(folder: Path, **changes: Any) -> tuple[Suite, list[Task]]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "task.yaml").write_text(yaml.safe_dump({name: it for name, it in (TASK | changes).items() if it != ...}))
    return tasks("lm-eval", folder / "task.yaml")


@pytest.mark.parametrize(
    ("changes", "prompt", "options", "targets"),
    [
        ({}, "Q: Which?\nA:", (" left", " right"), ["1", "0"]),
        ({"doc_to_text": "q", "description": "Say. "}, "Say. Which?", (" left", " right"), ["1", "0"]),
        ({"doc_to_target": "word"}, "Q: Which?\nA:", (" left", " right"), ["0", "1"]),
        ({"doc_to_target": 0, "target_delimiter": ""}, "Q: Which?\nA:", ("left", "right"), ["0", "0"]),
        ({"doc_to_target": "{{1 - gold}}"}, "Q: Which?\nA:", (" left", " right"), ["0", "1"]),
        ({"doc_to_choice": ["no", "yes"]}, "Q: Which?\nA:", (" no", " yes"), ["1", "0"]),
        ({"doc_to_choice": "{{[a, b]}}", "doc_to_target": "c"}, "Q: Which?\nA:", (" up", " down"), ["1", "0"]),
    ],
)
def test_a_plain_task_of_lm_eval_becomes_the_same_questions(
    changes: dict[str, Any], prompt: str, options: tuple[str, ...], targets: list[str], tmp_path: Path
) -> None:
    suite, found = lm_eval(tmp_path, **changes)
    assert (suite.name, suite.prompt.raw, [spec.label for spec in suite.scorers]) == (
        "my-task",
        True,
        ["acc", "acc_norm"],
    )
    assert found[0].messages[0].content == prompt
    assert found[0].choices == options
    assert [task.target for task in found] == targets


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"process_docs": "utils.py"}, "process_docs"),
        ({"include": "other.yaml"}, "include"),
        ({"output_type": "generate_until"}, "multiple_choice"),
        ({"num_fewshot": 5}, "without examples"),
        ({"dataset_path": "allenai/ai2_arc"}, "local file"),
        ({"dataset_kwargs": ...}, "local file"),
        ({"metric_list": [{"metric": "f1"}]}, "metrics among"),
        ({"doc_to_choice": "{{options | reverse}}"}, "doc_to_choice"),
        ({"doc_to_text": ...}, "doc_to_text"),
        ({"doc_to_target": ...}, "doc_to_target"),
        ({"doc_to_target": "q"}, "template 'columns.target'"),
        ({"doc_to_text": "Q: {{q}} "}, "ends in space"),
        ({"doc_to_text": "Q: {{unknown}}"}, "unknown"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_reason(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(VitrineError, match=reason):
        lm_eval(tmp_path, **changes)


def test_code_in_a_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("task: x\nprocess_docs: !function utils.process_docs\n")
    with pytest.raises(MalformedInput, match="tags"):
        imports.make("lm-eval", tmp_path / "task.yaml", tmp_path / "suite.yaml")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("harmbench/harmbench_behaviors_text_all.csv", 400),
        ("harmbench/harmbench_behaviors_text_test.csv", 320),
        ("harmbench/harmbench_behaviors_text_val.csv", 80),
    ],
)
def test_the_behaviours_of_harmbench_become_a_suite(name: str, rows: int, data: Path, tmp_path: Path) -> None:
    (tmp_path / "behaviours.csv").write_bytes((data / "datasets" / name).read_bytes())
    suite, found = tasks("harmbench", tmp_path / "behaviours.csv")
    assert len(found) == rows
    assert [spec.label for spec in suite.scorers] == ["refusal"]
    assert all(task.category for task in found)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("inspect_examples/theory_of_mind.jsonl", "generate"),
        ("inspect_examples/security_guide.jsonl", "generate"),
        ("inspect_examples/biology_qa.jsonl", "fields input and target"),
        ("inspect_logs/samples-md.csv", "generate"),
        ("inspect_logs/samples-mcq.json", "choose"),
        ("inspect_logs/samples-mcq.jsonl", "choose"),
        ("inspect_logs/samples-mcq.csv", "choices as a list"),
        ("inspect_logs/samples.jsonl", "no sandbox"),
    ],
)
def test_data_sets_of_inspect_become_suites_or_are_refused(name: str, outcome: str, data: Path, tmp_path: Path) -> None:
    source = tmp_path / Path(name).name
    source.write_bytes((data / "datasets" / name).read_bytes())
    if outcome not in ("generate", "choose"):
        with pytest.raises(Unsupported, match=outcome):
            imports.make("inspect", source, tmp_path / "suite.yaml")
        return
    suite, found = tasks("inspect", source)
    assert suite.solver == outcome
    assert found[0].target is not None
    if outcome == "choose":
        assert (found[0].choices or ())[int(found[0].target)] == "1"  # "Which is the smallest number?"


@pytest.mark.parametrize("kind", ["harmbench", "inspect", "lm-eval"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b"a,b\n1\n", b"a: [b", b"- 1\n", b"null"])
@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".yaml", ".exe"])
def test_a_file_of_another_kind_raises_only_our_errors(
    kind: imports.Kind, content: bytes, suffix: str, tmp_path: Path
) -> None:
    source = tmp_path / f"file{suffix}"
    source.write_bytes(content)
    with pytest.raises(VitrineError):
        imports.make(kind, source, tmp_path / "suite.yaml")
