"""Stock llama-cpp-python and lm-eval in a virtual environment of their own: `python -m tests.bench.stock_python`.

The package is llama-cpp-python's own; the library that it loads is the one that the stock tools were linked with, so
every stock side runs the same machine code. lm-eval comes without torch, which it does not need here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attest.errors import EnvironmentProblem
from tests.bench import stock_tools
from tests.bench.clock import say

HOME = stock_tools.ROOT / "build" / "bench" / "venv"
PACKAGES = ("llama-cpp-python==0.3.36", "lm-eval==0.4.13", "jinja2==3.1.6", "numpy==2.4.6")
SCRIPT = Path(__file__).with_name("stock_scoring.py")


def ensure() -> Path:
    """The environment's interpreter, installed now if it is not there. Raises `EnvironmentProblem`."""
    python, stamp = HOME / "bin" / "python", HOME / "ready"
    if stamp.is_file() and stamp.read_text() == "\n".join(PACKAGES):
        return python
    say(f"installing {', '.join(PACKAGES)} into {HOME}")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    # The bindings alone: the library is built already.
    environment = {**os.environ, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}
    for command in ([sys.executable, "-m", "venv", str(HOME)], pip):
        if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
            raise EnvironmentProblem(f"`{' '.join(command)}` failed; what it said stands above")
    stamp.write_text("\n".join(PACKAGES))
    return python


def score(side: str, model: Path, prompts: Path, *, rows: int, threads: int) -> dict[str, Any]:
    """What one side of `stock_scoring` reports of the first `rows` prompts."""
    arguments: Sequence[str | Path] = [ensure(), SCRIPT, side, model, prompts, str(rows), str(threads)]
    environment = {**stock_tools.environment(), "LLAMA_CPP_LIB_PATH": str(stock_tools.BIN)}
    done = subprocess.run(arguments, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{side} ended with {done.returncode}: {done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


if __name__ == "__main__":
    print(ensure())
