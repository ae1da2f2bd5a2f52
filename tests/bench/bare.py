"""A job's samples on the bare engine, without seal, pipes and transcript: `python -m tests.bench.bare JOB ENGINE`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance import job as jobs
from appliance.runtime import binding
from appliance.runtime.llama import Deadline, Model
from tests.bench.__main__ import tasks


def main() -> None:
    """Load the library and the model from their files, and answer every task."""
    path, engine = Path(sys.argv[1]), Path(sys.argv[2])
    loaded = jobs.load(path)
    library = binding.load(os.open(engine / "libllama.so", os.O_RDONLY))
    library.llama_backend_init()
    file = os.open(jobs.locate(loaded.job.models[0].path, path.parent), os.O_RDONLY)
    model = Model(library, file, context_tokens=loaded.job.limits.context_tokens, threads=1)
    for task in tasks(path):
        prompt, deadline = model.prompt(task.messages), Deadline(60)
        if task.choices:
            model.choose(prompt, task.choices, deadline=deadline)
        else:
            model.generate(prompt, loaded.job.sampling, [], seed=0, stream=task.id, deadline=deadline)


if __name__ == "__main__":
    main()
