"""What a model worker does in a dry run: makes prompts and counts their tokens. Of the model it has the vocabulary."""

from __future__ import annotations

from typing import Any

from appliance.frames import Kind
from appliance.runtime.model import Model
from appliance.runtime.reading import Reading, explain
from appliance.runtime.request import Choose
from appliance.worker import Link
from attest import canonical


def work(link: Link, model: Model, context_tokens: int) -> None:
    """Answer requests, as they come, until a frame says stop."""
    reading = Reading(model, context_tokens)
    while (frame := link.receive()).kind != Kind.STOP:
        link.send_json(Kind.REPLY, preview(model, reading, frame.payload), frame.route, frame.tag)


def preview(model: Model, reading: Reading, payload: bytes) -> dict[str, Any]:
    """The prompt of a request, what it leaves of the context, and the error with which a run would answer it.

    With `show` in the request also the text that the tokens stand for, special tokens among them.
    """
    reply: dict[str, Any] = {}
    try:
        value = canonical.loads(payload, "request")
        reply["prompt_tokens"] = prompt = reading.prompt(value)
        reply["room"] = max(reading.context_tokens - len(prompt), 0)
        if value.get("show") is True:
            reply["text"] = b"".join(model.piece(token, special=True) for token in prompt).decode("utf-8", "replace")
        request = reading.request(value, prompt)
        if isinstance(request, Choose):
            reply["option_tokens"] = [len(tokens) for tokens in request.option_tokens]
    except Exception as error:  # whatever a request breaks, it breaks that request alone
        reply["error"] = explain(error)
    return reply
