"""What sealed workers really ask of the kernel, next to what their policies allow.

    python -m tests.tools.traced [--keep FOLDER] COMMAND [ARGUMENT ...]

runs COMMAND, `appliance run job.yaml` say, below strace, and prints for each kind of worker every call of its policy,
with the number of times that it was made after the seal and let through, and the values of the arguments that the
policy compares. A call with 0 is a candidate for removal: it stays where another architecture, C library or Python
needs it, and the policy says so. With `--keep` the traces stay, and those of earlier runs in the same folder count too.

It needs strace 5.9 or newer, and to be allowed to trace. A seal refuses sealed workers to be traced from then on; who
traced them before goes on.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from appliance.seal.kernel import PR_SET_SECCOMP
from appliance.seal.policy import SeccompPolicy, parse_policy, read_policy
from appliance.workers import MODULES
from attest.sealplan import Kind

STRACE = ("strace", "-ff", "-qq", "-s", "256", "--decode-pids=pidns", "-e", "trace=all", "-e", "raw=!execve,clone")
"""One file for each thread; arguments as numbers, but for the program that is run and the id of a new thread."""
CALL = re.compile(r"^(?P<name>\w+)\((?P<args>.*?)\)? += (?P<result>-?\w+|\?)(?: (?P<error>E[A-Z]+))?(?P<rest>.*)$")
FILTER = ("prctl", PR_SET_SECCOMP)
STARTS = ("clone", "clone3", "fork", "vfork")
REFUSED = frozenset({"EPERM", "ENOSYS"})
"""The errors of the policies: a call that ends with one was not let through, or might as well not have been."""
KINDS: tuple[Kind, ...] = get_args(Kind)


Call = tuple[str, tuple[int | None, ...]]
"""Name and arguments; None for an argument that is no number."""


@dataclass
class Thread:
    """One trace file: the calls of a thread that were let through, before and after it sealed itself."""

    kind: Kind | None = None
    """The kind of worker that was started in it."""
    before: list[Call] = field(default_factory=list)
    """Before the seal; all of them where it did not seal itself."""
    after: list[Call] = field(default_factory=list)
    """After the seal."""
    children: list[int] = field(default_factory=list)
    """What it started before its seal."""
    heirs: list[int] = field(default_factory=list)
    """The threads that it started after its seal, which are sealed from their start."""


def read_thread(lines: Iterable[str]) -> Thread:
    """The trace of one thread."""
    thread = Thread()
    calls, started = thread.before, thread.children
    for match in filter(None, map(CALL.match, lines)):
        name, text = match["name"], match["args"]
        if name == "execve":
            thread.kind = next((kind for kind in KINDS if f'"{MODULES[kind]}"' in text), thread.kind)
        if match["error"] in REFUSED:
            continue
        call = name, tuple(map(_number, text.split(", "))) if text else ()
        if name in STARTS and match["error"] is None:
            outside = re.search(r"/\* (\d+) in strace's PID NS \*/", match["rest"])
            started.append(int(outside[1] if outside else match["result"], 0))
        if (name, *call[1][:1]) == FILTER:
            calls, started = thread.after, thread.heirs
        else:
            calls.append(call)
    return thread


def sealed_calls(threads: dict[int, Thread]) -> Iterator[tuple[Kind, Call]]:
    """The calls of sealed workers, and of the threads that they started when they were sealed."""

    def below(number: int, kind: Kind) -> Iterator[tuple[Kind, Call]]:
        thread = threads.get(number, Thread())
        yield from ((kind, call) for call in thread.after)
        for heir in thread.heirs:
            yield from inherited(heir, kind)
        for child in thread.children:
            yield from below(child, kind)

    def inherited(number: int, kind: Kind) -> Iterator[tuple[Kind, Call]]:
        thread = threads.get(number, Thread())
        yield from ((kind, call) for call in (*thread.before, *thread.after))
        for heir in (*thread.children, *thread.heirs):
            yield from inherited(heir, kind)

    for number, thread in threads.items():
        if thread.kind is not None:
            yield from below(number, thread.kind)


def count(calls: Iterable[tuple[Kind, Call]]) -> dict[Kind, Counter[tuple[str, str]]]:
    """How often each call was made, by name and by the values that the policy of the kind compares."""
    compared = {kind: _compared(parse_policy(read_policy(kind), kind)) for kind in KINDS}
    found: dict[Kind, Counter[tuple[str, str]]] = {kind: Counter() for kind in KINDS}
    for kind, (name, arguments) in calls:
        values = [
            f"{position}: {value & mask:#x}"
            for position, mask in compared[kind][name]
            if position < len(arguments) and (value := arguments[position]) is not None
        ]
        found[kind][name, ", ".join(values)] += 1
    return found


def report(kind: Kind, found: Counter[tuple[str, str]]) -> str:
    """The counts for people: each call of the policy, and each that is in none of its rules."""
    policy = parse_policy(read_policy(kind), kind)
    named = [name for rule in policy.allow for name in rule.calls]
    lines = []
    for name in dict.fromkeys((*named, *(name for name, _ in found))):
        ways = {values: number for (one, values), number in found.items() if one == name}
        mark = "" if name in named else "  NOT IN THE POLICY"
        lines.append(f"{kind:<6} {name:<20} {sum(ways.values()):>9}{mark}")
        lines += [f"{kind:<6}   {values:<18} {number:>9}" for values, number in sorted(ways.items()) if values]
    return "\n".join(lines)


def _compared(policy: SeccompPolicy) -> dict[str, list[tuple[int, int]]]:
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for rule in policy.allow:
        for name in rule.calls:
            places[name] += [(one.arg, one.mask) for one in rule.when if (one.arg, one.mask) not in places[name]]
    return places


def _number(text: str) -> int | None:
    try:
        return int(text, 0) & 2**64 - 1
    except ValueError:
        return None


def main() -> int:
    """The command line; the status of the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="the folder of the traces; a temporary one by default")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if shutil.which("strace") is None:
        sys.exit("no strace on this host: apt install strace")
    with tempfile.TemporaryDirectory(prefix="vitrine-traced-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        status = 0
        if options.command:
            place = tempfile.mkdtemp(prefix="run-", dir=folder)
            status = subprocess.run([*STRACE, "-o", f"{place}/thread", *options.command], check=False).returncode
        total: dict[Kind, Counter[tuple[str, str]]] = {kind: Counter() for kind in KINDS}
        for one in folder.iterdir():
            threads = {}
            for path in one.glob("thread.*"):
                with path.open("r", errors="replace") as lines:
                    threads[int(path.suffix[1:])] = read_thread(lines)
            for kind, found in count(sealed_calls(threads)).items():
                total[kind] += found
    for kind in KINDS:
        print(report(kind, total[kind]))
    return status


if __name__ == "__main__":
    sys.exit(main())
