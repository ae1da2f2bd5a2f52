"""`appliance engine`, and the engine that a run finds or builds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import EngineOption
from appliance.engine import build as engines
from appliance.engine import places
from appliance.engine import recipe as recipes
from appliance.progress import Reporter
from attest import console
from attest.errors import EnvironmentProblem

app = typer.Typer(help="Build and show the pinned llama.cpp engine.", no_args_is_help=True)


@app.command("build")
def build(
    profile: Annotated[
        str, typer.Option(help="The numerics profile: x86-64-v3, portable or reference; stock to see what goes wrong.")
    ] = recipes.DEFAULT_PROFILE,
    recipe: Annotated[Path | None, typer.Option(help="A recipe file in place of the profile's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="The engine's folder; the user's cache by default.")] = None,
    target: Annotated[
        recipes.Architecture | None,
        typer.Option(help="Build for this architecture, x86_64 or aarch64; this machine's by default."),
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The source distribution, when it is here already.")] = None,
    jobs_count: Annotated[int, typer.Option("--jobs", help="Compilers at a time.")] = os.cpu_count() or 1,
) -> None:
    """Build the engine from its hash-pinned source; a finished build is used again.

    Examples:

        appliance engine build --jobs 4

        appliance engine build --profile portable --target aarch64 --out build/engine/portable-aarch64
    """
    place = out or places.cached(f"{profile}-{target}" if target else profile)
    record = _build(recipe or recipes.recipe_path(profile), place, source, jobs_count, target)
    for library in record.libraries:
        console.OUT.print(f"{record.profile}: {library.name} {library.digest}, {library.size_bytes} bytes")


@app.command("show")
def show(
    engine: EngineOption = None,
    profile: Annotated[str, typer.Option(help="The numerics profile.")] = recipes.DEFAULT_PROFILE,
) -> None:
    """Print the build record of the engine that runs of a profile would use.

    Example:

        appliance engine show
    """
    console.print_json(recipes.load_record(places.find(engine, profile)).model_dump(mode="json"))


def folder_or_build(given: Path | None, profile: str) -> Path:
    """As `places.find`; where there is none and none was named, it is built first."""
    try:
        return places.find(given, profile)
    except EnvironmentProblem:
        if given:
            raise
    console.ERR.print("no engine yet: building it, once (2 to 12 minutes, needs a C++ compiler)")
    _build(recipes.recipe_path(profile), places.cached(profile), None, os.cpu_count() or 1)
    return places.cached(profile)


def _build(
    recipe: Path, out: Path, source: Path | None, jobs_count: int, target: recipes.Architecture | None = None
) -> recipes.EngineRecord:
    with Reporter() as progress:

        def report(text: str, fraction: float | None) -> None:
            if fraction is None:
                console.ERR.print(f"engine: {text}")
            else:
                progress("compiling the engine", round(fraction * 100), 100)

        return engines.build(recipe, out, source=source, jobs=jobs_count, progress=report, target=target)
