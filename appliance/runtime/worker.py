"""The model worker: one sealed process, one model, one engine. Requests in, tokens and likelihoods out.

1. load the model, make the context
2. answer the first request alone, so that a run shows early what it does
3. test on this host that the numerics contract holds, and report it
4. take what has come, do one turn of the scheduler, send what has ended; and again

In a dry run it makes prompts instead (`appliance.runtime.preview`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from appliance.frames import Frame, Kind
from appliance.runtime import binding, preview, selftest
from appliance.runtime.chat import ChatTemplateError
from appliance.runtime.context import Context
from appliance.runtime.model import Model, RequestError
from appliance.runtime.reading import Reading, explain
from appliance.runtime.request import Choose, Generate, Request
from appliance.runtime.scheduler import Finished, Scheduler
from appliance.worker import Link, main
from attest import canonical
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported
from attest.job import Numerics

LEAST_SLOTS = 2
"""Copying a prefix takes two, also where samples run one at a time."""
ASKED_CHARS = 600
"""Of a prompt's last message, what is streamed."""


def prepare(fds: Mapping[str, int]) -> Any:
    """Load the engine library and start its backend; the model stays unread."""
    library = binding.load(fds["library"])
    library.llama_backend_init()
    return library


def serve(link: Link, config: dict[str, Any], fds: Mapping[str, int], library: Any) -> None:
    """Serve requests until told to stop."""
    numerics = canonical.validate(Numerics, config["numerics"], "numerics")
    # More threads than processors wait for each other most of the time.
    threads = min(numerics.threads, len(os.sched_getaffinity(0)))
    # 1. The model.
    with _explained(config["id"]):
        model = Model(library, fds["model"], vocabulary_only=config["dry_run"])
        context_tokens = min(config["context_tokens"], model.trained_tokens or config["context_tokens"])
    if config["dry_run"]:
        link.send(Kind.READY, b"")
        preview.work(link, model, context_tokens)
        return
    with _explained(config["id"]):
        context = Context(
            model,
            slots=max(numerics.sequences, LEAST_SLOTS),
            slot_tokens=max(context_tokens, selftest.TOKENS + 1),
            threads=threads,
            kv=numerics.kv,
        )
    link.send(Kind.READY, b"")
    # 2. The first request.
    stream = config["stream"]
    more = Desk(link, model, context, context_tokens, stream=stream).answer_first()
    # 3. The self-test.
    with _explained(config["id"]):
        report = selftest.run(context, config["id"], threads=threads)
    link.send(Kind.TESTED, canonical.dump_model(report))
    # 4. The other requests.
    if more:
        Desk(link, model, context, context_tokens, stream=stream).work()


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Raises the run's error for an error of the engine."""
    try:
        yield
    except RequestError as error:
        if error.code == "unsupported":
            raise Unsupported(f"model {model}", str(error)) from None
        raise EnvironmentProblem(f"model {model}: {error}") from None
    except ChatTemplateError as error:
        raise MalformedInput(f"model {model}", str(error)) from None


class Desk:
    """Takes requests from the link, has the scheduler run them, and sends the replies; with `stream` words as well."""

    def __init__(self, link: Link, model: Model, context: Context, context_tokens: int, *, stream: bool) -> None:
        self._link = link
        self._reading = Reading(model, context_tokens)
        self._scheduler = Scheduler(context)
        self._frames: dict[Request, Frame] = {}
        self._told: dict[Request, int] | None = {} if stream else None
        """Bytes of each completion that were sent while it was made."""

    def answer_first(self) -> bool:
        """Wait for one request, answer it, and take no other. False when a frame says stop in its place."""
        frame = self._link.receive()
        if frame.kind == Kind.STOP:
            return False
        self._take(frame)
        while self._scheduler.busy:
            self._step()
        return True

    def work(self) -> None:
        """Until a frame says stop. While there is work, frames are taken between turns, and never waited for."""
        while True:
            frame = self._link.arrived() if self._scheduler.busy else self._link.receive()
            if frame is None:
                self._step()
            elif frame.kind == Kind.STOP:
                return
            elif frame.kind == Kind.CANCEL:
                self._cancel(frame)
            else:
                self._take(frame)

    def _step(self) -> None:
        ended = self._scheduler.step()
        if self._told is not None:
            self._tell(self._told)
        for finished in ended:
            self._answer(finished)

    def _tell(self, told: dict[Request, int]) -> None:
        """Send what completions have grown by."""
        for request, frame in self._frames.items():
            if isinstance(request, Generate) and (new := request.text[told[request] :]):
                told[request] += len(new)
                self._link.send(Kind.WORDS, new, frame.route, frame.tag)

    def _take(self, frame: Frame) -> None:
        try:
            value = canonical.loads(frame.payload, "request")
            request = self._reading.request(value, self._reading.prompt(value))
        except Exception as error:
            # The eval worker is not trusted either: whatever a request breaks, it breaks that request alone.
            self._reply(frame, {"error": explain(error)})
            return
        self._frames[request] = frame
        if self._told is not None and isinstance(request, Generate):
            self._told[request] = 0
            asked = "".join(each["content"][:ASKED_CHARS] for each in value["messages"][-1:]).encode("utf-8", "replace")
            self._link.send(Kind.WORDS, b"asked: " + asked + b"\nsaid: ", frame.route, frame.tag)
        self._scheduler.submit(request)

    def _cancel(self, frame: Frame) -> None:
        for request, asked in self._frames.items():
            if asked.tag == frame.tag:
                self._scheduler.cancel(request)

    def _answer(self, finished: Finished) -> None:
        request, error = finished
        frame = self._frames.pop(request)
        if self._told is not None:
            self._told.pop(request, None)
        if error is not None:
            self._reply(frame, {"error": explain(error)})
        elif isinstance(request, Generate):
            generation = request.reply().model_dump(mode="json")
            self._reply(frame, {"prompt_tokens": request.prompt, "generation": generation})
        else:
            choices = [choice.model_dump(mode="json") for choice in request.reply()]
            greedy = {"greedy": request.greedy} if isinstance(request, Choose) else {}
            self._reply(frame, {"prompt_tokens": request.prompt, "choices": choices, **greedy})

    def _reply(self, frame: Frame, value: dict[str, Any]) -> None:
        self._link.send_json(Kind.REPLY, value, frame.route, frame.tag)


if __name__ == "__main__":
    binding.declarations()  # compiled before there is a plan
    main(prepare, serve)
