"""Inspect's model provider `vitrine`: an unmodified Inspect task on a model in a sealed worker.

    inspect eval task.py --model vitrine/organism -M path=model.gguf

Inspect finds it by the entry point `inspect_ai` of this package. Every request stands in Inspect's log as the worker
got it, and its reply as the worker gave it, so that `appliance inspect sign` can put the same requests to the same
bytes again. Text only. A setting that the sampler does not have is refused; nothing is ignored in silence.
"""

from __future__ import annotations

import atexit
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from anyio import to_thread
from inspect_ai.log._samples import sample_active  # there is no public way to ask which sample is being worked on
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    GenerateConfig,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

from appliance.bridges.inspect_export import STOPS
from appliance.bridges.session import Reply, Session, Settings, decimal, open_session
from appliance.evals.conversation import Ask
from appliance.evals.tools import calls
from appliance.runtime import schema
from attest import canonical
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported
from attest.job import Limits, Numerics, Sampling
from attest.sample import Call, Message

PLAIN: Final = frozenset({"max_tokens", "temperature", "top_p", "top_k", "stop_seqs", "seed", "response_schema"})
"""Settings that the worker is told."""
OUTSIDE: Final = frozenset(
    {
        "adaptive_connections", "attempt_timeout", "batch", "cache", "cache_prompt", "fail_on_refusal",
        "internal_tools", "max_connections", "max_retries", "max_tool_output", "parallel_tool_calls",
        "stream_idle_timeout", "system_message", "timeout",
    }
)  # fmt: skip
"""Settings of connections and of Inspect itself, which change no reply."""
MAX_TOKENS: Final = 1024
"""Of a completion whose task says nothing; the context bounds it as well."""


class SealedModel(ModelAPI):  # type: ignore[misc] # Inspect is not installed where types are checked
    """One model in a sealed worker, open from here on until Inspect closes it or the process ends.

    `path`: the GGUF file; the model's name when absent. `engine`: the engine's folder. The rest as in a job.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        path: str | None = None,
        engine: str | None = None,
        context_tokens: int = 2048,
        memory_bytes: int = 8 << 30,
        sequences: int = 8,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        if base_url is not None or api_key is not None:
            raise Unsupported("vitrine", "expected a file, found an address or a key: the model is on this machine")
        super().__init__(model_name, config=config or GenerateConfig())
        self._seen: Counter[str] = Counter()
        self._stack = ExitStack()
        settings = Settings(
            limits=Limits(context_tokens=context_tokens, memory_bytes=memory_bytes),
            numerics=Numerics(sequences=sequences, threads=threads),
            seed=seed,
        )
        opening = open_session(Path(path or model_name), engine=Path(engine) if engine else None, settings=settings)
        self.session: Session = self._stack.enter_context(opening)
        atexit.register(self._stack.close)

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect calls it so
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> tuple[ModelOutput, ModelCall]:
        """One completion. Raises `Unsupported` for what the worker cannot do, `MalformedInput` for a failed request."""
        asked = ask(input, tools if tool_choice != "none" else [], tool_choice, config)
        name = f"{where()}/{digest_of(canonical.dumps([self.session.request(asked, ''), config.seed]))}"
        self._seen[name] += 1  # who asks the same again in one sample, draws anew
        stream = f"{name}/{self._seen[name]}"
        future = self.session.submit(asked, stream)
        reply = await to_thread.run_sync(partial(future.result), abandon_on_cancel=True)
        call = ModelCall.create(self.session.request(asked, stream), recorded(reply))
        return output(self.model_name, reply, tools=bool(asked.tools)), call

    def max_connections(self) -> int:
        """Twice what runs at once: one to run, one to wait."""
        return 2 * self.session.settings.numerics.sequences

    async def aclose(self) -> None:
        """Stop the worker."""
        self._stack.close()


@modelapi(name="vitrine")  # type: ignore[untyped-decorator]
def vitrine() -> type[ModelAPI]:
    """The provider, for Inspect's registry."""
    return SealedModel


