"""`appliance suite`: suites from what other projects write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attest import console
from attest.errors import EnvironmentProblem

app = typer.Typer(help="Make suites of other projects' files.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make suites of other projects' files."""


@app.command("import")
def import_suite(
    kind: Annotated[Literal["harmbench", "lm-eval", "inspect"], typer.Argument(help="Whose file it is.")],
    file: Annotated[Path, typer.Argument(help="HarmBench's CSV, an lm-eval task (YAML), a data set of Inspect's.")],
    out: Annotated[Path, typer.Option(help="The suite's file; must not exist.")],
) -> None:
    """Write a suite of a HarmBench CSV, a plain multiple-choice task of lm-eval, or a data set of Inspect.

    Examples:

        appliance suite import harmbench harmbench_behaviors_text_all.csv --out harmbench.yaml

        appliance suite import lm-eval my_task.yaml --out my-task.yaml

        appliance suite import inspect theory_of_mind.jsonl --out tom.yaml
    """
    from appliance.bridges import imports

    written = imports.make(kind, file, out)
    try:
        with out.open("xb") as target:
            target.write(written)
    except OSError as error:
        raise EnvironmentProblem(f"{out}: {error.strerror}; name another file with --out") from None
    console.OUT.print(f"suite: {out}")
