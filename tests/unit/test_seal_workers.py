"""What workers say of themselves: a worker goes on only after a seal as published, and breaks no form unpunished."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from appliance import workers
from appliance.frames import Frame, Kind
from appliance.redact import Discretion
from appliance.relay import Station, WorkerFailure
from appliance.seal import attempts, plan_for
from appliance.seal.attempts import ATTEMPTS
from appliance.seal.reserve import Reserve
from attest import canonical, seal
from attest.errors import EnvironmentProblem, Exit, MalformedInput, VerificationError
from attest.sealplan import SealPlan, layer_names

ZERO = "sha256:" + "0" * 64
Change = Callable[[dict[str, Any]], object]


def plan() -> SealPlan:
    return plan_for("eval", memory_bytes=1 << 30, threads=1)


def hello() -> dict[str, Any]:
    """What the eval worker says once it is sealed in full."""
    layers = [{"name": name, "state": "enforced", "detail": "x"} for name in layer_names(plan())]
    probes = [{"name": name, "attempted": "x", "outcome": "denied", "errno": "EPERM"} for name in seal.PROBES]
    return {"policy": plan().policy_digest(), "layers": layers, "probes": probes}


def test_the_published_probes_are_those_that_are_made() -> None:
    assert tuple(one.name for one in ATTEMPTS) == seal.PROBES
    assert {one.name for one in ATTEMPTS if one.make is attempts._memory_file} == seal.MAY_BE_ABSENT


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.clear(),
        lambda value: value.pop("kind"),
        lambda value: value.pop("identity"),
        lambda value: value.update(format="vitrine/seal-plan/v2"),
        lambda value: value["limits"].update(tasks=258.0),
        lambda value: value["limits"].update(file_bytes=0.0),
        lambda value: value["limits"].update(file_bytes=False),
        lambda value: value["limits"].update(cpu_s=None),
        lambda value: value["limits"].update(cpu_s=0.5),
        lambda value: value["privileges"].update(no_new_privileges=1),
        lambda value: value["seccomp"].update(policy="other"),
    ],
)
def test_a_plan_in_another_spelling_is_malformed(change: Change) -> None:
    value = plan().model_dump(mode="json", exclude_none=True)
    change(value)
    text = {"format": "vitrine/seal-report/v1", "workers": [hello() | {"worker": "eval", "plan": value}]}
    with pytest.raises(MalformedInput):
        seal.read(json.dumps(text, sort_keys=True, separators=(",", ":")).encode())


def booted(policy: str) -> Any:
    """A boot that measured the policy of the plans, or another one."""
    return SimpleNamespace(file=lambda _kind, _name: [SimpleNamespace(digest=policy)], let_go=lambda _model: None)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[Kind, Any]:
    """What the one worker that can be started sends. `REQUEST` is there once it was started, `CONFIG` once it was told
    to read its files.
    """
    frames: dict[Kind, Any] = {Kind.HELLO: hello(), Kind.READY: []}

    class Fake:
        """A station without a process."""

        def __init__(self, name: str, _worker: object, *, discretion: Discretion) -> None:
            self.name, self.discretion = name, discretion

        def expect(self, kind: Kind, _timeout_s: float) -> bytes:
            return json.dumps(frames[kind]).encode()

        def send(self, kind: Kind, payload: bytes) -> None:
            frames[kind] = payload

    started = SimpleNamespace(kill=lambda: None)
    monkeypatch.setattr(workers, "Station", Fake)
    monkeypatch.setattr(workers, "Reserve", lambda: Taken(frames, started))
    monkeypatch.setattr(workers, "_eval_config", lambda *_args: (plan(), {}, {}))
    return frames


class Taken(Reserve):
    """A reserve that starts nothing, and notes that a worker was taken."""

    def __init__(self, frames: dict[Kind, Any], started: Any) -> None:
        super().__init__()
        self.frames, self.started = frames, started

    def add(self, *_args: object) -> None:
        """Nothing."""

    def take(self, *_args: object) -> Any:
        """The worker that does not exist."""
        return self.frames.setdefault(Kind.REQUEST, self.started)


def start(policy: str = "", **fields: Any) -> workers.Crew:
    with ExitStack() as stack:
        measured = booted(policy or plan().seccomp.policy_digest)
        entry = SimpleNamespace(attacker=None, judge=None)
        suite: Any = SimpleNamespace(suite=SimpleNamespace(name="s", scorers=(), files=()))
        numerics = SimpleNamespace(contract="exact")
        job: Any = SimpleNamespace(models=(), suites=(entry,), schedule=None, numerics=numerics)
        return stack.enter_context(workers.start(job, (suite,), measured, progress=lambda *_args: None, **fields))


def test_a_worker_that_reports_its_seal_is_told_to_go_on(says: dict[Kind, Any]) -> None:
    says[Kind.READY] = [{"model": "m", "suite": "s", "samples": 3, "scorers": ["exact"]}]
    crew = start()
    assert says[Kind.CONFIG] == b"{}"
    assert (crew.plan[0].samples, crew.seals[0].plan) == (3, plan())
    assert canonical.dump_model(crew.seals[0].plan) == canonical.dump_model(plan())


def test_a_policy_that_changed_since_the_boot_starts_no_worker(says: dict[Kind, Any]) -> None:
    with pytest.raises(VerificationError, match="seal/seccomp-policy"):
        start(ZERO)
    assert Kind.REQUEST not in says


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda said: said.update(policy=ZERO), "policy"),
        (lambda said: said["layers"].pop(), "layers"),
        (lambda said: said["probes"].pop(), "probes"),
        (lambda said: said["probes"][0].update(outcome="allowed"), "probe"),
    ],
)
def test_a_worker_that_reports_another_seal_gets_no_word(says: dict[Kind, Any], change: Change, code: str) -> None:
    change(says[Kind.HELLO])
    with pytest.raises(VerificationError, match=f"seal/{code}"):
        start()
    assert Kind.REQUEST in says
    assert Kind.CONFIG not in says


def test_a_seal_in_part_is_refused_where_a_full_one_is_required(says: dict[Kind, Any]) -> None:
    says[Kind.READY] = [{"model": "m", "suite": "s", "samples": 3, "scorers": ["exact"]}]
    start(require_seal="full")
    says.pop(Kind.CONFIG)
    for layer in says[Kind.HELLO]["layers"]:
        if layer["name"] in ("namespace-pid", "landlock-scopes"):
            layer.update(state="unavailable", detail="not on this host")
    with pytest.raises(EnvironmentProblem, match=r"namespace-pid \(not on this host\); landlock-scopes.*Linux 6\.12"):
        start(require_seal="full")
    assert Kind.CONFIG not in says
    start(require_seal="any")
    assert Kind.CONFIG in says


@pytest.mark.parametrize(
    "said", [{}, [], hello() | {"policy": "x"}, hello() | {"layers": []}, hello() | {"probes": [1]}]
)
def test_a_greeting_of_another_form_is_malformed(says: dict[Kind, Any], said: object) -> None:
    says[Kind.HELLO] = said
    with pytest.raises(MalformedInput):
        start()


@pytest.mark.parametrize(
    "said",
    [
        {},
        [1],
        [{"model": "m"}],
        [{"model": "m", "suite": "s", "samples": 1.5, "scorers": ["exact"]}],
        [{"model": "m", "suite": "s", "samples": -1, "scorers": ["exact"]}],
        [{"model": "m", "suite": "s", "samples": 1, "scorers": []}],
    ],
)
def test_a_run_plan_of_another_form_is_malformed(says: dict[Kind, Any], said: object) -> None:
    says[Kind.READY] = said
    with pytest.raises(MalformedInput):
        start()


def reported(code: object) -> WorkerFailure:
    """What becomes of a failure report with this exit code."""
    ended: Any = SimpleNamespace(replies=0, process=SimpleNamespace(wait=lambda _timeout_s: 0))
    payload = json.dumps({"code": "X", "message": "no", "exit": code}).encode()
    return Station("eval", ended).reported(Frame(Kind.FAILURE, 0, payload))


@pytest.mark.parametrize("code", [1, 10, 20, 30])
def test_a_worker_chooses_among_the_exit_codes_of_failures(code: int) -> None:
    assert (reported(code).exit_code, str(reported(code))) == (code, "worker eval: no")


@pytest.mark.parametrize("code", [0, 2, -1, 137, 1 << 40, "10", None])
def test_a_worker_that_reports_another_exit_code_is_at_fault(code: object) -> None:
    assert reported(code).exit_code == Exit.FAULT
    assert "failure report" in str(reported(code))
