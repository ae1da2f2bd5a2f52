"""The program worker: forks the candidate, seals both processes, takes one trial, sends one verdict, ends."""

from __future__ import annotations

import os
import sys

from appliance.frames import Kind, Reader
from appliance.programs import candidate
from appliance.programs.referee import Trial, judge
from appliance.seal.door import received
from appliance.seal.enter import enter
from appliance.seal.preload import preload
from appliance.seal.probe import probe
from appliance.worker import Link
from attest import canonical
from attest.errors import EnvironmentProblem, VitrineError
from attest.sealplan import SealPlan

SEAL_TIMEOUT_S = 120.0


def main() -> None:
    """Run a worker that `appliance.seal.launch` started."""
    out = os.dup(1)
    os.dup2(2, 1)
    preload()
    link = Link(0, out)
    try:
        plan, _, _ = received(sys.argv[1:])
        # The candidate is made first: it must hold neither this process's pipes nor its rights.
        reader, requests = _fork(plan, out)
        outcome = enter(plan)
        hello = {
            "policy": outcome.policy_digest,
            "layers": [layer.model_dump(mode="json") for layer in outcome.layers],
            "probes": [result.model_dump(mode="json", exclude={"expected"}) for result in probe()],
        }
        if reader.receive(SEAL_TIMEOUT_S).kind != Kind.HELLO:
            raise EnvironmentProblem("the process for the program could not be sealed")
        link.send_json(Kind.HELLO, hello)
        trial = canonical.parse(Trial, link.receive().payload, "trial")
        link.send_json(Kind.REPLY, judge(trial, reader, requests).model_dump(mode="json"))
    except VitrineError as error:
        report = {"code": type(error).__name__, "message": str(error)[:4000], "exit": int(error.exit_code)}
        link.send_json(Kind.FAILURE, report)
        sys.exit(int(error.exit_code))


def _fork(plan: SealPlan, out: int) -> tuple[Reader, int]:
    """Start the candidate. What it answers, and the pipe to it."""
    requests, to_candidate = os.pipe()
    from_candidate, replies = os.pipe()
    if os.fork() == 0:
        for fd in (0, out, to_candidate, from_candidate):
            os.close(fd)
        candidate.run(plan, requests, replies)
    os.close(requests)
    os.close(replies)
    os.set_blocking(to_candidate, False)  # so that a program that does not read holds up nobody
    return Reader(from_candidate), to_candidate


if __name__ == "__main__":
    main()
