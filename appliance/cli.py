"""`appliance`: run sealed evals and leave signed bundles."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance import boot as booting
from appliance import job as jobs
from appliance import lock as locks
from appliance import logs, resources
from appliance import run as running
from appliance.enclave import measured, rootfs
from appliance.enclave import wall as walls
from appliance.engine import build as engines
from appliance.engine import recipe as recipes
from appliance.image.cli import app as image_app
from appliance.notary import hold
from appliance.notary import lab as labs
from appliance.notary.log_cli import app as log_app
from appliance.progress import Reporter
from appliance.relay import WorkerFailure
from appliance.seal.plan import Kind, plan_for
from appliance.seal.requirement import Requirement
from attest import console, lockfile
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, Exit, MalformedInput

app = typer.Typer(
    name="appliance",
    help="Run AI-safety evals sealed and offline, and leave signed bundles that anybody can verify.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
engine_app = typer.Typer(help="Build and show the pinned llama.cpp engine.", no_args_is_help=True)
app.add_typer(engine_app, name="engine")
app.add_typer(image_app, name="image")
app.add_typer(log_app, name="log")

DEFAULT_LAB = Path("lab")
MACHINE = Path("build/vm")
"""Where `appliance image build --format uki` is told to put the measured VM."""
PASSPHRASE_VARIABLE = "VITRINE_PASSPHRASE_FILE"  # noqa: S105 - its name, not its value

JobArgument = Annotated[Path | None, typer.Argument(help="The job file; without one, the embedded demo.")]
EngineOption = Annotated[Path | None, typer.Option(help="The engine's folder.", envvar="VITRINE_ENGINE")]
DataOption = Annotated[list[Path] | None, typer.Option(help="A folder in which data sets are looked for as well.")]
WallOption = Annotated[
    Literal["process", "container"],
    typer.Option(help="What the run is behind: the workers' seals alone, or a container."),
]
RunWallOption = Annotated[
    Literal["process", "container", "vm"],
    typer.Option(help="What the run is behind: the workers' seals alone, a container, or a measured VM."),
]
ImageOption = Annotated[
    Path, typer.Option(help="The image's OCI layout; with --wall vm the machine's folder, build/vm by default.")
]
RuntimeOption = Annotated[
    Literal["runc", "podman", "bubblewrap"] | None,
    typer.Option(help="With --wall container, the one runtime to use; the first that works by default."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(help="A file (mode 0600) with the passphrase of the lab's keys.", envvar=PASSPHRASE_VARIABLE),
]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what workers print, too.")] = False,
) -> None:
    """Run AI-safety evals sealed and offline, and leave signed bundles that anybody can verify."""
    logs.configure(verbose=verbose)
    hold.hold()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The lab's folder; must not exist.")],
    name: Annotated[
        str, typer.Option(help="The lab's name, a DNS name; it stands in every certificate.")
    ] = labs.DEFAULT_NAME,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Create a lab: certificate authority, logs, time-stamp authority, and what auditors need to trust them.

    Example:

        appliance init lab --name evals.lab.example
    """
    lab = labs.create(folder, name, passphrase=_passphrase(passphrase_file), now=_now)
    console.OUT.print(f"created lab {lab.name} in {folder}")
    console.OUT.print(f"give {folder}/public/trusted_root.json to auditors, over a channel that they trust")


@app.command("lock")
def lock_command(
    job: JobArgument = None,
    out: Annotated[Path | None, typer.Option(help="The lockfile; JOB.lock beside the job by default.")] = None,
    engine: EngineOption = None,
    data: DataOption = None,
    version: Annotated[
        int | None, typer.Option(help="Its version; one more than the one it replaces by default.")
    ] = None,
    wall: WallOption = "process",
    image: ImageOption = rootfs.DEFAULT,
    runtime: RuntimeOption = None,
) -> None:
    """Pin the digest of every artifact that a job may run: review the file, then run with it.

    Example:

        appliance lock examples/jobs/gsm8k.yaml --data ../data
    """
    path = job or _default_job()
    out = out or (path.with_suffix(".lock") if job else Path("demo.lock"))
    old = lockfile.read(out.read_bytes()).version if out.exists() else 0
    version = version if version is not None else old + 1
    if wall == "container":
        behind = walls.Contained(
            job=path, out=out, image=rootfs.open_image(image), engine=engine, data=tuple(data or ()), runtime=runtime
        )
        with Reporter() as progress:
            text = walls.lock(behind, version, progress)
    else:
        loaded = jobs.load(path)
        suites = jobs.load_suites(loaded, tuple(data or ()))
        folder = _engine(engine, loaded.job.numerics.profile)
        record = recipes.load_record(folder)
        with Reporter() as progress:
            text = locks.make(
                loaded, suites, engine=folder, record=record, root=out.parent, version=version, progress=progress
            )
    temporary = out.with_name(f".{out.name}.new")
    temporary.write_bytes(text)
    temporary.replace(out)
    lock = lockfile.read(text)
    console.OUT.print(f"wrote {out}: version {lock.version}, {len(lock.artifacts)} artifacts, {digest_of(text)}")


