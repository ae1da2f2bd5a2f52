"""The whole exactness matrix on the engines that are built, and its tables for `docs/determinism.md`.

    python -m tests.conformance.exactness [--profile x86-64-v3] [--cells full] [--models FOLDER] [--kept] [--write]

Every architecture in F16 and Q4_K_M, every type of file on a dense model and on one with experts, every type of cache.
What was found is kept in `build/exactness` for each engine, and a table holds all that fits to an engine that is built;
`--write` puts the tables into the page. About half an hour of one core for each engine; `--cells quick` takes a tenth.
Exit code 0 when all is exact, and the stock engine is not; 10 else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from attest.errors import Exit
from tests.tools.architectures import FAMILIES
from tests.tools.exactness.verdict import Verdict, examine
from tests.tools.random_models import TYPES
from tests.tools.recurrent import RECURRENT

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ROOT / "build" / "engine"
KEPT = ROOT / "build" / "exactness"
PAGE = ROOT / "docs" / "determinism.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
PROFILES = ("x86-64-v3", "portable", "reference")
MIXES = ("F16", "Q4_K_M")
CACHES = ("f16", "q8_0", "f32", "bf16")
EXPERTS = "qwen3moe"


def plan() -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """What to examine: architecture, types of file, types of cache."""
    for name in (*FAMILIES, *RECURRENT):
        yield name, MIXES, ("f16",)
    yield "llama", [name for name in TYPES if name not in MIXES], ("f16",)
    yield EXPERTS, [name for name in TYPES if name not in MIXES], ("f16",)
    yield "llama", ("Q4_K_M",), CACHES[1:]


def tables(results: dict[str, list[Verdict]]) -> str:
    """The verdicts as Markdown."""
    text = []
    for title, rows in sections(results):
        text += [f"| {title} | {' | '.join(results)} |", "|---|" + "---|" * len(results), *rows, ""]
    compared = ", ".join(f"{profile}: {sum(v.rows for v in found):,}" for profile, found in results.items())
    return "\n".join([*text, f"Rows of logits compared: {compared}. Engines: {', '.join(map(engine, results))}.", ""])


def engine(profile: str) -> str:
    """An engine's name and the start of its library's digest."""
    record = json.loads((ENGINES / profile / "record.json").read_bytes())
    return f"{profile} `{record['libraries'][0]['digest'][:19]}`"


def keep(profile: str, found: list[Verdict]) -> None:
    """Keep the verdicts on the engine that is built now."""
    KEPT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"engine": engine(profile), "verdicts": [asdict(verdict) for verdict in found]})
    (KEPT / f"{profile}.json").write_text(text)


def kept(profile: str) -> list[Verdict]:
    """What was kept of the engine that is built now; empty when another one was examined."""
    path = KEPT / f"{profile}.json"
    if not path.exists() or not (ENGINES / profile / "record.json").exists():
        return []
    data = json.loads(path.read_bytes())
    return [Verdict(**verdict) for verdict in data["verdicts"]] if data["engine"] == engine(profile) else []


def sections(results: dict[str, list[Verdict]]) -> Iterator[tuple[str, list[str]]]:
    """The title and the lines of each table."""
    lookup = {(profile, v.architecture, v.type, v.kv): v for profile, found in results.items() for v in found}

    def line(label: str, name: str, types: Iterable[str], kv: str = "f16") -> str:
        return (
            f"| {label} | "
            + " | ".join(
                _cell([lookup.get((profile, name, type_name, kv)) for type_name in types]) for profile in results
            )
            + " |"
        )

    yield "Architecture, F16 and Q4_K_M", [line(name, name, MIXES) for name in FAMILIES]
    yield "With a running state", [line(name, name, MIXES) for name in RECURRENT]
    yield "Type of file, dense model", [line(name, "llama", [name]) for name in TYPES]
    yield "Type of file, experts", [line(name, EXPERTS, [name]) for name in TYPES]
    yield "Type of KV cache, Q4_K_M", [line(kv, "llama", ["Q4_K_M"], kv) for kv in CACHES]


def _cell(verdicts: Sequence[Verdict | None]) -> str:
    words = {verdict.word if verdict else "not run" for verdict in verdicts}
    worst = max((verdict.largest for verdict in verdicts if verdict), default=0.0)
    return ", ".join(sorted(words)) + (f" (by up to {worst:.1e})" if "differs" in words else "")


def write(text: str) -> None:
    """Put the tables between their marks in the page."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the matrix; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="default: those that are built")
    parser.add_argument("--cells", choices=("quick", "full"), default="full")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models" / "random")
    parser.add_argument("--kept", action="store_true", help="run nothing: only make the tables of what was kept")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    profiles = (
        []
        if arguments.kept
        else arguments.profile or [name for name in PROFILES if (ENGINES / name / "record.json").exists()]
    )
    results: dict[str, list[Verdict]] = {}
    for profile in profiles:
        results[profile] = found = []
        for name, types, kv in plan():
            new = examine(ENGINES / profile, name, types, arguments.models, cells=arguments.cells, kv=kv)
            found += new
            for item in new:
                why = item.error or ", ".join(item.differing)
                say(f"{profile} {item.architecture} {item.type} {item.kv} {item.word} {item.cells} {why}")
        keep(profile, found)
    text = tables({profile: known for profile in PROFILES if (known := kept(profile))})
    say(text)
    if arguments.write:
        write(text)
    surprises = [
        f"{profile} {v.architecture} {v.type} {v.kv} {v.word}"
        for profile, found in results.items()
        for v in found
        if v.word != "exact"
    ]
    if profiles and (ENGINES / "stock" / "record.json").exists():
        stock = examine(ENGINES / "stock", "llama", MIXES, arguments.models)
        surprises += [f"stock llama {v.type} {v.word}: the matrix is blind" for v in stock if v.word != "differs"]
    say("\n".join(surprises) or "as expected")
    return Exit.REJECTED if surprises else Exit.ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
