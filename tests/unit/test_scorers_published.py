"""Scorers against verdicts that others published: GSM8K's labels, IFEval's strict verdicts, on all rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance.evals.scorers import Reference, Scored, score
from appliance.evals.scorers.ifeval.instructions import CHECKS
from appliance.evals.scorers.ifeval.scorer import IfEval, verdicts
from appliance.evals.scorers.numeric import Numeric


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_gsm8k_labels_of_stored_solutions(data: Path) -> None:
    rows = lines(data / "datasets" / "gsm8k" / "example_model_solutions.jsonl")
    assert len(rows) == 1319
    # The solutions mark their answers with "A:", where the data set's own have "####".
    by_marker, last = Numeric(scorer="numeric", marker="\nA:"), Numeric(scorer="numeric")
    labels = 0
    for row in rows:
        target = row["ground_truth"].rpartition("A:")[2]
        for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            solution, right = row[name]["solution"], "1" if row[name]["is_correct"] else "0"
            assert score(by_marker, solution, Reference(target)) == Scored(right), solution
            if "A:" in solution:
                assert score(last, solution, Reference(target)) == Scored(right), solution
            labels += 1
    assert labels == 4 * 1319


def test_gsm8k_reference_answers_are_right(data: Path) -> None:
    marked = Numeric(scorer="numeric", marker="####")
    rows = lines(data / "datasets" / "gsm8k" / "test.jsonl")
    assert {str(score(marked, row["answer"], Reference(row["answer"].split("####")[1]))) for row in rows} == {
        str(Scored("1"))
    }


def test_ifeval_strict_verdicts_of_stored_responses(data: Path) -> None:
    folder = data / "datasets" / "ifeval"
    rows = {row["prompt"]: row for row in lines(folder / "input_data.jsonl")}
    published = lines(folder / "eval_results_strict.jsonl")
    prompt, share = IfEval(scorer="ifeval"), IfEval(scorer="ifeval", level="instruction")
    instructions: list[str] = []
    for verdict in published:
        row, reply = rows[verdict["prompt"]], verdict["response"]
        followed = verdicts(reply, row["instruction_id_list"], row["kwargs"], "strict")
        assert followed == verdict["follow_instruction_list"], (row["key"], row["instruction_id_list"])
        reference = Reference(None, row)
        assert score(prompt, reply, reference) == Scored("1" if verdict["follow_all_instructions"] else "0")
        found = score(share, reply, reference)
        assert isinstance(found, Scored)
        assert found.facts == {"followed": str(sum(followed)), "asked": str(len(followed))}
        loose = verdicts(reply, row["instruction_id_list"], row["kwargs"], "loose")
        assert all(late or not early for early, late in zip(followed, loose, strict=True))
        instructions += row["instruction_id_list"]
    assert (len(published), len(instructions)) == (540, 832)
    assert set(instructions) == set(CHECKS)
    assert len(CHECKS) == 25
