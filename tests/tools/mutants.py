"""Mutants of the checking modules: which comparison could be deleted without a test that fails?

    python -m tests.tools.mutants GROUP... [--only attest/tpm/chain.py] [--tests FILE...] [--resume | --again] [--long]

Each mutant changes one function by one thing: a comparison or a condition becomes true or false, or lets its bound in
or out; an operand of `and` and `or`, a `not`, a call whose value nobody uses, goes away. What words an error (what
stands in a `raise`) is left alone, and so are the bodies of modules and classes.

The tests are collected and run once, with coverage a test. Then a child of this process gets a mutant's code in place
of the function's own and runs the tests that reach the changed line, until one fails: first those that reach little
besides, such as tests of a refusal that stands there. A child that takes much longer than these tests took counts as
killed. Fixtures of modules and of the session are kept from the first run, and what a child writes to the tests'
folders is gone with it: the next mutant finds the same labs. Before its mutants and after them, a module without a
change has to pass in a child.

Nothing in the tree may change while this runs. It takes root, or `unshare -rm`, for the folders.
"""

from __future__ import annotations

import argparse
import ast
import copy
import ctypes
import functools
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
import types
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import coverage
import pytest
from _pytest.runner import runtestprotocol
from _pytest.scope import Scope
from hypothesis import settings

from tests.tools.mutant_groups import GROUPS, LONG

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 8 << 30
SPARE_S = 180
"""What a child may take beside ten times what its tests took at first: its fixtures are made anew."""
QUICK_S = 2.0
"""What a test may take that is not put off until the end."""
CONTROL = 20
"""Tests that a function without a change has to pass, of those that reach it, before its mutants are tried."""
BROKEN = 3
"""How a child ends that could not try its mutant."""
CLONE_NEWNS = 0x20000
"""linux/sched.h."""
EXAMPLES = "40"
"""Of each fuzz test: a check that only luck finds is not tested."""

INVERSE_BOUND: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


@dataclass(frozen=True)
class Mutant:
    """One change."""

    path: str
    line: int
    function: str
    """Qualified name of the outermost function around the change."""
    what: str
    """The change, for people."""
    code: types.CodeType
    """The module with the change."""

    @property
    def name(self) -> str:
        """What it is called from one run to the next, though lines move."""
        return f"{self.path} {self.function} {self.what}"


