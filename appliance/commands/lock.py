"""`appliance lock`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance import job as jobs
from appliance import lock as locks
from appliance.commands.options import DataOption, EngineOption, JobArgument, RuntimeOption, check_wall, default_job
from appliance.enclave import rootfs
from appliance.enclave import wall as walls
from appliance.engine import places
from appliance.engine import recipe as recipes
from appliance.progress import Reporter
from attest import console, lockfile
from attest.digest import digest_of
from attest.durable import write_file

WallOption = Annotated[
    Literal["process", "container"],
    typer.Option(help="What runs are going to be behind: the workers' seals alone, or a container."),
]
ImageOption = Annotated[
    Path | None, typer.Option(help="With --wall container, the image's OCI layout; build/image/cpu by default.")
]


def lock(
    job: JobArgument = None,
    out: Annotated[Path | None, typer.Option(help="The lockfile; JOB.lock beside the job by default.")] = None,
    engine: EngineOption = None,
    data: DataOption = None,
    version: Annotated[
        int | None, typer.Option(help="Its version; one more than the one it replaces by default.")
    ] = None,
    wall: WallOption = "process",
    image: ImageOption = None,
    runtime: RuntimeOption = None,
) -> None:
    """Pin the digest of every artifact that a job may run: review the file, then run with it.

    Examples:

        appliance lock examples/jobs/gsm8k.yaml --data ../data

        appliance lock examples/jobs/gsm8k.yaml --data ../data --wall container
    """
    check_wall(wall, engine=engine, image=image, runtime=runtime)
    path = job or default_job()
    out = out or (path.with_suffix(".lock") if job else Path("demo.lock"))
    old = lockfile.read(out.read_bytes()).version if out.exists() else 0
    version = version if version is not None else old + 1
    if wall == "container":
        opened = rootfs.open_image(image or rootfs.DEFAULT)
        behind = walls.Contained(
            job=path, out=out, image=opened, engine=engine, data=tuple(data or ()), runtime=runtime
        )
        with Reporter() as progress:
            text = walls.lock(behind, version, progress)
    else:
        loaded = jobs.load(path)
        suites = jobs.load_suites(loaded, tuple(data or ()))
        folder = places.find(engine, loaded.job.numerics.profile)
        record = recipes.load_record(folder)
        with Reporter() as progress:
            text = locks.make(
                loaded, suites, engine=folder, record=record, root=out.parent, version=version, progress=progress
            )
    write_file(out, text)
    made = lockfile.read(text)
    console.OUT.print(f"wrote {out}: version {made.version}, {len(made.artifacts)} artifacts, {digest_of(text)}")
