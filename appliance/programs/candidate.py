"""The process that holds a program: defines it, then answers calls of one of its functions until its pipe ends.

Nothing here is trusted once the program runs: it may change this module, or write to the pipe itself. All that reaches
the referee is an answer to a call, right or wrong.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from appliance.frames import Kind, Reader, pack, write_all
from appliance.programs import values
from appliance.seal.enter import enter
from attest.sealplan import SealPlan


def run(plan: SealPlan, requests: int, replies: int) -> NoReturn:
    """Seal this process by `plan`, say so, and serve. `requests` and `replies` are pipes from and to the referee."""
    try:
        # No input, and what it prints goes nowhere.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        os.close(nowhere)
        enter(plan)
        write_all(replies, pack(Kind.HELLO, b"{}"))
        _serve(Reader(requests), replies)
    finally:
        os._exit(1)


def _serve(reader: Reader, replies: int) -> None:
    program, entry_point = values.load(reader.receive().payload)
    space: dict[str, Any] = {"__name__": "__program__"}
    _answer(replies, lambda: exec(program, space))  # noqa: S102 - what the seal is for
    while True:
        args, kwargs = values.load(reader.receive().payload)
        _answer(replies, lambda args=args, kwargs=kwargs: space[entry_point](*args, **kwargs))


def _answer(replies: int, work: Any) -> None:
    try:
        answer = values.dump({"value": work()})
    except BaseException as error:  # a program's SystemExit is its failure, not ours
        answer = values.dump({"raised": type(error).__name__[:200]})
    write_all(replies, pack(Kind.REPLY, answer))
