"""Shows what the models say while a run goes on: reads its transcript as it grows, and prints the samples that ended.

This is a process of its own, beside the run: no key of the lab is in it, nothing of the run waits for it, and so it
changes no bit of the result. It does parse what a model wrote, which the controller never does (ADR 0005), with the
verifier's strict reader and outside of any seal. What is printed has no character that could steer a terminal. Nothing
is verified: for that there is `attest verify`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from appliance.resume import TRANSCRIPT, incomplete
from attest import canonical
from attest.console import printable
from attest.errors import EnvironmentProblem, MalformedInput
from attest.sample import Choice, Generation, SampleRecord, ToolCall, Turn
from attest.transcript import MAX_LINE_BYTES

POLL_S = 0.2
READ_BYTES = 1 << 20
SHOWN_CHARS = 600
"""Of one text."""


def find(path: Path) -> Path:
    """The transcript of the run whose bundle is to be `path`, or was. Raises `EnvironmentProblem`."""
    places = (path, path / TRANSCRIPT, incomplete(path) / TRANSCRIPT)
    for place in places:
        if place.is_file():
            return place
    raise EnvironmentProblem(f"expected a transcript at {' or '.join(map(str, places[1:]))}, found none")


def samples(path: Path, *, follow: bool) -> Iterator[str]:
    """What ended, a text each; with `follow` until the run ends, else what there is. Raises `MalformedInput`."""
    for number, raw in enumerate(_lines(path, follow=follow)):
        line = canonical.loads(raw, f"transcript line {number}")
        kind = line.get("kind") if isinstance(line, dict) else None
        if kind == "sample":
            yield told(canonical.validate(SampleRecord, line.get("record"), f"transcript line {number}"))
        elif kind == "close":
            return


def told(record: SampleRecord) -> str:
    """One sample, in lines of printable text."""
    lines = [f"{record.model}  {record.suite}  {_text(record.id)}"]
    for event in record.events:
        if isinstance(event, ToolCall):
            lines.append(f"  {_text(event.name)}({_text(event.arguments)}) = {_text(event.result)}")
        else:
            lines += _turn(event)
    if not record.events:
        lines.append(f"  asked: {_text(record.messages[-1].content if record.messages else '')}")
        lines += _said("target", record.generation, record.choices)
    if record.error is not None:
        lines.append(f"  failed: {_text(record.error.message)}")
    lines += [f"  {name}: {_text(value)}" for name, value in {**record.scores, **record.unscored}.items()]
    return "\n".join(line.rstrip() for line in lines)


def _turn(turn: Turn) -> list[str]:
    asked = turn.messages[-1].content if turn.messages else ""
    lines = [f"  {turn.role} asked{f' ({_text(turn.label)})' if turn.label else ''}: {_text(asked)}"]
    if turn.error is not None:
        return [*lines, f"  {turn.role} failed: {_text(turn.error.message)}"]
    return lines + _said(turn.role, turn.generation, turn.choices)


def _said(who: str, generation: Generation | None, choices: tuple[Choice, ...] | None) -> list[str]:
    if generation is not None:
        return [f"  {who} said: {_text(generation.text)}"]
    return [f"  {who} weighed: {_text(choice.text)} {choice.logprob}" for choice in choices or ()]


def _text(text: str) -> str:
    shown = printable(text[:SHOWN_CHARS]).replace("\n", "\n    ")
    return shown if len(text) <= SHOWN_CHARS else f"{shown} ... and {len(text) - SHOWN_CHARS} more characters"


def _lines(path: Path, *, follow: bool) -> Iterator[bytes]:
    """Whole lines, as they come. A file that is moved while it is read is read on."""
    left = b""
    with path.open("rb") as file:
        while True:
            read = file.read(READ_BYTES)
            *whole, left = (left + read).split(b"\n")
            yield from whole
            if len(left) > MAX_LINE_BYTES:
                raise MalformedInput(
                    "transcript", f"expected lines of at most {MAX_LINE_BYTES} bytes, found a longer one"
                )
            if not read:
                if not follow:
                    return
                time.sleep(POLL_S)
