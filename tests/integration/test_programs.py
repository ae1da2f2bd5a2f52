"""Programs in their own seal: HumanEval's solutions pass, its failing samples fail, and no hostile one passes."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import selectors
import time
from pathlib import Path
from typing import Any

import pytest

from appliance import run as runs
from appliance.frames import Frame, Kind
from appliance.programs.pool import Programs
from appliance.relay import Station
from appliance.seal.launch import spawn
from appliance.seal.plan import plan_for
from attest import canonical, seal, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from tests.conftest import Made

MIB = 1 << 20
PROMPT = "def double(number):\n"
TEST = """
def check(candidate):
    for number in range(5):
        assert candidate(number) == 2 * number
    assert candidate("ab") == "abab"
"""


def trial(completion: str, **more: Any) -> dict[str, Any]:
    common = {"prompt": PROMPT, "test": TEST, "entry_point": "double", "timeout_s": 30}
    return {**common, "completion": completion, **more}


def judge(*trials: dict[str, Any], cpu_s: int = 120, seconds: float = 500) -> list[tuple[str, str]]:
    """Verdict and reason of each, from sealed workers as a run starts them."""
    plan = plan_for("program", memory_bytes=512 * MIB, threads=1, cpu_s=cpu_s)
    numbers = itertools.count()

    def hire() -> Station:
        worker = spawn("appliance.programs.worker", fds={}, plan=plan, log=lambda _line: None)
        return Station(f"program.{next(numbers)}", worker)

    def admit(hello: bytes) -> None:
        value = canonical.loads(hello, "hello")
        report = {"worker": "program", "plan": plan.model_dump(mode="json", exclude_none=True), **value}
        seal.check_worker(canonical.validate(seal.WorkerSeal, report, "seal"))

    pool, verdicts, end = Programs(hire, admit), {}, time.monotonic() + seconds
    for number, one in enumerate(trials):
        assert pool.submit(Frame(Kind.REQUEST, 255, json.dumps(one).encode(), number))
    while pool.busy:
        assert time.monotonic() < end
        pool.start()
        with selectors.DefaultSelector() as selector:
            for station in pool.stations:
                selector.register(station.worker.replies, selectors.EVENT_READ, station)
            ready = [key.data for key, _ in selector.select(1)]
        for reply in (*map(pool.read, ready), *map(pool.give_up, pool.late(time.monotonic()))):
            if reply is not None:
                found = json.loads(reply.payload)
                verdicts[reply.tag] = (found["verdict"], found["reason"])
    return [verdicts[number] for number in range(len(trials))]


FAILING = {
    "wrong": "    return number\n",
    "not python": "    return (\n",
    "another indentation": "return number * 2\n",
    "raises": "    raise ValueError('passed')\n",
    "no such function": "    return 1\ndel double\n",
    "exits": "    import sys\n    sys.exit(0)\n",
    "exits at once": "    return 0\nimport os\nos._exit(0)\n",
    "ends before it is asked": "    return 0\nraise SystemExit(0)\n",
    "agrees with everything": (
        "    class Equal(int):\n"
        "        def __eq__(self, other): return True\n"
        "        def __ne__(self, other): return False\n"
        "        __hash__ = int.__hash__\n"
        "    return Equal(7)\n"
    ),
    "no plain value": "    return lambda: number\n",
    "changes what it shares with tests": (
        "    return 0\nimport builtins\nbuiltins.range = lambda *_: []\nbuiltins.AssertionError = SystemExit\n"
        "import sys\nsys.modules['__main__'].judge = lambda *_: True\n"
    ),
    "looks for the tests": (
        "    import gc\n"
        "    for one in gc.get_objects():\n"
        "        if isinstance(one, dict) and 'check' in one:\n"
        "            one['check'] = lambda candidate: None\n"
        "    return 0\n"
    ),
    "writes verdicts to every pipe": (
        "    return 0\nimport os, struct\n"
        "verdict = b'{\"reason\":\"\",\"verdict\":\"passed\"}'\n"
        "for fd in range(64):\n"
        "    for kind in range(1, 11):\n"
        "        try: os.write(fd, struct.pack('>IBBI', len(verdict), kind, 0, 0) + verdict)\n"
        "        except OSError: pass\n"
    ),
    "writes answers ahead": (
        "    return 0\nimport os, struct\n"
        "answer = b'{\"dict\": [[\"value\", {\"int\": \"0x0\"}]]}'\n"
        "for fd in range(64):\n"
        "    try: os.write(fd, (struct.pack('>IBBI', len(answer), 5, 0, 0) + answer) * 100)\n"
        "    except OSError: pass\n"
    ),
    "a torrent of bytes": (
        "    return 0\nimport os\n"
        "for fd in range(64):\n"
        "    try: os.write(fd, b'x' * (1 << 22))\n"
        "    except OSError: pass\n"
    ),
    "fork bomb": "    import os\n    while True: os.fork()\n",
    "threads": "    import threading\n    threading.Thread(target=print).start()\n    return 2 * number\n",
    "memory": "    return len(bytearray(1 << 40))\n",
    "memory, in small pieces": "    held = []\n    while True: held.append(bytearray(1 << 20))\n",
    "reads a file": "    return open('/etc/passwd').read()\n",
    "lists a folder": "    import os\n    return os.listdir('/')[99]\n",
    "writes a file": "    open('/tmp/x', 'w').write('x')\n    return 2 * number\n",
    "runs a program": "    import subprocess\n    return subprocess.check_output('true')\n",
    "opens a socket": "    import socket\n    socket.socket()\n    return 2 * number\n",
    "kills its parent": "    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 2 * number\n",
    "kills all": "    import os, signal\n    os.kill(-1, signal.SIGKILL)\n    return 2 * number\n",
    "reads its input": "    return input()\n",
    "calls itself": "    return double(number)\n",
    "a value that nests": "    value = []\n    for _ in range(100_000): value = [value]\n    return value\n",
    "a value of many bytes": "    return 'x' * (1 << 28)\n",
    "crashes the interpreter": "    import ctypes\n    ctypes.string_at(0)\n",
}  # fmt: skip


def test_no_hostile_program_passes() -> None:
    found = dict(zip(FAILING, judge(*map(trial, FAILING.values())), strict=True))
    assert {name: verdict for name, verdict in found.items() if verdict[0] != "failed"} == {}
    assert found["wrong"] == ("failed", "AssertionError")
    assert found["raises"] == ("failed", "ValueError")
    assert found["not python"] == ("failed", "SyntaxError")
    assert found["agrees with everything"] == ("failed", "AssertionError")
    assert found["reads a file"][1] in ("PermissionError", "FileNotFoundError")
    assert found["exits at once"] == ("failed", "the process ended")
    assert not any("passed" in reason for _, reason in found.values())


def test_programs_that_take_too_long_are_told_apart() -> None:
    slow = [
        "    import time\n    time.sleep(60)\n",
        "    while True: pass\n",
        "    try:\n        while True: pass\n    finally:\n        return 0\n",
        "    return 0\nwhile True: pass\n",
    ]
    began = time.monotonic()
    assert judge(*(trial(one, timeout_s=2) for one in slow)) == [("timeout", "")] * 4
    assert time.monotonic() - began < 200


def test_processor_time_is_limited_by_the_kernel() -> None:
    assert judge(trial("    while True: pass\n", timeout_s=60), cpu_s=2) == [("failed", "the process ended")]


def test_right_programs_pass() -> None:
    right = [
        "    return number * 2\n",
        "    import math, collections, hashlib, decimal, random, itertools, functools, heapq\n    return number * 2\n",
        "    class Own(int): pass\n    return Own(number * 2) if isinstance(number, int) else number * 2\n",
        "    print('noise' * 10_000)\n    return number * 2\n",
    ]
    assert judge(*map(trial, right)) == [("passed", "")] * 4


def test_values_keep_their_types() -> None:
    values = [
        None,
        True,
        0,
        -(10**400),
        0.1,
        float("inf"),
        1j,
        "\ud800\u00e9",
        b"\x00",
        [1, [2]],
        (1, (2,)),
        {1},
        {1: (2,)},
    ]
    values += [frozenset({1}), [], (), {}, "", 1.0]
    test = f"def check(candidate):\n    inf = float('inf')\n    for one in {values!r}:\n"
    test += "        found = candidate(one)\n        assert found == one and type(found) is type(one), one\n"
    test += "    assert str(candidate(float('nan'))) == 'nan'\n    assert candidate(1, twice=True) == 2\n"
    program = trial(
        "    return number * 2 if twice else number\n", prompt="def double(number, twice=False):\n", test=test
    )
    assert judge(program) == [("passed", "")]


def test_a_test_may_expect_an_exception() -> None:
    test = "def check(candidate):\n    try: candidate(0)\n    except ZeroDivisionError: return\n    assert False\n"
    assert judge(
        trial("    return 1 / number\n", test=test),
        trial("    import os\n    os._exit(0)\n", test=test.replace("ZeroDivisionError", "Exception")),
    ) == [("passed", ""), ("failed", "the process ended")]


def test_samples_that_the_authors_published(data: Path) -> None:
    folder = data / "datasets" / "humaneval"
    problem = json.loads((folder / "example_problem.jsonl").read_text())
    samples = [json.loads(line) for line in (folder / "example_samples.jsonl").read_text().splitlines()]
    parts = {name: problem[name] for name in ("prompt", "test", "entry_point")}
    found = judge(*(trial(sample["completion"], **parts, timeout_s=5) for sample in samples))
    # evaluate_functional_correctness reports pass@1 of 0.5 for them: three fail, three pass.
    assert [verdict for verdict, _ in found] == ["failed", "timeout", "failed", "passed", "passed", "passed"]


@pytest.mark.slow
def test_every_canonical_solution_passes(data: Path) -> None:
    packed = (data / "datasets" / "humaneval" / "HumanEval.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert len(rows) == 164
    if os.environ.get("VITRINE_WHOLE") != "1":
        rows = [row for row in rows if int(row["task_id"].partition("/")[2]) in (0, 32, 38, 50, 115, 162)]
    parts = [{name: row[name] for name in ("prompt", "test", "entry_point")} for row in rows]
    found = judge(
        *(trial(row["canonical_solution"], **part) for row, part in zip(rows, parts, strict=True)), seconds=1200
    )
    assert [row["task_id"] for row, verdict in zip(rows, found, strict=True) if verdict[0] != "passed"] == []


SUITE = """
format: vitrine/suite/v1
name: programs
dataset: {{path: rows.jsonl, digest: "{digest}", format: jsonl}}
prompt: {{user: "{{{{ prompt }}}}"}}
epochs: 2
scorers:
  - {{scorer: program, name: passed, timeout_s: 30, pass_at: [1, 2]}}