def mutants(path: str) -> Iterator[Mutant]:
    """Every mutant of the functions in a module."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    seen: Counter[tuple[str, str]] = Counter()
    for name, function in _functions(tree.body, ""):
        for node, parent, field, index in _places(function):
            for change, replacement in _changes(node, parent):
                holder = getattr(parent, field)
                ast.copy_location(replacement, node)
                ast.fix_missing_locations(replacement)
                if index is None:
                    setattr(parent, field, replacement)
                else:
                    holder[index] = replacement
                code = compile(tree, str(ROOT / path), "exec")
                if index is None:
                    setattr(parent, field, node)
                else:
                    holder[index] = node
                seen[name, change] += 1
                again = f" ({seen[name, change]})" if seen[name, change] > 1 else ""
                yield Mutant(path, node.lineno, name, change + again, code)


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for item in body:
        if isinstance(item, ast.FunctionDef):
            yield prefix + item.name, item
        elif isinstance(item, ast.ClassDef):
            yield from _functions(item.body, f"{prefix}{item.name}.")


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str, int | None]]:
    """Every node below, with where it stands; not decorators, annotations, and what words an error."""
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "returns", "annotation") or (
            field == "args" and isinstance(value, ast.arguments)
        ):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not _words(node, child):
                yield child, node, field, index
                yield from _places(child)


def _words(parent: ast.AST, node: ast.AST) -> bool:
    """Whether `node` says something to people: an error, a text, what a line of an appraisal expected and found."""
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in ("Line", "_line"):
        return isinstance(node, ast.IfExp) or (
            isinstance(node, ast.keyword) and node.arg in ("expected", "found", "why")
        )
    return isinstance(node, (ast.Raise, ast.JoinedStr))


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    text = ast.unparse(node)[:110].split("\n")[0]
    conditions = (ast.If, ast.IfExp, ast.While, ast.comprehension)
    is_condition = isinstance(parent, conditions) and node in [
        getattr(parent, "test", None),
        *getattr(parent, "ifs", []),
    ]
    if isinstance(node, ast.Compare) or is_condition or (isinstance(parent, ast.BoolOp) and isinstance(node, ast.expr)):
        for value in (True, False):
            if not isinstance(node, ast.Constant):
                yield f"`{text}` is {value}", ast.Constant(value)
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            if type(operator) in INVERSE_BOUND:
                other = copy.deepcopy(node)
                other.ops[at] = INVERSE_BOUND[type(operator)]()
                yield f"`{text}` becomes `{ast.unparse(other)[:110]}`", other
        if len(node.ops) > 1:
            parts = [node.left, *node.comparators]
            for at in range(len(node.ops)):
                pairs = [ast.Compare(parts[i], [node.ops[i]], [parts[i + 1]]) for i in range(len(node.ops)) if i != at]
                yield f"part {at + 1} of `{text}` goes", pairs[0] if len(pairs) == 1 else ast.BoolOp(ast.And(), pairs)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"`{text}` loses its not", node.operand
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"`{text}` goes", ast.Pass()


class Runner:
    """A pytest plugin that runs the collected tests once, and then each mutant in a child of its own."""

    def __init__(self, paths: list[str], out: Path, done: set[str]) -> None:
        self._paths, self._out, self._done = paths, out, done
        self._seconds: dict[str, float] = {}
        self._tests: dict[tuple[str, int], list[pytest.Item]] = defaultdict(list)
        self._lines: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep what a module's fixtures make: a bundle takes seconds, and each child would make its own."""
        for item in session.items:
            for fixtures in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
                for fixture in fixtures:
                    if fixture.scope == "module":
                        fixture._scope = Scope.Session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of pytest's own loop."""
        items = [item for item in session.items if isinstance(item, pytest.Function)]
        self._cover(items)
        found = [mutant for path in self._paths for mutant in mutants(path)]
        found = [mutant for mutant in found if mutant.name not in self._done]
        print(f"{len(found)} mutants", flush=True)
        self._control(found, items)
        with self._out.open("a", encoding="utf-8") as file:
            for number, mutant in enumerate(found, 1):
                verdict = self._judge(mutant, items)
                row = {"path": mutant.path, "line": mutant.line, "function": mutant.function, "what": mutant.what}
                file.write(json.dumps(row | {"verdict": verdict}) + "\n")
                file.flush()
                if not verdict.startswith("killed"):
                    print(f"[{number}/{len(found)}] {mutant.path}:{mutant.line} {mutant.what}: {verdict}", flush=True)
        self._control(found, items)
        return True

    def _control(self, found: list[Mutant], items: Sequence[pytest.Item]) -> None:
        """Without a change, tests pass in a child too. Otherwise every mutant would be killed."""
        for mutant in {mutant.path: mutant for mutant in found}.values():
            same = compile((ROOT / mutant.path).read_text("utf-8"), str(ROOT / mutant.path), "exec")
            if (verdict := self._judge(replace(mutant, code=same), items, CONTROL)) not in ("survived", "not reached"):
                raise RuntimeError(f"{mutant.path}: {mutant.function} is {verdict} without a change")

    def _cover(self, items: Sequence[pytest.Item]) -> None:
        watch = coverage.Coverage(data_file=None, include=[str(ROOT / path) for path in self._paths], config_file=False)
        for number, item in enumerate(items):
            watch.start()
            watch.switch_context(str(number))
            began = time.monotonic()
            reports = runtestprotocol(item, log=False, nextitem=_elsewhere(item, items, number))
            watch.stop()
            if any(report.failed for report in reports):
                print(f"fails without a mutant, left out: {item.nodeid}", flush=True)
                continue
            if any(report.skipped for report in reports):
                continue
            self._seconds[item.nodeid] = time.monotonic() - began
        data = watch.get_data()
        for path in self._paths:
            for line, contexts in data.contexts_by_lineno(str(ROOT / path)).items():
                for context in contexts:
                    if context and (item := items[int(context)]).nodeid in self._seconds:
                        self._tests[path, line].append(item)
                        self._lines[item.nodeid] += 1

    def _cost(self, item: pytest.Item) -> tuple[bool, int, float]:
        seconds = self._seconds[item.nodeid]
        return seconds > QUICK_S, self._lines[item.nodeid], seconds

    def _judge(self, mutant: Mutant, items: Sequence[pytest.Item], most: int | None = None) -> str:
        tests = sorted(self._tests[mutant.path, mutant.line], key=self._cost)[:most]
        if not tests:
            return "not reached"
        limit = SPARE_S + 10 * sum(self._seconds[item.nodeid] for item in tests)
        child = os.fork()
        if child == 0:
            self._run(mutant, tests, items, limit)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == BROKEN:
            raise RuntimeError(f"{mutant.path}: {mutant.what} could not be tried")
        return {0: "survived", 1: "killed"}.get(status, "killed by time or memory")

    def _run(self, mutant: Mutant, tests: Sequence[pytest.Item], items: Sequence[pytest.Item], limit: float) -> None:
        status = BROKEN
        try:
            os.setsid()
            signal.setitimer(signal.ITIMER_REAL, limit)  # its default action ends the process
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            keep(Path(items[0].config._tmp_path_factory.getbasetemp()))  # type: ignore[attr-defined]
            install(mutant)
            gc.disable()  # it would copy all that the processes share
            status = 1  # of what pytest itself does not survive, too: no memory to report in
            for at, item in enumerate(tests):
                after = tests[at + 1] if at + 1 < len(tests) else _elsewhere(item, items, len(items))
                if any(report.failed for report in runtestprotocol(item, log=False, nextitem=after)):
                    break
            else:
                status = 0
        finally:
            os._exit(status)


