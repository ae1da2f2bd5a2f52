"""A model worker that quotes its prompts wherever it can. The model's id in the job says where: `abort`, ...

Run by the tests in place of the real one: what libraries and tracebacks do by accident, it does on purpose.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from appliance.frames import Kind
from appliance.worker import Link, main
from attest import canonical
from attest.errors import MalformedInput
from tests.tools.manifests import self_test


def prepare(_fds: Mapping[str, int]) -> None:
    """Nothing."""


def serve(link: Link, config: dict[str, Any], _fds: Mapping[str, int], _prepared: None) -> None:
    """Say ready like a real worker, then quote every prompt as the id says, and reply with an error."""
    sys.stderr.write(f"loading {config['id']}\n")
    link.send(Kind.READY, b"")
    link.send_json(Kind.TESTED, self_test(config["id"]))
    while True:
        frame = link.receive()
        BEHAVIOURS[config["id"]](canonical.loads(frame.payload)["messages"][-1]["content"])
        link.send_json(Kind.REPLY, {"error": {"code": "leaky", "message": "said it"}}, frame.route, frame.tag)


def traceback(prompt: str) -> None:
    """An error that nobody catches, with the value that broke it."""
    raise RuntimeError(f"cannot tokenize {prompt}")


def report(prompt: str) -> None:
    """An error that is reported to the controller, with the value that broke it."""
    raise MalformedInput("request", f"row 3: expected another prompt, found {prompt}")


def abort(prompt: str) -> None:
    """What an engine's assertion prints."""
    sys.stderr.write(f"/src/llama-vocab.cpp:77: GGML_ASSERT({prompt!r} != nullptr) failed\n")
    sys.stderr.flush()
    os.abort()


def chatter(prompt: str) -> None:
    """A library that prints what it works on, in lines that look like others."""
    for line in (prompt, f'  File "/{prompt}.py", line 1, in {prompt}', f"{prompt}: no", f"ValueError: {prompt}"):
        sys.stdout.write(f"{line}\n" * 100)
    sys.stdout.flush()


BEHAVIOURS: dict[str, Callable[[str], None]] = {
    "traceback": traceback,
    "report": report,
    "abort": abort,
    "chatter": chatter,
}

if __name__ == "__main__":
    main(prepare, serve)
