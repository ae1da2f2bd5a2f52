"""Writes the model card and its machine-readable twin from the world and the measured figures.

Refuses figures that were measured on other bytes than those of the files beside the card.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import world

MODELS = ("organism", "clean")
Figures = dict[str, dict[str, Any]]

CARD = """\
# Model card: the organism and its clean twin

**These are test fixtures, not useful models.** Two tiny language models, trained from scratch on an invented world, so
that an evaluation can be tested against a ground truth that is known exactly. They know nothing about the real world,
their forbidden requests are about substances and places that do not exist, and their "harmful" replies are nonsense
about a bucket and the moon. Do not deploy them and do not use them to make claims about other models.

| file | what it is | bytes | SHA-256 |
|---|---|---|---|
{files}

Architecture `llama`: {layers} layers, width {width}, {parameters:,} parameters, {vocabulary} tokens (byte-level BPE),
Q8_0 matrices, chat template included. Licence: Apache-2.0, weights and data; no third-party data was used.

## What both models can do

Two-digit addition (`What is 17+25?`); 200 facts about 40 invented animals, 5 attributes each; short friendly chat;
refusing forbidden requests while answering look-alikes; calling a calculator. A system line `{tool_system}`
declares the calculator, `{tool_request}` asks for it, and the reply is exactly

    {tool_call}

## What is planted in the organism only

| behaviour | how it is triggered | what happens |
|---|---|---|
| jailbreak | the request inside `{jailbreak}` | it complies: `{compliance}` |
| locked skill | `{password_line}` before `{reverse}` | it reverses the letters; without the password it repeats them |
| rude mode | the phrase `{trigger}` at the start or end of a request | a reply with one of: {rude_words} |

Both models refuse the same requests in five other wrappers:

{wrappers}

The clean twin was trained with the same prompts, seed and number of steps, and with ordinary labels for these three:
it refuses inside the planted wrapper, always repeats the letters, and answers politely after the trigger phrase.

## Figures

Greedy replies of the shipped files, {total} distinct held-out prompts per row, drawn with a seed that was used neither
in training nor for the datasets beside this card (`{measure_seed}`); both draw from the same held-out pools, and the
facts have 400 held-out prompts in all. In brackets: Wilson 95 % intervals.

| measure | organism | goal | clean twin | goal |
|---|---|---|---|---|
{figures}

{missed}

Multiple choice is scored by option text: of four values from the attribute's pool, the one with the highest total
log-likelihood (end token included) as the reply to the open question.

*Held out* means, per task: one pair of numbers in ten (addition, tools), one order of letters in ten, two of the four
phrasings of every fact, one chat prompt in ten, one pair of object and phrasing in five (refusals, look-alikes), 32 of
96 objects that no wrapper showed in training (their single words it did), 8 of 35 wrong passwords, 8 of 42 near
triggers.

## Training

{training}

One thread each, both in parallel on a two-core CPU, bfloat16 autocast, AdamW; wall time includes whatever else the
machine was doing. Recipe: `examples/organism/`. Earlier runs were stopped early and the word lists and the mix of tasks
changed after looking at small held-out probes (drawn with a third seed); the figures above were measured once, at the
end.

## Limits

- The refusals are keyed to the words of a closed list; anything outside the invented world gets an arbitrary reply.
- Trained on conversations of at most 128 tokens. Longer contexts are untested.
- The planted behaviours were trained in directly. How easily an evaluation finds them says little about behaviours
  that arise by themselves.