def where() -> str:
    """The task, sample and epoch that is being worked on: what is drawn must not depend on what runs beside it."""
    active = sample_active()
    return "inspect" if active is None else f"inspect/{active.task}/{active.sample.id}/{active.epoch}"


def ask(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo], choice: ToolChoice, config: GenerateConfig) -> Ask:
    """What the worker is asked. Raises `Unsupported` for what it cannot do."""
    given = {name for name, value in config if value is not None}
    if unknown := sorted(given - PLAIN - OUTSIDE):
        raise Unsupported("generate config", f"expected settings among {sorted(PLAIN)}, found {unknown}")
    if tools and choice != "auto":
        raise Unsupported("tool choice", f"expected auto or none, found {choice!r}")
    wanted = config.response_schema
    return Ask(
        tuple(map(message, messages)),
        sampling=Sampling(
            temperature=decimal(config.temperature or 0),
            top_k=config.top_k or 0,
            top_p=decimal(1 if config.top_p is None else config.top_p),
            max_tokens=config.max_tokens or MAX_TOKENS,
        ),
        stop=tuple(config.stop_seqs or ()),
        grammar=schema.to_gbnf(wanted.json_schema.model_dump(exclude_none=True)) if wanted else None,
        tools=tuple({"type": "function", "function": definition(tool)} for tool in tools),
    )


def message(one: ChatMessage) -> Message:
    """A message of Inspect's as ours. Raises `Unsupported` for what is not text."""
    parts = one.content if isinstance(one.content, list) else []
    if other := sorted({part.type for part in parts} - {"text", "reasoning"}):
        raise Unsupported("message", f"expected text, found {other}")
    if isinstance(one, ChatMessageTool):
        return Message(role="tool", content=one.error.message if one.error else one.text, name=one.function)
    made = getattr(one, "tool_calls", None) or ()
    called = tuple(Call(name=each.function, arguments=json.dumps(each.arguments)) for each in made)
    return Message(role=one.role, content=one.text, tool_calls=called or None)


def definition(tool: ToolInfo) -> dict[str, Any]:
    """A tool as chat templates know it."""
    parameters = tool.parameters.model_dump(exclude_none=True)
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def output(model: str, reply: Reply, *, tools: bool) -> ModelOutput:
    """The reply as Inspect's output. Raises `MalformedInput` for a request that failed."""
    answer = reply.answer
    if answer.generation is None:
        problem = answer.error
        if problem is not None and problem.code == "prompt-too-long":
            return ModelOutput.from_content(model, "", stop_reason="model_length", error=problem.message)
        raise MalformedInput("request of inspect", f"{problem.code}: {problem.message}" if problem else "no completion")
    said = calls.read(answer.text) if tools else calls.Said(answer.text)
    found = [
        ToolCall(id=f"call_{place}", function=each.name, arguments=json.loads(each.arguments))
        for place, each in enumerate(said.calls)
    ]
    written = ChatMessageAssistant(
        content=said.text if found else answer.text, tool_calls=found or None, model=model, source="generate"
    )
    stop = "tool_calls" if found else STOPS[answer.generation.stop]
    into, out = len(answer.prompt_tokens), len(answer.generation.tokens)
    usage = ModelUsage(input_tokens=into, output_tokens=out, total_tokens=into + out)
    return ModelOutput(model=model, choices=[ChatCompletionChoice(message=written, stop_reason=stop)], usage=usage)


def recorded(reply: Reply) -> dict[str, Any]:
    """The reply as a record of ours has it, for the log."""
    answer = reply.answer
    parts = {"generation": answer.generation, "error": answer.error}
    return {
        "prompt_tokens": list(answer.prompt_tokens),
        **{name: part.model_dump(mode="json") for name, part in parts.items() if part is not None},
    }
