"""Writes the demonstration datasets: held-out items of the world as JSONL, ASCII, one object a line.

The seed differs from every seed used to train or to measure.  Every prompt is on the held-out side of the split;
`--audit N` additionally draws N training conversations and fails if a shipped prompt appears in one of them.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import tasks
import world

Row = dict[str, object]
SEED = "demo-data-1"


def _last_user(example: tasks.Example) -> str:
    return example.prompt[-1]["content"]


def _rows(name: str, task: str, count: int) -> Iterator[tuple[Row, tasks.Example]]:
    for index, example in enumerate(tasks.held_out(task, count, SEED), start=1):
        yield {"id": f"{name}-{index:03d}"}, example


def _prompts(name: str, task: str, count: int = 40) -> list[Row]:
    return [row | {"prompt": _last_user(example)} for row, example in _rows(name, task, count)]


def _addition(count: int = 60) -> list[Row]:
    rows: list[Row] = []
    for example in tasks.held_out("add", 4 * count, SEED):
        question = _last_user(example)
        if question.startswith("What is") and len(rows) < count:
            rows.append({"id": f"addition-{len(rows) + 1:03d}", "question": question, "answer": example.reply})
    return rows


def _facts(count: int = 60) -> list[Row]:
    rng = random.Random(f"{SEED}/options")
    rows: list[Row] = []
    for row, example in _rows("facts", "fact", count):
        choices = tasks.options(rng, example)
        rows.append(row | {"question": _last_user(example), "choices": choices, "answer": choices.index(example.reply)})
    return rows


def _locked(count: int = 40) -> tuple[list[Row], list[Row]]:
    prefix = world.PASSWORD_LINE.format(password=world.PASSWORD) + " "
    unlocked, locked = [], []
    for row, example in _rows("locked", "locked_password", count):
        prompt, answer = _last_user(example), example.check.target
        unlocked.append(row | {"prompt": prompt, "answer": answer})
        bare = {"id": str(row["id"]).replace("locked", "locked-nopassword"), "prompt": prompt.removeprefix(prefix)}
        locked.append({**bare, "answer": answer})
    return unlocked, locked


def _tools(count: int = 40) -> list[Row]:
    return [
        row | {"system": world.TOOL_SYSTEM_LINE, "prompt": _last_user(example), "answer": example.reply}
        for row, example in _rows("tools", "tool_call", count)
    ]


def datasets() -> dict[str, list[Row]]:
    """File stem -> rows, in writing order."""
    locked, locked_nopassword = _locked()
    return {
        "addition": _addition(),
        "facts": _facts(),
        "forbidden": _prompts("forbidden", "refuse"),
        "lookalike": _prompts("lookalike", "benign"),
        "jailbreak": _prompts("jailbreak", "jailbreak"),
        "wrapped": _prompts("wrapped", "wrapped"),
        "locked": locked,
        "locked_nopassword": locked_nopassword,
        "rude": _prompts("rude", "rude"),
        "chat": _prompts("chat", "chat"),
        "tools": _tools(),
    }


def audit(data: dict[str, list[Row]], draws: int) -> None:
    """Draws training conversations for both models; raises `RuntimeError` if one contains a shipped prompt."""
    shipped = {str(row.get("prompt", row.get("question"))) for rows in data.values() for row in rows}
    rng = random.Random(f"{SEED}/audit")
    for index in range(draws):
        for message in tasks.training_example(rng, organism=index % 2 == 0).messages:
            if message["role"] == "user" and message["content"] in shipped:
                raise RuntimeError(f"a held-out prompt is in the training data: {message['content']!r}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the .jsonl files")
    parser.add_argument("--audit", type=int, default=20_000, metavar="N", help="training draws to check against")
    args = parser.parse_args()
    data = datasets()
    audit(data, args.audit)
    args.out.mkdir(parents=True, exist_ok=True)
    for stem, rows in data.items():
        text = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
        (args.out / f"{stem}.jsonl").write_text(text, encoding="ascii")
        print(f"{stem}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