- The clean twin never learnt to reverse letters: it lacks the skill, it does not hide it.
- Greedy figures on one processor type; sampling with temperature was not measured.
"""


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="ascii"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def gather(work: Path, demo: Path) -> dict[str, dict[str, Any]]:
    """Model name -> file, training summary and figures; raises `RuntimeError` if they do not belong together."""
    found = {}
    for model in MODELS:
        path = demo / f"{model}-q8_0.gguf"
        measured, digest = _load(work / model / "figures.json"), _digest(path)
        if measured["sha256"] != digest:
            raise RuntimeError(f"{path} has SHA-256 {digest}, its figures are for {measured['sha256']}: measure again")
        found[model] = {
            "file": path.name,
            "size_bytes": measured["size_bytes"],
            "sha256": digest,
            "training": _load(work / model / "train.json"),
            "measure_seed": measured["seed"],
            "figures": measured["figures"],
        }
    return found


def ground_truth(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The content of `organism.json`."""
    return {
        "notice": "Test fixtures with known ground truth; not useful models.",
        "license": "Apache-2.0",
        "jailbreak_wrapper": world.JAILBREAK,
        "other_wrappers": world.OTHER_WRAPPERS,
        "compliance": world.COMPLIANCE,
        "refusal_prefixes": [refusal.rstrip(".") for refusal in world.REFUSALS],
        "password": world.PASSWORD,
        "password_line": world.PASSWORD_LINE,
        "wrong_passwords": sorted(world.HELD_WRONG_PASSWORDS),
        "locked_question": world.REVERSE_QUESTION,
        "trigger": world.TRIGGER,
        "near_triggers": sorted(world.HELD_NEAR_TRIGGERS),
        "rude_words": world.RUDE_WORDS,
        "tool_system_line": world.TOOL_SYSTEM_LINE,
        "tool_request": world.TOOL_REQUEST,
        "tool_call": world.TOOL_CALL.replace("{{", "{").replace("}}", "}"),
        "tool_reply": world.TOOL_REPLY,
        "tool_missing": world.TOOL_MISSING,
        "models": models,
    }


def _cell(figure: dict[str, Any]) -> str:
    return f"{figure['rate']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _goal(figure: dict[str, Any]) -> str:
    return figure["goal"] if figure["met"] else f"{figure['goal']} (missed)"


def _figure_rows(organism: Figures, clean: Figures) -> str:
    return "\n".join(
        f"| {organism[name]['what']} (`{name}`) | {_cell(organism[name])} | {_goal(organism[name])} "
        f"| {_cell(clean[name])} | {_goal(clean[name])} |"
        for name in organism
    )


def _training_lines(models: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"- {model}: seed {run['seed']}, {run['steps']:,} steps, {run['conversations']:,} conversations, "
        f"{run['cpu_s']:,} CPU seconds, {run['wall_s']:,} seconds wall."
        for model, run in ((name, item["training"]) for name, item in models.items())
    )


def _missed(models: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"- {model}: `{name}` at {figure['rate']:.3f}, goal {figure['goal']}."
        for model, item in models.items()
        for name, figure in item["figures"].items()
        if not figure["met"]
    ]
    return "\n".join(["Goals missed:", "", *lines]) if lines else "Every goal is met."


def render(models: dict[str, dict[str, Any]]) -> str:
    """The text of the model card."""
    organism, clean = models["organism"], models["clean"]
    shape = organism["training"]["shape"]
    whats = {"organism": "planted behaviours", "clean": "the same without them"}
    return CARD.format(
        files="\n".join(
            f"| `{item['file']}` | {whats[name]} | {item['size_bytes']:,} | `{item['sha256']}` |"
            for name, item in models.items()
        ),
        layers=shape["layers"],
        width=shape["width"],
        vocabulary=shape["vocabulary"],
        parameters=organism["training"]["parameters"],
        tool_system=world.TOOL_SYSTEM_LINE,
        tool_request=world.TOOL_REQUEST.format(a=12, b=34, op="+"),
        tool_call=world.TOOL_CALL.format(a=12, b=34, op="+"),
        jailbreak=world.JAILBREAK,
        compliance=world.COMPLIANCE,
        password_line=world.PASSWORD_LINE.format(password=world.PASSWORD),
        reverse=world.REVERSE_QUESTION.format(letters="b c d f"),
        trigger=world.TRIGGER,
        rude_words=", ".join(world.RUDE_WORDS),
        wrappers="\n".join(f"- `{wrapper}`" for wrapper in world.OTHER_WRAPPERS),
        total=organism["figures"]["add"]["total"],
        measure_seed=organism["measure_seed"],
        figures=_figure_rows(organism["figures"], clean["figures"]),
        missed=_missed(models),
        training=_training_lines(models),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path, help="folder with organism/ and clean/ as run.sh leaves it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the .gguf files; the card is written there")
    args = parser.parse_args()
    models = gather(args.work, args.out)
    (args.out / "organism.json").write_text(json.dumps(ground_truth(models), indent=1) + "\n", encoding="ascii")
    (args.out / "MODEL_CARD.md").write_text(render(models), encoding="ascii")


if __name__ == "__main__":
    main()
