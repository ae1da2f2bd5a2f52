"""Bundles as logs of Inspect, for its viewer and its tools: one log for each suite on each model.

A log is a copy for reading: scores are numbers in it, and it is not signed. Its metadata names the bundle by the digest
of its signature file. Nothing is verified here: `attest verify` does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from inspect_ai.event import ModelEvent, ToolEvent
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import Score
from inspect_ai.tool import ToolCall as InspectCall

from attest import bundle, canonical, statement, transcript, verify
from attest.digest import digest_of
from attest.manifest import ExecutionManifest
from attest.results import Results, SuiteResult
from attest.sample import Choice, Generation, Message, SampleRecord, Turn

STOPS = {"eos": "stop", "stop": "stop", "length": "max_tokens", "context": "model_length"}
"""Why a completion ended, in our words and in Inspect's."""


def logs(files: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    """A name and a log for each suite on each model of the bundle of `files`. Raises `MalformedInput`."""
    signed = statement.read(bundle.read(files[verify.SIGNATURE]).envelope.payload)
    results = canonical.parse(Results, files[verify.RESULTS], "results")
    lines = transcript.read(files[verify.TRANSCRIPT]).samples
    records = [canonical.parse(SampleRecord, line.raw_record, "sample") for line in lines]
    for suite in results.suites:
        own = [record for record in records if (record.model, record.suite) == (suite.model, suite.suite)]
        yield f"{suite.model}-{suite.suite}", log(signed.predicate, suite, own, digest_of(files[verify.SIGNATURE]))


def log(manifest: ExecutionManifest, suite: SuiteResult, records: list[SampleRecord], bundled: str) -> Any:
    """One suite on one model."""
    metadata = {
        "bundle": bundled,
        "job": manifest.job.digest,
        "lock": manifest.lock.digest,
        "results": manifest.results_digest,
        "metrics": {one.metric: one.estimate and one.estimate.model_dump() for one in suite.aggregates},
    }
    spec = EvalSpec(
        created=manifest.started,
        task=suite.suite,
        eval_id=f"{suite.model}-{suite.suite}",
        run_id=manifest.job.digest,
        task_id=suite.suite,
        dataset=EvalDataset(name=suite.suite, samples=suite.planned),
        model=f"vitrine/{suite.model}",
        config=EvalConfig(),
        packages={"vitrine": manifest.producer.version},
        metadata=metadata,
    )
    scores = [
        EvalScore(
            name=score.scorer,
            scorer=score.scorer,
            scored_samples=score.estimate.n if score.estimate else 0,
            unscored_samples=score.unscored,
            metrics={
                name: EvalMetric(name=name, value=float(value))
                for name, value in (score.estimate.model_dump(exclude={"n"}, exclude_none=True).items())
            }
            if score.estimate
            else {},
        )
        for score in suite.scores
    ]
    return EvalLog(
        status="success" if manifest.complete else "error",
        eval=spec,
        results=EvalResults(total_samples=suite.planned, completed_samples=suite.run, scores=scores),
        samples=[sample(record) for record in records],
    )


def sample(record: SampleRecord) -> Any:
    """One record as a sample; its turns and calls of tools as events."""
    turns = [event for event in record.events if isinstance(event, Turn)]
    decisive = record.events[record.decisive] if record.decisive is not None else None
    if not record.events and record.error is None:
        decisive = Turn(
            role="target",
            model=record.model,
            messages=record.messages,
            prompt_tokens=record.prompt_tokens,
            generation=record.generation,
            choices=record.choices,
        )
        turns = [decisive]
    asked = decisive.messages if isinstance(decisive, Turn) else record.messages
    said = output(decisive) if isinstance(decisive, Turn) else ModelOutput(model=record.model)
    return EvalSample(
        id=record.row,
        epoch=record.epoch or 1,
        input=messages(record.messages),
        choices=[choice.text for choice in record.choices] if record.choices else None,
        target=record.target or "",
        messages=[*messages(asked), *(choice.message for choice in said.choices)],
        output=said,
        scores={name: Score(value=float(value)) for name, value in record.scores.items()},
        metadata={"index": record.index, "category": record.category, "facts": record.facts}
        | ({"unscored": record.unscored} if record.unscored else {}),
        error=record.error and EvalError(
            message=f"{record.error.code}: {record.error.message}", traceback="", traceback_ansi=""
        ),
        events=[event_of(event) for event in record.events] or [event_of(turn) for turn in turns],
    )  # fmt: skip


def event_of(event: Any) -> Any:
    """A turn, or a call of a tool, as Inspect's event."""
    if isinstance(event, Turn):
        return ModelEvent(
            model=f"vitrine/{event.model}",
            role=event.role if event.role != "target" else None,
            input=messages(event.messages),
            tools=[],
            tool_choice="none",
            config=GenerateConfig(),
            output=output(event),
            error=f"{event.error.code}: {event.error.message}" if event.error else None,
        )
    return ToolEvent(id=digest_of(event.arguments.encode()), function=event.name, arguments={}, result=event.result)


def output(turn: Turn) -> Any:
    """What a turn's model said; of options, the likeliest, and all of them in the metadata."""
    if turn.choices is not None:
        best = max(turn.choices, key=lambda choice: float(choice.logprob))
        weighed = {"choices": [option(choice) for choice in turn.choices]}
        return ModelOutput.from_content(turn.model, best.text).model_copy(update={"metadata": weighed})
    if turn.generation is None:
        return ModelOutput(model=turn.model, error=turn.error and turn.error.message)
    return completion(turn.model, turn.generation, len(turn.prompt_tokens))


def completion(model: str, generation: Generation, prompt_tokens: int) -> Any:
    """A completion."""
    count = len(generation.tokens)
    return ModelOutput(
        model=model,
        choices=[
            ChatCompletionChoice(
                message=ChatMessageAssistant(content=generation.text, model=model), stop_reason=STOPS[generation.stop]
            )
        ],
        usage=ModelUsage(input_tokens=prompt_tokens, output_tokens=count, total_tokens=prompt_tokens + count),
        metadata={"logits_digest": generation.logits_digest},
    )


def option(choice: Choice) -> dict[str, str]:
    """An option as it stands in the metadata."""
    return {"text": choice.text, "logprob": choice.logprob, "logits_digest": choice.logits_digest}


def messages(conversation: tuple[Message, ...]) -> list[Any]:
    """A conversation as Inspect's messages."""
    return [message(one, place) for place, one in enumerate(conversation)]


def message(one: Message, place: int) -> Any:
    """One message; its place names the calls of tools in it."""
    if one.role == "system":
        return ChatMessageSystem(content=one.content)
    if one.role == "user":
        return ChatMessageUser(content=one.content)
    if one.role == "tool":
        return ChatMessageTool(content=one.content, function=one.name)
    called = [
        InspectCall(id=f"{place}-{number}", function=call.name, arguments=json.loads(call.arguments))
        for number, call in enumerate(one.tool_calls or ())
    ]
    return ChatMessageAssistant(content=one.content, tool_calls=called or None)
