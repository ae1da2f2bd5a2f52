"""A job's samples on the bare engine: the same runtime and work, without boot, seal, pipes, transcript and signature.

`python -m tests.bench.bare JOB ENGINE REPORT [PROMPTS]` writes what scoring took and what the model picked to REPORT,
and the prompts for the other sides of a comparison to PROMPTS.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from appliance import job as jobs
from appliance.runtime import binding
from appliance.runtime.context import Context
from appliance.runtime.model import Model
from appliance.runtime.request import Choose, Deadline
from appliance.runtime.scheduler import Scheduler
from tests.bench import mmlu
from tests.bench.clock import Watch


def main() -> None:
    """Load engine and model from their files, and score every task."""
    path, engine, report, *prompts = (Path(argument) for argument in sys.argv[1:])
    job = jobs.load(path).job
    library = binding.load(os.open(engine / "libllama.so", os.O_RDONLY))
    library.llama_backend_init()
    model = Model(library, os.open(job.models[0].path, os.O_RDONLY))
    numerics = job.numerics
    context = Context(
        model,
        slots=max(numerics.sequences, 2),
        slot_tokens=job.limits.context_tokens,
        threads=numerics.threads,
        kv=numerics.kv,
    )
    scheduler, found, requests = Scheduler(context), mmlu.tasks(path), []
    with Watch() as watch:
        for task in found:
            assert task.choices is not None
            prompt = model.prompt(task.messages)
            request = Choose(model, prompt, task.choices, job.limits.context_tokens, Deadline(3600))
            scheduler.submit(request)
            requests.append(request)
        while scheduler.busy:
            if failed := [finished.error for finished in scheduler.step() if finished.error is not None]:
                raise failed[0]
        replies = [[float(choice.logprob) for choice in request.reply()] for request in requests]
    spent = [watch.spent.wall_s, watch.spent.cpu_s]
    picks = [reply.index(max(reply)) for reply in replies]
    report.write_text(json.dumps({"spent": spent, "picks": picks, "logprobs": replies}), "utf-8")
    for file in prompts:
        file.write_text(json.dumps(mmlu.for_others(model, found)), "utf-8")


if __name__ == "__main__":
    main()
