"""Our side of throughput: the product's own runtime in a process of its own, which does what the stock programs do.

`python -m tests.bench.lane ENGINE MODEL` reads one test a line and prints what each phase took. Tokens are random;
the same number of them is decoded in the same order as by llama-bench and llama-batched-bench, and as there logits are
computed for every decoded token and for the last one of a prompt, but nothing is sampled.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.clock import Spent, Watch

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Single:
    """One sequence: a prompt of `prompt` tokens, or `generate` tokens one by one, after `depth` others."""

    prompt: int
    generate: int
    depth: int
    threads: int


@dataclass(frozen=True)
class Batched:
    """`sequences` tokens a step, `steps` times, after a shared prompt of `depth` tokens."""

    sequences: int
    steps: int
    depth: int
    threads: int


class Lane:
    """The process, from outside; it computes only while it is asked."""

    def __init__(self, engine: Path, model: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.lane", str(engine), str(model)]
        # As in a sealed worker: numpy starts no threads.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def single(self, test: Single) -> dict[str, Spent]:
        """`prefill` and `decode` of one sequence."""
        return self._ask({"single": asdict(test)})

    def batched(self, test: Batched) -> Spent:
        """Decoding of many sequences."""
        return self._ask({"batched": asdict(test)})["decode"]

    def _ask(self, question: dict[str, Any]) -> dict[str, Spent]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the lane ended with {self._process.wait()}, its last words are above")
        return {name: Spent(*spent) for name, spent in json.loads(answer).items()}


class _Runner:
    """Runs tests with the product's runtime."""

    def __init__(self, engine: Path, model: Path) -> None:
        from appliance.runtime import binding
        from appliance.runtime.model import Model

        library = binding.load(os.open(engine / "libllama.so", os.O_RDONLY))
        library.llama_backend_init()
        self._model = Model(library, os.open(model, os.O_RDONLY))
        self._random = random.Random(1)

    def single(self, test: Single) -> dict[str, Spent]:
        found = {}
        if test.prompt:
            found["prefill"] = self._single(test.depth, test.prompt, 1, test.threads)
        if test.generate:
            found["decode"] = self._single(test.depth, 1, test.generate, test.threads)
        return found

    def batched(self, test: Batched) -> dict[str, Spent]:
        context = self._context(test.sequences, test.depth + test.steps + 1, test.threads)
        try:
            self._fill(context, test.depth)
            for slot in range(1, test.sequences if test.depth else 1):
                context.copy(0, slot)
            # As llama-batched-bench: one token that makes the copies happen.
            context.decode([self._piece(0, test.depth, 1)])
            context.trim(0, test.depth)
            with Watch() as watch:
                for step in range(test.steps):
                    context.decode([self._piece(slot, test.depth + step, 1) for slot in range(test.sequences)])
            return {"decode": watch.spent}
        finally:
            context.close()

    def _single(self, depth: int, count: int, times: int, threads: int) -> Spent:
        """`times` decodes of `count` tokens after `depth` others, with a warm-up before it as llama-bench has."""
        context = self._context(1, depth + count * times, threads)
        try:
            self._fill(context, count)
            context.clear()
            self._fill(context, depth)
            with Watch() as watch:
                for turn in range(times):
                    self._fill(context, count, depth + turn * count)
            return watch.spent
        finally:
            context.close()

    def _fill(self, context: Any, count: int, position: int = 0) -> None:
        """Decode `count` random tokens into slot 0; the logits of the last one alone."""
        for at in range(0, count, context.batch_tokens):
            size = min(context.batch_tokens, count - at)
            wanted = size - 1 if at + size == count else size
            context.decode([self._piece(0, position + at, size, wanted)])

    def _piece(self, slot: int, position: int, count: int, wanted: int = 0) -> Any:
        from appliance.runtime.context import Piece

        return Piece(slot, position, self._random.choices(range(self._model.vocabulary), k=count), wanted)

    def _context(self, slots: int, tokens: int, threads: int) -> Any:
        from appliance.runtime.context import Context

        return Context(self._model, slots=slots, slot_tokens=-(-tokens // 256) * 256, threads=threads)


def main() -> None:
    """Answer until the input ends."""
    runner = _Runner(Path(sys.argv[1]), Path(sys.argv[2]))
    for line in sys.stdin:
        question = json.loads(line)
        if "single" in question:
            found = runner.single(Single(**question["single"]))
        else:
            found = runner.batched(Batched(**question["batched"]))
        print(json.dumps({name: [spent.wall_s, spent.cpu_s] for name, spent in found.items()}), flush=True)


if __name__ == "__main__":
    main()
