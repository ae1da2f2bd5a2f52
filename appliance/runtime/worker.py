"""The model worker: one sealed process, one model, one engine. Requests in, tokens and likelihoods out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from appliance.frames import Kind
from appliance.runtime import binding
from appliance.runtime.chat import ChatTemplateError
from appliance.runtime.llama import Deadline, Model, RequestError
from appliance.worker import Link, main
from attest import canonical
from attest.errors import EnvironmentProblem, MalformedInput
from attest.job import Sampling
from attest.sample import Message


def prepare(fds: Mapping[str, int]) -> Any:
    """Load the engine library and start its backend; the model stays unread."""
    library = binding.load(fds["library"])
    library.llama_backend_init()
    return library


def serve(link: Link, config: dict[str, Any], fds: Mapping[str, int], library: Any) -> None:
    """Load the model, then answer requests until told to stop."""
    try:
        model = Model(library, fds["model"], context_tokens=config["context_tokens"], threads=config["threads"])
    except RequestError as error:
        raise EnvironmentProblem(f"model {config['id']}: {error}") from None
    except ChatTemplateError as error:
        raise MalformedInput(f"model {config['id']}", str(error)) from None
    link.send_json(Kind.READY, {"context_tokens": model.context_tokens, "vocabulary": model.vocabulary})
    while (frame := link.receive()).kind != Kind.STOP:
        link.send_json(Kind.REPLY, answer(model, frame.payload), frame.route)


def answer(model: Model, payload: bytes) -> dict[str, Any]:
    """The reply to one request; what goes wrong with it is part of the reply."""
    try:
        request = canonical.loads(payload, "request")
        return OPERATIONS[request["op"]](model, request, Deadline(request["timeout_s"]))
    except RequestError as error:
        return {"error": {"code": error.code, "message": str(error)[:2000]}}
    except ChatTemplateError as error:
        return {"error": {"code": "template", "message": str(error)[:2000]}}
    except Exception as error:
        # The eval worker is not trusted either: whatever a request breaks, it breaks that request alone.
        return {"error": {"code": "request", "message": f"{type(error).__name__}: {error}"[:2000]}}


def _generate(model: Model, request: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
    prompt = model.prompt([Message.model_validate(message) for message in request["messages"]])
    generation = model.generate(
        prompt,
        Sampling.model_validate(request["sampling"]),
        request["stop"],
        seed=request["seed"],
        stream=request["stream"],
        deadline=deadline,
    )
    return {"prompt_tokens": prompt, "generation": generation.model_dump(mode="json")}


def _choose(model: Model, request: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
    prompt = model.prompt([Message.model_validate(message) for message in request["messages"]])
    choices = model.choose(prompt, request["options"], deadline=deadline)
    return {"prompt_tokens": prompt, "choices": [choice.model_dump(mode="json") for choice in choices]}


OPERATIONS: dict[str, Callable[[Model, dict[str, Any], Deadline], dict[str, Any]]] = {
    "generate": _generate,
    "choose": _choose,
}

if __name__ == "__main__":
    main(prepare, serve)
