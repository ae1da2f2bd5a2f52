"""`appliance boot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance import boot as booting
from appliance import lock as locks
from appliance.commands.options import EngineOption, JsonOption
from appliance.engine import places
from appliance.progress import Reporter
from attest import console, lockfile
from attest.files import read_file


def boot(
    lock: Annotated[Path, typer.Argument(help="The lockfile.")],
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash everything that a lockfile pins, compare, and print the event log; refuse on any difference.

    Example:

        appliance boot demo.lock
    """
    data = read_file(lock, lockfile.MAX_BYTES)
    folder = places.find(engine, lockfile.read(data).numerics.profile)
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
