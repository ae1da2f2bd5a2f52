"""The seal report: how it is read, what a manifest says of it, and every way in which a seal can fall short."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from appliance.seal import plan_for
from attest import canonical, seal
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from attest.sealplan import SealPlan, layer_names

Value = dict[str, Any]
Change = Callable[[Value], object]


def layer(name: str, state: str = "enforced") -> Value:
    return {"name": name, "state": state, "detail": "in force"}


def probe(name: str, outcome: str = "denied") -> Value:
    return {"name": name, "attempted": f"to {name}", "outcome": outcome, "errno": "EPERM"}


def worker(name: str = "eval", change: Change = lambda value: None) -> Value:
    """A whole seal as a worker reports it. `change` may alter it; a changed plan still has its true digests."""
    made = plan_for("eval" if name == "eval" else "model", memory_bytes=1 << 30, threads=1)
    value = {
        "worker": name,
        "plan": made.model_dump(mode="json", exclude_none=True),
        "policy": "",
        "layers": [layer(each) for each in layer_names(made)],
        "probes": [probe(each) for each in seal.PROBES],
    }
    change(value)
    if not value["policy"]:
        value["policy"] = canonical.validate(SealPlan, value["plan"], "plan").policy_digest()
    return value


def data(*workers: Value, **more: Any) -> bytes:
    return canonical.dumps({"format": "vitrine/seal-report/v1", "workers": list(workers), **more})


def report(change: Change) -> seal.SealReport:
    """A report whose second worker was changed."""
    return seal.read(data(worker(), worker("model.m", change)))


def set_state(name: str, state: str) -> Change:
    return lambda value: next(one for one in value["layers"] if one["name"] == name).update(state=state)


def set_outcome(name: str, outcome: str) -> Change:
    return lambda value: next(one for one in value["probes"] if one["name"] == name).update(outcome=outcome)


def test_a_whole_report() -> None:
    whole = report(lambda value: None)
    seal.check(whole)
    first, second = (one.section() for one in whole.workers)
    assert (first.worker, first.level, first.probes, first.violations) == ("eval", "full", len(seal.PROBES), 0)
    assert (second.worker, second.level) == ("model.m", "full")
    assert first.plan == digest_of(canonical.dumps(worker()["plan"])) != second.plan
    assert first.policy == worker()["policy"] != second.policy
    assert seal.read(canonical.dump_model(whole)) == whole


def test_layers_and_probes_are_known_by_name() -> None:
    assert len(set(seal.PROBES)) == len(seal.PROBES) >= 30
    assert set(layer_names(plan_for("eval", memory_bytes=1 << 30, threads=1))) >= seal.MANDATORY
    assert set(seal.PROBES) >= seal.MAY_BE_ABSENT


@pytest.mark.parametrize("name", layer_names(plan_for("model", memory_bytes=1 << 30, threads=1)))
def test_every_layer_is_in_force_or_the_seal_is_partial_or_refused(name: str) -> None:
    for state in ("unavailable", "failed"):
        assert report(set_state(name, state)).workers[1].section().level == "partial"
    with pytest.raises(VerificationError) as caught:
        seal.check(report(set_state(name, "failed")))
    assert (caught.value.layer, caught.value.code, caught.value.found) == ("seal", "layer", f"['{name}']")
    if name in seal.MANDATORY:
        with pytest.raises(VerificationError) as caught:
            seal.check(report(set_state(name, "unavailable")))
        assert (caught.value.code, caught.value.found) == ("mandatory", f"['{name}']")
    else:
        seal.check(report(set_state(name, "unavailable")))


@pytest.mark.parametrize("name", seal.PROBES)
def test_every_probe_has_to_be_denied(name: str) -> None:
    allowed = report(set_outcome(name, "allowed"))
    assert allowed.workers[1].violations == [name]
    assert (allowed.workers[0].section().violations, allowed.workers[1].section().violations) == (0, 1)
    with pytest.raises(VerificationError) as caught:
        seal.check(allowed)
    assert (caught.value.layer, caught.value.code, caught.value.found) == ("seal", "probe", f"['{name}']")
    assert "model.m" in caught.value.expected
    if name in seal.MAY_BE_ABSENT:
        seal.check(report(set_outcome(name, "absent")))
    else:
        with pytest.raises(VerificationError) as caught:
            seal.check(report(set_outcome(name, "absent")))
        assert caught.value.code == "absent"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda value: value["layers"].pop(), "layers"),
        (lambda value: value["layers"].pop(0), "layers"),
        (lambda value: value["layers"].reverse(), "layers"),
        (lambda value: value["layers"].append(layer("landlock")), "layers"),
        (lambda value: value["layers"].append(layer("more")), "layers"),
        (lambda value: value["probes"].pop(), "probes"),
        (lambda value: value["probes"].reverse(), "probes"),
        (lambda value: value["probes"].append(probe("ptrace")), "probes"),
        (lambda value: value["probes"].__setitem__(0, probe("inet-socket-2")), "probes"),
        (lambda value: value.update(policy=digest_of(b"another")), "policy"),
        (lambda value: value.update(worker="eval"), "kind"),
        (lambda value: value.update(worker="notary"), "kind"),
        (lambda value: value["plan"].update(kind="eval"), "kind"),
        (lambda value: value["plan"]["seccomp"].update(policy="eval"), "seccomp"),
        (lambda value: value["plan"]["namespaces"].remove("net"), "namespaces"),
        (lambda value: value["plan"].update(namespaces=[]), "namespaces"),
        (lambda value: value["plan"]["namespaces"].reverse(), "namespaces"),
        (lambda value: value["plan"]["landlock"]["handled"].remove("write-file"), "landlock"),
        (lambda value: value["plan"]["landlock"].update(handled=[]), "landlock"),
        (lambda value: value["plan"]["landlock"]["scopes"].remove("signal"), "landlock"),
    ],
)
def test_a_seal_that_leaves_something_out_is_refused(change: Change, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        seal.check(report(change))
    assert (caught.value.layer, caught.value.code) == ("seal", code)


def test_a_plan_has_to_have_its_true_digest() -> None:
    honest = worker("model.m")

    def widen(value: Value) -> None:
        value["plan"]["limits"]["memory_bytes"] += 1
        value["policy"] = honest["policy"]

    with pytest.raises(VerificationError) as caught:
        seal.check(report(widen))
    assert caught.value.code == "policy"


def test_the_policy_digest_does_not_depend_on_where_the_host_keeps_its_files() -> None:
    def move(value: Value) -> None:
        for entry in value["plan"]["landlock"]["read_only"]:
            entry["path"] = "/elsewhere" + entry["path"]

    moved, here = report(move).workers[1], report(lambda value: None).workers[1]
    assert moved.section().policy == here.section().policy
    assert moved.section().plan != here.section().plan


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(surplus=1),
        lambda value: value.update(worker="No Name"),
        lambda value: value.update(layers=[]),
        lambda value: value.update(probes=[]),
        lambda value: value.update(layers=[layer("landlock")] * 101),
        lambda value: value.update(probes=[probe("ptrace")] * 201),
        lambda value: value.update(policy="none"),
        lambda value: value["layers"][0].update(name="Descriptors"),
        lambda value: value["layers"][0].update(name="descriptors\n"),
        lambda value: value["layers"][0].update(state="maybe"),
        lambda value: value["layers"][0].update(detail="x" * 1001),
        lambda value: value["probes"][0].update(outcome="ignored"),
        lambda value: value["probes"][0].update(expected="denied"),
        lambda value: value["probes"][0].update(errno="x" * 41),
        lambda value: value.update(plan=[]),
        lambda value: value.update(plan=None),
        lambda value: value.update(plan={}),
        lambda value: value["plan"].update(surplus=1),
        lambda value: value["plan"].update(kind="notary"),
        lambda value: value["plan"]["identity"].update(uid=0),
        lambda value: value["plan"]["identity"].update(gid=0),
        lambda value: value["plan"]["limits"].update(file_bytes=1),
        lambda value: value["plan"]["limits"].update(core_bytes=1),
        lambda value: value["plan"]["limits"].update(open_files=0),
        lambda value: value["plan"]["privileges"].update(no_new_privileges=False),
        lambda value: value["plan"]["privileges"].update(capabilities="all"),
        lambda value: value["plan"]["privileges"].update(dumpable=True),
        lambda value: value["plan"]["landlock"].update(tcp="allowed"),
        lambda value: value["plan"]["landlock"].update(read_only=[{"role": "x", "path": "relative"}]),
        lambda value: value["plan"]["landlock"]["handled"].append("fly"),
        lambda value: value["plan"]["namespaces"].append("time"),
    ],
)
def test_what_is_not_a_report_is_malformed(change: Change) -> None:
    value = worker("model.m")
    change(value)
    with pytest.raises(MalformedInput, match="seal report"):
        seal.read(data(value))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        data(),
        data(*[worker()] * 65),
        data(worker(), surplus=1),
        data(worker()) + b"\n",
        b" " + data(worker()),
        json.dumps(json.loads(data(worker()))).encode(),
        data(worker()).replace(b'"outcome":"denied"', b'"outcome":"allowed","outcome":"denied"', 1),
        data(worker()).replace(b'"format":"vitrine/seal-report/v1",', b""),
        data(worker()).replace(b'"memory_bytes":1073741824', b'"memory_bytes":1073741824.0'),
        data(worker()).replace(b'"memory_bytes":1073741824', b'"memory_bytes":1e300'),
    ],
)
def test_what_is_not_the_canonical_form_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedInput, match="seal report"):
        seal.read(text)


@pytest.mark.parametrize("value", [1.5, [{"a": 0.0}], {"b": {"c": -1.0}}, 1e300])
def test_a_plan_that_has_no_canonical_form_is_refused_by_our_errors(value: Any) -> None:
    text = json.dumps({"format": "vitrine/seal-report/v1", "workers": [worker() | {"plan": {"x": value}}]})
    with pytest.raises(VitrineError):
        seal.read(text.encode()).workers[0].section()


def test_another_version_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        seal.read(data(worker(), format="vitrine/seal-report/v2"))
