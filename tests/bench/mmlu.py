"""The four-choice job: one subject of MMLU, five shots, the letters as options; and its prompts for the other sides.

The first five rows of the subject's file are the shots, all others are scored. What the model reads is what the
product makes of job, suite and chat template; the other sides get the same token ids.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

from appliance import job as jobs
from appliance.evals import dataset, prompts
from appliance.evals.prompts import Selection
from appliance.runtime.model import Model
from attest.errors import EnvironmentProblem

ROOT = Path(__file__).resolve().parents[2]
SUBJECT = "high_school_macroeconomics"
SHOTS = 5
LETTERS = "ABCD"
CONTEXT_TOKENS = 2048


def data() -> Path:
    """The subject's file in the test data. Raises `EnvironmentProblem` where there is none."""
    folder = Path(os.environ.get("VITRINE_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "datasets" / "mmlu_subset200" / f"{SUBJECT}_test.csv"
    if not path.is_file():
        raise EnvironmentProblem(f"no MMLU rows at {path}: set VITRINE_TEST_DATA to the folder of the test data")
    return path


def write(folder: Path, model: Path, *, profile: str, threads: int, sequences: int, limit: int | None) -> Path:
    """Write data set, suite and job into `folder`; the job's path. `limit` scores fewer rows."""
    with data().open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", *LETTERS, "answer"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[SHOTS:])
    content = text.getvalue().encode()
    (folder / "rows.csv").write_bytes(content)
    subject = SUBJECT.replace("_", " ")
    shots = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    shots += "".join(f"{_question(row)} {LETTERS[int(row['answer'])]}\n\n" for row in rows[:SHOTS])
    template = "{{ question }}\n" + "".join(f"{letter}. {{{{ {letter} }}}}\n" for letter in LETTERS) + "Answer:"
    suite = {
        "format": "vitrine/suite/v1",
        "name": "mmlu",
        "description": f"MMLU (Hendrycks et al. 2021), {subject}, {SHOTS} shots, the letters as options.",
        "dataset": {
            "path": "rows.csv",
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "format": "csv",
        },
        "columns": {"target": "{{ answer }}", "choices": list(LETTERS)},
        "prompt": {"user": "{% raw %}" + shots + "{% endraw %}" + template},
        "solver": "choose",
        "scorers": [{"scorer": "choice", "name": "accuracy"}],
    }
    job = {
        "format": "vitrine/job/v1",
        "name": "bench-mmlu",
        "models": [{"id": "random", "path": str(model.resolve())}],
        "suites": [{"path": "suite.yaml", **({} if limit is None else {"limit": limit})}],
        "limits": {"context_tokens": CONTEXT_TOKENS, "memory_bytes": 8 << 30, "sample_timeout_s": 3600},
        "numerics": {"profile": profile, "threads": threads, "sequences": sequences},
    }
    # A JSON file is read as the YAML that it is.
    (folder / "suite.yaml").write_text(json.dumps(suite, indent=1), "utf-8")
    path = folder / "job.yaml"
    path.write_text(json.dumps(job, indent=1), "utf-8")
    return path


def tasks(path: Path) -> list[prompts.Task]:
    """The tasks of the job at `path`, as the eval worker makes them."""
    loaded = jobs.load(path)
    return [
        task
        for item, entry in zip(jobs.load_suites(loaded), loaded.job.suites, strict=True)
        for name, file in item.suite.files.items()
        for task in prompts.tasks(
            item.suite, dataset.read(item.datasets[name].read_bytes(), file), Selection(limit=entry.limit)
        )
    ]


def for_others(model: Model, found: list[prompts.Task]) -> list[dict[str, Any]]:
    """Text and token ids of every prompt and option, in JSON's types."""
    rows = []
    for task in found:
        assert model.template is not None and task.choices is not None
        rows.append(
            {
                "text": "".join(segment.text for segment in model.template.render(task.messages)),
                "tokens": model.prompt(task.messages),
                "options": list(task.choices),
                "option_tokens": [model.tokenize(text, special=False, add_bos=False) for text in task.choices],
                "target": int(task.target or 0),
            }
        )
    return rows


def _question(row: dict[str, str]) -> str:
    return "\n".join([row["question"], *(f"{letter}. {row[letter]}" for letter in LETTERS), "Answer:"])
