"""Build the engine twice, as differently as two machines with one toolchain can be, and compare every byte.

The two builds run in folders of different depth and with different umask, time zone, language, home and number of jobs;
the second finds compiler flags and a git checkout around it that must not reach the library. Takes a few minutes.

    python -m tests.conformance.engine_reproducible --source SDIST [--profile reference] [--jobs 2] [--against FOLDER]

Exit code 0 when library and record are identical, 10 when not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attest.digest import digest_file
from attest.errors import Exit

ROOT = Path(__file__).resolve().parents[2]
FILES = ("libllama.so", "record.json")
BUILD = """
import os, sys
from pathlib import Path
from appliance.engine.build import build
from appliance.engine.recipe import recipe_path
profile, out, source, jobs, umask = sys.argv[1:]
os.umask(int(umask, 8))
said = set()
def progress(text, fraction):
    percent = None if fraction is None else int(fraction * 10)
    if fraction is None or percent not in said:
        print(f"  {text}" if fraction is None else f"  {percent * 10} %", flush=True)
    said.add(percent)
build(recipe_path(profile), Path(out), source=Path(source) if source else None, jobs=int(jobs), progress=progress)
"""


def main() -> Exit:
    """Build twice, compare, and say what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", default="reference")
    parser.add_argument("--source", type=Path, help="the source distribution; without it, it is downloaded")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--against", type=Path, help="a finished engine that has to be identical too")
    options = parser.parse_args()
    source = str(options.source.resolve()) if options.source else ""

    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        top = Path(folder)
        first = top / "a" / "engine"
        second = top / "another" / "folder with a space" / ("and-a-much-longer-name" * 3) / "engine"
        checkout(second)
        build(options.profile, first, source, options.jobs, "022", {"TZ": "UTC", "LANG": "C.UTF-8"})
        leaks = {
            "TZ": "Pacific/Kiritimati",
            "LANG": "tr_TR.UTF-8",
            "LC_ALL": "tr_TR.UTF-8",
            "HOME": str(top),
            "CFLAGS": "-O1 -march=native",
            "CXXFLAGS": "-O1 -march=native",
            "LDFLAGS": "-Wl,--build-id",
            "SOURCE_DATE_EPOCH": "1700000000",
            "GGML_NATIVE": "ON",
        }
        build(options.profile, second, source, options.jobs + 1, "077", leaks)
        engines = [first, second, *([options.against] if options.against else [])]
        return compare(engines)


def checkout(out: Path) -> None:
    """A git checkout around `out`, whose commit a careless build would take for its own version."""
    out.parent.mkdir(parents=True)
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "not the engine"]):
        subprocess.run(["git", *command], cwd=out.parent, check=True)


def build(profile: str, out: Path, source: str, jobs: int, umask: str, environment: dict[str, str]) -> None:
    """One build in a process of its own."""
    say(f"building {profile} with {jobs} jobs, umask {umask}, {environment['TZ']}")
    arguments = [profile, str(out), source, str(jobs), umask]
    subprocess.run([sys.executable, "-c", BUILD, *arguments], cwd=ROOT, env=os.environ | environment, check=True)


def compare(engines: list[Path]) -> Exit:
    """Say for each file whether all engines have the same bytes."""
    outcome = Exit.ACCEPTED
    for name in FILES:
        digests = [digest_file(engine / name) for engine in engines]
        identical = len(set(digests)) == 1
        say(f"{name}: {'identical' if identical else 'DIFFERENT'} {' '.join(sorted(set(digests)))}")
        outcome = outcome if identical else Exit.REJECTED
    return outcome


def say(line: str) -> None:
    """One line to whoever waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
