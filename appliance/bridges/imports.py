"""Suites from what other projects write: HarmBench's behaviours, lm-eval's tasks, Inspect's data sets.

Only what means the same here is taken: lm-eval's multiple choice over one local file, with columns and Jinja and no
code; Inspect's samples of text. All else is refused with its reason, and so is a file of which some row is no task
under the suite that was made. Data stay where they are; their digest is written into the suite.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from appliance import job
from appliance.evals import dataset, prompts
from appliance.evals.dataset import Row
from appliance.evals.suite import Suite
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported
from attest.files import read_file

Kind = Literal["harmbench", "lm-eval", "inspect"]
Made = dict[str, Any]
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMATS: Final = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".txt": "text"}
IGNORED: Final = frozenset({"task", "tag", "metadata", "dataset_name", "training_split", "fewshot_split"})
"""Of an lm-eval task: what changes neither prompts nor scores."""
KNOWN: Final = frozenset(
    {
        "dataset_path", "dataset_kwargs", "test_split", "validation_split", "output_type", "doc_to_text",
        "doc_to_choice", "doc_to_target", "description", "target_delimiter", "metric_list",
        "num_fewshot", "should_decontaminate", "doc_to_decontamination_query",
    }
)  # fmt: skip
METRICS: Final = {"acc": "option", "acc_norm": "character", "acc_bytes": "byte"}
LISTED: Final = re.compile(r"^\{\{\s*\[\s*(\w+(?:\s*,\s*\w+)*)\s*\]\s*\}\}$")
"""Options as a list of columns: `{{[wrong1, wrong2, right]}}`."""


def make(kind: Kind, source: Path, out: Path) -> bytes:
    """The YAML of the suite that is to lie at `out`. Raises `MalformedInput`, `Unsupported`."""
    makers = {"harmbench": harmbench, "lm-eval": lm_eval, "inspect": inspect}
    suite, data = makers[kind](source)
    content = read_file(data, dataset.MAX_BYTES)
    path = Path(os.path.relpath(data.absolute(), out.absolute().parent)).as_posix()
    form = {**suite.pop("form", {}), "format": format_of(data)}
    made = {
        "format": "vitrine/suite/v1",
        "name": name_of(suite.pop("name", source.stem)),
        "description": f"Imported from {source.name}, {kind}.",
        "dataset": {"path": path, "digest": digest_of(content), **form},
        **suite,
    }
    written = yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120).encode()
    loaded = job.parse(Suite, written, f"suite of {source.name}")
    (file,) = loaded.files.values()
    for task in prompts.tasks(loaded, dataset.read(content, file)):
        if loaded.prompt.raw and task.messages[-1].content != task.messages[-1].content.rstrip():
            raise Unsupported(source.name, f"row {task.index}: a prompt that ends in space, which lm-eval moves")
    return written


def harmbench(source: Path) -> tuple[Made, Path]:
    """HarmBench's behaviours (CSV), asked directly; refusal by the beginning of the reply."""
    columns = first_row(source).keys()
    if missing := sorted({"Behavior", "BehaviorID"} - columns):
        raise MalformedInput(source.name, f"expected the columns of HarmBench, missing are {missing}")
    context = "{% if ContextString %}{{ ContextString }}\n\n---\n\n{% endif %}" if "ContextString" in columns else ""
    category = {"category": "{{ SemanticCategory }}"} if "SemanticCategory" in columns else {}
    made = {
        "columns": {"id": "{{ BehaviorID }}", **category},
        "prompt": {"user": context + "{{ Behavior }}"},
        "solver": "generate",
        "scorers": [{"scorer": "refusal"}],
    }
    return made, source


def inspect(source: Path) -> tuple[Made, Path]:
    """A data set of Inspect's, with its own names of fields."""
    row = first_row(source)
    if missing := sorted({"input", "target"} - row.keys()):
        raise Unsupported(source.name, f"expected fields input and target, missing are {missing}")
    if found := sorted(name for name in ("sandbox", "files", "setup") if row.get(name)):
        raise Unsupported(source.name, f"expected samples that need no sandbox, found {found}")
    columns = {"id": "{{ id }}"} if "id" in row else {}
    if not isinstance(row["target"], str):
        raise Unsupported(source.name, f"expected one text as target, found {type(row['target']).__name__}")
    if not row.get("choices"):
        made: Made = {
            "columns": {**columns, "target": "{{ target }}"},
            "prompt": {"messages": "input"},
            "solver": "generate",
            "scorers": [{"scorer": "includes", "ignore_case": True}],
        }
        return made, source
    if not isinstance(row["choices"], list):
        raise Unsupported(source.name, "expected choices as a list, found a text: use JSON or JSON lines")
    made = {
        "columns": {**columns, "target": f"{{{{ '{LETTERS}'.index(target) }}}}", "choices": "choices"},
        "prompt": {"messages": "input"},
        "solver": "choose",
        "scorers": [{"scorer": "choice", "name": "accuracy"}],
    }
    return made, source


