"""Runs cells on one engine and one architecture in this process; one JSON object a line.

    python -m tests.tools.exactness ENGINE ARCHITECTURE --models FOLDER --type Q4_K_M [--cells quick]

Lines have `architecture`, `type` and `kv`, and one of these: `fingerprint` (SHA-256 of the rows of the first stories
alone, beside the digest of the model's file), `started` (a cell), `cell` with what it showed, `error` (the engine
refused), `done` (all cells ran). An engine that aborts leaves no `done`. The process takes the engine's environment
from the engine's record.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.tools import architectures, random_models
from tests.tools.exactness import cells
from tests.tools.exactness.execute import KV_TYPES, Bench, Settings
from tests.tools.exactness.plan import Cell, stories
from tests.tools.recurrent import RECURRENT

CELLS: dict[str, Callable[[list[list[int]]], list[Cell]]] = {
    "quick": cells.quick,
    "full": cells.full,
    "threads": cells.threads,
    "none": lambda _stories: [],
}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("engine", type=Path)
    parser.add_argument("architecture", choices=sorted(architectures.EVERY))
    parser.add_argument("--models", type=Path, required=True, help="where models are, or are made")
    parser.add_argument("--type", action="append", required=True, choices=random_models.TYPES)
    parser.add_argument("--kv", action="append", choices=sorted(KV_TYPES), help="default: f16")
    parser.add_argument("--cells", choices=sorted(CELLS), default="quick")
    parser.add_argument("--only", action="append", help="name of a cell; default: all of them")
    parser.add_argument("--no-flash", action="store_true", help="flash attention off")
    arguments = parser.parse_args()
    adopt(arguments.engine)
    library = random_models.load_engine(arguments.engine)
    for type_name in arguments.type:
        for kv in arguments.kv or ["f16"]:
            about = {"architecture": arguments.architecture, "type": type_name, "kv": kv}
            try:
                for line in examine(library, arguments, type_name, kv):
                    print(json.dumps(about | line), flush=True)
            except Exception as error:
                print(json.dumps({**about, "error": f"{type(error).__name__}: {error}"}), flush=True)


def examine(library: Any, arguments: argparse.Namespace, type_name: str, kv: str) -> Iterator[dict[str, object]]:
    """The lines of one model."""
    family = architectures.EVERY[arguments.architecture]
    path = random_models.obtain(arguments.models / family.identity, family, type_name, library)
    bench = Bench(library, path, Settings(kv, not arguments.no_flash))
    texts = stories(bench.vocabulary)
    yield {"fingerprint": bench.fingerprint(texts, 4), "model": bench.digest}
    chosen = CELLS[arguments.cells](texts)
    if family.name in RECURRENT:
        chosen = cells.uncut(chosen)
    for cell in chosen:
        if not arguments.only or cell.name in arguments.only:
            yield {"started": cell.name}
            start = time.process_time()
            outcome = bench.run(cell, texts)
            yield {"cell": cell.name, **outcome._asdict(), "cpu_s": round(time.process_time() - start, 2)}
    bench.close()
    yield {"done": True}


def adopt(engine: Path) -> None:
    """Replace what the environment says to engines by what the engine's record does."""
    for name in [name for name in os.environ if name.startswith(("GGML_", "LLAMA_"))]:
        del os.environ[name]
    os.environ.update(json.loads((engine / "record.json").read_bytes())["environment"])


if __name__ == "__main__":
    main()