def keep(folder: Path) -> None:
    """From now on, what this process writes below `folder` is seen by it and its children alone."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no namespace of mounts")
    mount("--make-rprivate", "/")
    beside = folder.with_name(f"{folder.name}-beside")
    beside.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "none", str(beside))
    for name in ("upper", "work"):
        (beside / name).mkdir()
    options = f"lowerdir={folder},upperdir={beside}/upper,workdir={beside}/work"
    mount("-t", "overlay", "overlay", "-o", options, str(folder))


def mount(*arguments: str) -> None:
    """Run mount(8)."""
    subprocess.run(["mount", *arguments], check=True)


def install(mutant: Mutant) -> None:
    """Put the mutant's code in place of the function's, wherever it was imported to."""
    code = mutant.code
    for part in mutant.function.split("."):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == part)
    found = 0
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType):
            old = thing.__code__
            if (old.co_filename, old.co_qualname, old.co_firstlineno) == (
                code.co_filename,
                code.co_qualname,
                code.co_firstlineno,
            ):
                thing.__code__ = code
                found += 1
        elif isinstance(thing, functools._lru_cache_wrapper) and thing.__module__.startswith("attest"):
            thing.cache_clear()
    if not found:
        raise RuntimeError(f"no function {mutant.function} of {mutant.path} in memory")


def _elsewhere(item: pytest.Item, items: Sequence[pytest.Item], number: int) -> pytest.Item | None:
    """The next test, or for the last one any other: so fixtures of the session stay, and the test's own go."""
    return items[number + 1] if number + 1 < len(items) else next((other for other in items if other is not item), None)


def main() -> None:
    """Run the groups that the command line names."""
    parser = argparse.ArgumentParser(description="mutants of the checking modules, and whether a test fails for each")
    parser.add_argument("group", nargs="+", choices=GROUPS)
    parser.add_argument("--only", action="append", help="of their modules, these alone")
    parser.add_argument(
        "--tests", nargs="+", help="in place of theirs, these, which may be enough to kill most quickly"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--resume", action="store_true", help="leave out those that have a record in --out")
    parser.add_argument("--again", action="store_true", help="leave out those that were killed by the record in --out")
    parser.add_argument("--long", action="store_true", help="also with tests that run jobs of their own")
    arguments = parser.parse_args()
    rows = arguments.out.read_text("utf-8").splitlines() if arguments.out.exists() else []
    verdicts = {f"{row['path']} {row['function']} {row['what']}": row["verdict"] for row in map(json.loads, rows)}
    done = {
        name
        for name, verdict in verdicts.items()
        if arguments.resume or (arguments.again and verdict.startswith("killed"))
    }
    os.environ["VITRINE_MUTATIONS"] = EXAMPLES
    os.chdir(ROOT)
    settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    settings.load_profile("mutants")
    for group in arguments.group:
        modules, tests = GROUPS[group]
        files = [f for name in modules for f in (sorted(ROOT.glob(f"{name}/*.py")) or [ROOT / name])]
        paths = [path for f in files if (path := f.relative_to(ROOT).as_posix()) in (arguments.only or [path])]
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", *(arguments.tests or tests)]
        options += [] if arguments.long else [f"--deselect=tests/integration/{name}" for name in LONG]
        pytest.main(options, plugins=[Runner(paths, arguments.out, done)])
    sys.exit(0)


if __name__ == "__main__":
    main()
