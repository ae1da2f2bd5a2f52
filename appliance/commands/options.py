"""What several commands ask for, under one name and with one meaning, and how it is read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance import resources
from appliance.seal.requirement import Requirement
from attest.manifest import Wall

PASSPHRASE_VARIABLE = "VITRINE_PASSPHRASE_FILE"  # noqa: S105 - its name, not its value

JobArgument = Annotated[Path | None, typer.Argument(help="The job file; without one, the embedded demo.")]
EngineOption = Annotated[Path | None, typer.Option(help="The engine's folder.", envvar="VITRINE_ENGINE")]
DataOption = Annotated[list[Path] | None, typer.Option(help="A folder in which data sets are looked for as well.")]
RuntimeOption = Annotated[
    Literal["runc", "podman", "bubblewrap"] | None,
    typer.Option(help="With --wall container, the one runtime to use; the first that works by default."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(help="A file (mode 0600) with the passphrase of the lab's keys.", envvar=PASSPHRASE_VARIABLE),
]

SignIncompleteOption = Annotated[
    bool, typer.Option("--sign-incomplete", help="Sign what there is when the run ends early; the bundle says so.")
]
RequireSealOption = Annotated[
    Requirement,
    typer.Option(help="full: refuse to run where a layer of a worker's seal is missing; any: say so."),
]


def default_job() -> Path:
    """The embedded demo."""
    return resources.demo() / "job.yaml"


def now() -> datetime:
    """The clock of a lab."""
    return datetime.now(UTC)


def check_wall(
    wall: Wall,
    *,
    engine: Path | None,
    image: Path | None,
    runtime: str | None,
    tpm: Path | None = None,
    attester: str | None = None,
) -> None:
    """Refuse an option that says nothing behind this wall, so that nobody believes that it did."""
    if engine is not None and wall == "vm":
        raise typer.BadParameter(
            "the engine behind the wall vm is the image's: leave it out, and VITRINE_ENGINE", param_hint="--engine"
        )
    if runtime is not None and wall != "container":
        raise typer.BadParameter(f"the wall {wall} has no container: leave it out", param_hint="--runtime")
    if attester and wall != "process":
        said = "has its own TPM" if wall == "vm" else "cannot reach the host's hardware"
        raise typer.BadParameter(f"the wall {wall} {said}: leave it out", param_hint="--attester")
    if tpm is not None and wall != "vm":
        raise typer.BadParameter(f"the wall {wall} has no TPM: leave it out", param_hint="--tpm-state")
    if image is not None and wall == "process":
        raise typer.BadParameter("the wall process has no image: leave it out", param_hint="--image")