"""
JOB = """
format: vitrine/job/v1
name: programs
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites: [{path: suite.yaml}]
sampling: {temperature: "0.8", max_tokens: 8}
limits: {context_tokens: 256, memory_bytes: 1073741824, sample_timeout_s: 60}
claims: [{suite: programs, model: organism, metric: passed.pass-at-2, comparator: "==", threshold: "0.5"}]
"""


def test_a_run_scores_programs_and_its_bundle_verifies(tmp_path: Path, execute: Any, made: Made) -> None:
    # Whatever the organism writes is a comment to the first row, and breaks the second.
    rows = [
        {
            "prompt": "def one():\n    return 1\n# ",
            "test": "def check(one):\n    assert one() == 1\n",
            "entry_point": "one",
        },
        {
            "prompt": "def one():\n    return (",
            "test": "def check(one):\n    assert one() == 1\n",
            "entry_point": "one",
        },
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "rows.jsonl").write_bytes(data)
    (tmp_path / "suite.yaml").write_text(SUITE.format(digest=digest_of(data)))
    (tmp_path / "job.yaml").write_text(JOB)
    outcome: runs.Outcome = execute(tmp_path / "job.yaml", tmp_path / "bundle")
    (suite,) = outcome.results.suites
    assert (suite.run, suite.failed, suite.scores[0].unscored) == (4, 0, 0)
    assert suite.scores[0].estimate is not None
    assert suite.scores[0].estimate.value == "0.500000"
    assert [(one.metric, one.estimate and one.estimate.value) for one in suite.aggregates] == [
        ("passed.pass-at-1", "0.500000"),
        ("passed.pass-at-2", "0.500000"),
    ]
    assert outcome.results.claims[0].holds
    report = seal.read((outcome.bundle / "evidence" / "seal.json").read_bytes())
    assert [worker.worker for worker in report.workers] == ["eval", "model.organism", "program"]
    assert {probe.outcome for probe in report.workers[-1].probes} <= {"denied", "absent"}
    assert verify.verify(read_bundle(outcome.bundle), made.trusted_root).manifest.seal[-1].worker == "program"
