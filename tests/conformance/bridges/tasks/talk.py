"""Inspect tasks as anybody writes them: nothing in them knows this project."""

from __future__ import annotations

import os
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, includes, mean, scorer
from inspect_ai.solver import TaskState, generate, system_message, user_message

DATA = Path(os.environ["TASK_DATA"])


@scorer(metrics=[mean()])
def brevity() -> Scorer:
    async def score(state: TaskState, _target: Target) -> Score:
        return Score(value=1 / (1 + len(state.output.completion)))

    return score


@task
def addition() -> Task:
    return Task(
        dataset=json_dataset(str(DATA / "addition.jsonl"), FieldSpec(input="question", target="answer", id="id")),
        solver=generate(),
        scorer=includes(),
    )


@task
def talk() -> Task:
    """Two turns, drawn, twice each."""
    return Task(
        dataset=json_dataset(str(DATA / "addition.jsonl"), FieldSpec(input="question", target="answer", id="id")),
        solver=[system_message("Be brief."), generate(), user_message("And what is 2+2?"), generate()],
        scorer=[brevity(), includes()],
        epochs=2,
        config=GenerateConfig(temperature=0.9, max_tokens=16),
    )
