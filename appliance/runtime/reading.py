"""Reads the eval worker's requests: first the prompt, as token ids, then what is asked about it.

A run and a dry run read with the same code, so that what a dry run shows is what the model is given.
"""

from __future__ import annotations

from typing import Any

from appliance.runtime.chat import ChatTemplateError
from appliance.runtime.gbnf import GrammarError
from appliance.runtime.grammar import Constraint, Grammars, Pieces
from appliance.runtime.model import Model, RequestError
from appliance.runtime.request import Choose, Deadline, Generate, Request, Roll
from attest import canonical
from attest.job import Sampling
from attest.sample import Message


class Reading:
    """Reads requests to one model, whose contexts have `context_tokens` tokens. Whatever is wrong raises something."""

    def __init__(self, model: Model, context_tokens: int) -> None:
        self._model = model
        self.context_tokens = context_tokens
        """Prompt and completion together."""
        self._grammars: Grammars | None = None

    def prompt(self, value: Any) -> list[int]:
        """Token ids of the conversation, as the model is given it; none for a text that is scored as a whole."""
        if value["op"] == "roll":
            return []
        messages = [canonical.validate(Message, message, "message") for message in value["messages"]]
        prompt = self._model.prompt(messages, raw=value.get("raw", False) is True, tools=value.get("tools", []))
        if not prompt and value.get("from_start") is True:
            prompt = [self._model.first]
        return prompt

    def request(self, value: Any, prompt: list[int]) -> Request:
        """What is asked about `prompt`. Raises `RequestError` where that does not fit into the context."""
        deadline = Deadline(value["timeout_s"])
        if value["op"] == "roll":
            return Roll(self._model, value["text"], self.context_tokens, deadline)
        if value["op"] == "choose":
            return Choose(self._model, prompt, value["options"], self.context_tokens, deadline)
        return Generate(
            self._model,
            prompt,
            Sampling.model_validate(value["sampling"]),
            value["stop"],
            value["seed"],
            value["stream"],
            self.context_tokens,
            deadline,
            constraint=self._constraint(value),
        )

    def _constraint(self, value: Any) -> Constraint | None:
        if value.get("grammar") is None:
            return None
        if self._grammars is None:
            self._grammars = Grammars(Pieces.read(self._model.library, self._model.vocab))
        return self._grammars.constraint(value["grammar"])


def explain(error: Exception) -> dict[str, str]:
    """What a sample's record says of the error that ended it."""
    codes: dict[type[Exception], str] = {ChatTemplateError: "template", GrammarError: "grammar"}
    if isinstance(error, RequestError):
        return {"code": error.code, "message": str(error)[:2000]}
    code = next((name for kind, name in codes.items() if isinstance(error, kind)), "request")
    message = str(error) if code != "request" else f"{type(error).__name__}: {error}"
    return {"code": code, "message": message[:2000]}
