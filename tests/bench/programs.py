"""The stock side of throughput: llama-bench and llama-batched-bench as upstream built them, run as users run them.

Both programs decode random tokens with their own defaults (flash attention as they choose, 512 tokens in a
micro-batch) and say how long each phase took; the CPU time of a phase is sampled from outside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.bench import stock_tools
from tests.bench.clock import Sampled, Spent
from tests.bench.lane import Batched, Single


def llama_bench(model: Path, test: Single) -> dict[str, Spent]:
    """`prefill` and `decode` of one sequence at one depth, one repetition after llama-bench's own warm-up."""
    command: list[str | Path] = [stock_tools.BIN / "llama-bench", "-m", model, "-t", str(test.threads), "-o", "jsonl"]
    command += ["-p", str(test.prompt), "-n", str(test.generate), "-d", str(test.depth), "-r", "1"]
    program, found = Sampled(command, environment=stock_tools.environment()), {}
    for line in program.lines():
        row = json.loads(line)
        name = "prefill" if row["n_prompt"] else "decode"
        if (row["n_prompt"], row["n_gen"]) not in ((test.prompt, 0), (0, test.generate)):
            raise RuntimeError(f"expected {test} from llama-bench, found {line[:400]}")
        found[name] = program.last(sum(row["samples_ns"]) / 1e9)
    if missing := {name for name, count in (("prefill", test.prompt), ("decode", test.generate)) if count} - set(found):
        raise RuntimeError(f"expected {', '.join(missing)} from llama-bench, found none")
    return found


def llama_batched_bench(model: Path, test: Batched) -> Spent:
    """Decoding of many sequences a step, after a prompt of `depth` tokens that they share."""
    cells = test.sequences * _padded(test.depth + test.steps + 1)
    command: list[str | Path] = [stock_tools.BIN / "llama-batched-bench", "-m", model, "--output-format", "jsonl"]
    command += ["-t", str(test.threads), "-tb", str(test.threads), "-c", str(cells)]
    command += ["-npp", str(test.depth), "-ntg", str(test.steps), "-npl", str(test.sequences)]
    command += ["-pps"] if test.depth else []
    program, found = Sampled(command, environment=stock_tools.environment()), []
    for line in program.lines():
        # Not JSON: the speed of a prompt of no tokens is printed as `nan`.
        if match := re.search(rf'"tg": {test.steps}, "pl": {test.sequences}, .*"t_tg": ([0-9.]+)', line):
            found.append(program.last(float(match[1])))
    if len(found) != 1:
        raise RuntimeError(f"expected one result from llama-batched-bench for {test}, found {len(found)}")
    return found[0]


def _padded(tokens: int) -> int:
    """llama.cpp rounds the context of a sequence up."""
    return -(-tokens // 256) * 256