@app.command()
def boot(
    lock: Annotated[Path, typer.Argument(help="The lockfile.")],
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash everything that a lockfile pins, compare, and print the event log; refuse on any difference.

    Example:

        appliance boot demo.lock
    """
    data = _read(lock)
    folder = _engine(engine, lockfile.read(data).numerics.profile)
    with (
        Reporter() as progress,
        booting.boot(data, lock.parent, locks.resolver(lock.parent, folder), progress=progress) as booted,
    ):
        if as_json:
            sys.stdout.write(booted.log.dump().decode())
            return
        for record in booted.events:
            event = record.event
            name = f"{event.kind} {event.name}" if event.type == "artifact" else event.type
            console.OUT.print(f"{record.index:4d}  register {record.register_}  {name:<32} {record.digest}")
        for register, value in booted.registers.items():
            console.OUT.print(f"register {register:<10} {value}")
        console.OUT.print(f"booted: {len(booted.events)} events, lock {booted.lock_digest}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Examine this host: which walls can be used, how far the seal goes, what is missing and how to get it.

    Changes nothing, needs no root. Ends with 0 where jobs can be run behind the process wall, with 1 otherwise.

    Example:

        appliance doctor
    """
    from appliance.enclave import doctor as doctors

    report = doctors.examine()
    if as_json:
        console.print_json(report.model_dump(mode="json"))
    else:
        console.OUT.print(doctors.render(report))
    if not report.usable:
        raise typer.Exit(Exit.FAULT)


@app.command()
def seal(
    show: Annotated[bool, typer.Option("--show", help="Print the plans.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a sealed worker may do, as it would be carried out on this host. Nothing is done.

    Example:

        appliance seal --show
    """
    kinds: tuple[Kind, ...] = ("model", "eval", "program")
    plans = [plan_for(kind, memory_bytes=8 << 30, threads=1) for kind in kinds]
    if as_json:
        console.print_json([plan.model_dump(mode="json", exclude_none=True) for plan in plans])
    elif not show:
        raise typer.BadParameter("expected --show (or --json)")
    else:
        for plan in plans:
            console.OUT.print(plan.describe() + "\n")


@app.command()
def run(
    job: JobArgument = None,
    lab: Annotated[Path, typer.Option(help="The lab's folder; made when it does not exist.")] = DEFAULT_LAB,
    lock: Annotated[Path | None, typer.Option(help="The reviewed lockfile; JOB.lock when it exists.")] = None,
    engine: EngineOption = None,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; bundles/NAME-N by default.")] = None,
    data: DataOption = None,
    passphrase_file: PassphraseOption = None,
    sign_incomplete: Annotated[
        bool, typer.Option("--sign-incomplete", help="Sign what there is when the run ends early; the bundle says so.")
    ] = False,
    require_seal: Annotated[
        Requirement,
        typer.Option(help="full: refuse to run where a layer of a worker's seal is missing; any: say so."),
    ] = "any",
    wall: RunWallOption = "process",
    image: ImageOption = rootfs.DEFAULT,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job in sealed workers, offline, and leave a signed bundle.

    Examples:

        appliance run

        appliance run examples/jobs/gsm8k.yaml --lab lab --data ../data --out bundles/gsm8k

        appliance run --wall container --image build/image/cpu
    """
    _check_wall_options(wall, engine=engine, image=image, runtime=runtime)
    path = job or _default_job()
    if lock is None and job is not None and job.with_suffix(".lock").exists():
        lock = job.with_suffix(".lock")
    loaded = jobs.load(path)
    if not lab.exists():
        labs.create(lab, passphrase=_passphrase(passphrase_file), now=_now)
        console.ERR.print(f"created a lab in {lab}")
    notary = labs.open_lab(lab, _passphrase(passphrase_file), now=_now)
    out = out or running.default_out(loaded.job.name)
    if wall == "container":
        behind = walls.Request(
            job=path,
            lab=notary,
            out=out,
            image=rootfs.open_image(image),
            engine=engine,
            lock=lock,
            data=tuple(data or ()),
            sign_incomplete=sign_incomplete,
            require_seal=require_seal,
            runtime=runtime,
        )
        with Reporter() as progress:
            outcome = walls.run(behind, progress)
    elif wall == "vm":
        if require_seal == "full":
            raise EnvironmentProblem("--require-seal full cannot be asked for behind the wall vm: leave it out there")
        machine = measured.Request(
            job=path,
            lab=notary,
            out=out,
            image=MACHINE if image == rootfs.DEFAULT else image,
            lock=lock,
            data=tuple(data or ()),
            sign_incomplete=sign_incomplete,
        )
        with Reporter() as progress:
            outcome = measured.run(machine, progress)
    else:
        request = running.Request(
            job=path,
            lab=notary,
            engine=_engine_or_build(engine, loaded.job.numerics.profile),
            out=out,
            lock=lock,
            data=tuple(data or ()),
            sign_incomplete=sign_incomplete,
            require_seal=require_seal,
        )
        with Reporter() as progress:
            outcome = running.run(request, progress)
    if as_json:
        value = {"bundle": str(outcome.bundle), "ended_by": outcome.ended_by}
        console.print_json(value | {"results": outcome.results.model_dump(mode="json", exclude_none=True)})
    else:
        console.OUT.print(f"bundle: {outcome.bundle} ({outcome.ended_by})")


def _check_wall_options(wall: str, *, engine: Path | None, image: Path, runtime: str | None) -> None:
    """Refuse an option that says nothing behind this wall, so that nobody believes that it did."""
    if engine is not None and wall == "vm":
        raise typer.BadParameter("the engine behind the wall vm is the image's: leave it out", param_hint="--engine")
    if runtime is not None and wall != "container":
        raise typer.BadParameter(f"the wall {wall} has no container: leave it out", param_hint="--runtime")
    if image != rootfs.DEFAULT and wall == "process":
        raise typer.BadParameter("the wall process has no image: leave it out", param_hint="--image")


@engine_app.command("build")
def engine_build(
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
    folder = out or _cached_engine(f"{profile}-{target}" if target else profile)
    record = _build(recipe or recipes.recipe_path(profile), folder, source, jobs_count, target)
    for library in record.libraries:
        console.OUT.print(f"{record.profile}: {library.name} {library.digest}, {library.size_bytes} bytes")


@engine_app.command("show")
def engine_show(
    engine: EngineOption = None,
    profile: Annotated[str, typer.Option(help="The numerics profile.")] = recipes.DEFAULT_PROFILE,
) -> None:
    """Print the build record of the engine that runs of a profile would use.

    Example:

        appliance engine show
    """
    console.print_json(recipes.load_record(_engine(engine, profile)).model_dump(mode="json"))


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


def _engine_or_build(given: Path | None, profile: str) -> Path:
    """As `_engine`; where there is none and none was named, it is built first."""
    try:
        return _engine(given, profile)
    except EnvironmentProblem:
        if given:
            raise
    console.ERR.print("no engine yet: building it, once (2 to 12 minutes, needs a C++ compiler)")
    _build(recipes.recipe_path(profile), _cached_engine(profile), None, os.cpu_count() or 1)
    return _cached_engine(profile)


def _now() -> datetime:
    return datetime.now(UTC)


def _default_job() -> Path:
    return resources.demo() / "job.yaml"


def _cached_engine(profile: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vitrine" / "engine" / profile


def _engine(given: Path | None, profile: str) -> Path:
    """The folder of the engine of `profile`: the one given, the checkout's, or the user's cache."""
    places = [given] if given else [Path("build/engine") / profile, _cached_engine(profile)]
    for place in places:
        if (place / locks.RECORD).exists():
            return place
    raise EnvironmentProblem(
        f"expected an engine in {' or '.join(map(str, places))}, found none: build it with `appliance engine build "
        f"--profile {profile}` (2 to 12 minutes, needs a C++ compiler), or name its folder with --engine"
    )


def _passphrase(path: Path | None) -> str | None:
    if path is None:
        return None
    status = path.stat()
    if status.st_mode & 0o077:
        raise EnvironmentProblem(f"{path} can be read by others: chmod 600 {path}")
    return path.read_text(encoding="utf-8").rstrip("\n")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MalformedInput(str(path), f"expected a readable file, found: {error.strerror}") from None


def main() -> None:
    """Entry point of the console script."""
    try:
        console.run(app, "appliance")
    except WorkerFailure as error:
        console.fail(str(error), error.exit_code)