def lm_eval(source: Path) -> tuple[Made, Path]:
    """A multiple-choice task of lm-eval's over a local file."""
    task = job.mapping(read_file(source, job.MAX_BYTES), source.name)
    if unknown := sorted(task.keys() - KNOWN - IGNORED):
        raise Unsupported(source.name, f"expected a plain task, found settings {unknown}")
    if task.get("output_type") != "multiple_choice" or task.get("num_fewshot"):
        raise Unsupported(source.name, "expected output_type multiple_choice without examples, found another task")
    data = data_of(task, source)
    row = first_row(data)
    text, options = plain(task, "doc_to_text", source), task.get("doc_to_choice")
    delimiter = task.get("target_delimiter", " ")
    columns: Made = {}
    if isinstance(options, str) and options in row:
        columns = {"choices": options, "choice": delimiter + "{{ choice }}"}
        index = f"{{{{ {options}.index(%s) }}}}"
    elif isinstance(options, list) and all(isinstance(each, str) and "{" not in each for each in options):
        columns = {"choices": [delimiter + each for each in options]}
        index = f"{{{{ {options!r}.index(%s) }}}}"
    elif isinstance(options, str) and (listed := LISTED.match(options)):
        names = [name.strip() for name in listed[1].split(",")]
        columns = {"choices": [f"{delimiter}{{{{ {name} }}}}" for name in names]}
        index = f"{{{{ [{', '.join(names)}].index(%s) }}}}"
    else:
        raise Unsupported(source.name, f"expected doc_to_choice as a column or a list, found {options!r:.100}")
    target = task.get("doc_to_target")
    if isinstance(target, str) and target in row:
        columns["target"] = f"{{{{ {target} }}}}" if isinstance(row[target], int) else index % target
    elif isinstance(target, int | str):
        columns["target"] = str(target)
    else:
        raise Unsupported(source.name, f"expected doc_to_target as a column, a number or Jinja, found {target!r:.100}")
    made = {
        "name": str(task.get("task", source.stem)),
        "columns": columns,
        "prompt": {"raw": True, "user": task.get("description", "") + (f"{{{{ {text} }}}}" if text in row else text)},
        "solver": "choose",
        "scorers": [
            {"scorer": "choice", "name": metric, "per": METRICS[metric], "delimiter": delimiter}
            for metric in metrics(task, source)
        ],
    }
    return made, data


def data_of(task: Made, source: Path) -> Path:
    """The one local file that a task of lm-eval's is about."""
    files = (task.get("dataset_kwargs") or {}).get("data_files")
    split = task.get("test_split") or task.get("validation_split")
    found = files.get(split) if isinstance(files, dict) else files
    if task.get("dataset_path") not in ("json", "csv") or not isinstance(found, str) or not isinstance(split, str):
        raise Unsupported(
            source.name, "expected dataset_path json or csv and one local file of the split in data_files"
        )
    return source.parent / found


def metrics(task: Made, source: Path) -> list[str]:
    """The metrics of a task; lm-eval's usual ones where it names none."""
    listed = task.get("metric_list") or [{"metric": "acc"}, {"metric": "acc_norm"}]
    found = [one.get("metric") if isinstance(one, dict) else None for one in listed]
    if unknown := [one for one in found if one not in METRICS]:
        raise Unsupported(source.name, f"expected metrics among {sorted(METRICS)}, found {unknown}")
    return [str(one) for one in found]


def plain(task: Made, part: str, source: Path) -> str:
    """A text of the task. Raises `Unsupported` where it is none."""
    found = task.get(part)
    if not isinstance(found, str):
        raise Unsupported(source.name, f"expected {part} as a column or Jinja, found {found!r:.100}")
    return found


def first_row(data: Path) -> Row:
    """The first row of a file, for its columns."""
    made = dataset.Dataset(path=data.name, digest=digest_of(b""), format=format_of(data))  # type: ignore[arg-type]
    return dataset.read(read_file(data, dataset.MAX_BYTES), made)[0]


def format_of(data: Path) -> str:
    """How a file is read, by its name. A `.json` of lines is one of lines."""
    found = FORMATS.get(data.suffix)
    if found is None:
        raise Unsupported(data.name, f"expected a file that ends in one of {sorted(FORMATS)}")
    if found == "json" and not read_file(data, dataset.MAX_BYTES).lstrip().startswith(b"["):
        return "jsonl"
    return found


def name_of(text: str) -> str:
    """`text` as a name of ours."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower())[:64].strip("-_.") or "imported"
