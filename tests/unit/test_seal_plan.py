"""Plans: deterministic, hashed over every field, and equal on machines that differ only in paths."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from appliance.seal import ReadOnlyPath, SealPlan, interpreter_paths, plan_for, seal_level
from appliance.seal.landlock import BITS
from appliance.seal.outcome import SealOutcome, enforced, refused, unavailable
from appliance.seal.root import outermost
from attest import canonical
from attest.digest import digest_of

MIB = 1 << 20


def plan() -> SealPlan:
    return plan_for("model", memory_bytes=64 * MIB, threads=4)


def test_a_plan_is_the_same_twice():
    assert plan() == plan()
    assert plan().digest() == plan().digest()
    assert plan().digest() == digest_of(canonical.dump_model(plan()))


def test_a_plan_survives_the_way_to_the_worker():
    assert canonical.parse(SealPlan, canonical.dump_model(plan()), "seal plan") == plan()


def leaves(value, path=()):
    """Every place of a JSON value, the lists themselves included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        yield path
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def change(value, path):
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    old = at[path[-1]]
    if isinstance(old, bool):
        at[path[-1]] = not old
    elif isinstance(old, int):
        at[path[-1]] = old + 1
    elif isinstance(old, str):
        at[path[-1]] = old[:-1] + ("0" if old[-1:] != "0" else "1")
    else:
        at[path[-1]] = old[:-1]
    return copy


def test_every_field_changes_the_digest():
    value = plan().model_dump(mode="json", exclude_none=True)
    places = list(leaves(value))
    assert len(places) > 50
    digests = {plan().digest()}
    for place in places:
        changed = change(value, place)
        try:
            other = canonical.validate(SealPlan, changed, "plan")
        except canonical.MalformedInput:
            digests.add(repr(place))  # a constant of this version: it cannot be changed at all
            continue
        digests.add(other.digest())
    assert len(digests) == len(places) + 1


def test_a_cpu_limit_changes_the_digest():
    assert plan_for("model", memory_bytes=64 * MIB, threads=4, cpu_s=1).digest() != plan().digest()


def moved(original: SealPlan) -> SealPlan:
    entries = tuple(
        entry.model_copy(update={"path": "/elsewhere" + entry.path}) for entry in original.landlock.read_only
    )
    return original.model_copy(update={"landlock": original.landlock.model_copy(update={"read_only": entries})})


def test_the_policy_digest_leaves_out_paths_and_nothing_else():
    assert moved(plan()).digest() != plan().digest()
    assert moved(plan()).policy_digest() == plan().policy_digest()
    more = plan_for("model", memory_bytes=64 * MIB, threads=4, read_only=[ReadOnlyPath(role="data", path="/data")])
    assert more.policy_digest() != plan().policy_digest()
    assert plan_for("model", memory_bytes=64 * MIB, threads=5).policy_digest() != plan().policy_digest()
    assert plan_for("eval", memory_bytes=64 * MIB, threads=4).policy_digest() != plan().policy_digest()


def test_the_description_shows_the_whole_plan():
    text = plan().describe()
    for word in ("model", "65532", "net", str(64 * MIB), "python-stdlib", "python-site", "vitrine", "truncate", "tcp"):
        assert word in text
    assert plan().digest() in text
    assert plan().policy_digest() in text
    assert plan().seccomp.policy_digest in text


@pytest.mark.parametrize("numbers", [{"memory_bytes": 0}, {"threads": -1000}, {"cpu_s": 0}])
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValidationError):
        plan_for("eval", **{"memory_bytes": MIB, "threads": 1, **numbers})


def test_an_unknown_kind_is_a_mistake_of_the_caller():
    with pytest.raises(KeyError):
        plan_for("other", memory_bytes=MIB, threads=1)  # type: ignore[arg-type]


def test_relative_paths_are_refused():
    with pytest.raises(ValidationError):
        ReadOnlyPath(role="data", path="data")
    with pytest.raises(ValidationError):
        ReadOnlyPath(role="everything", path="/")


def test_the_interpreter_paths_have_every_role():
    assert {entry.role for entry in interpreter_paths()} == {"python-stdlib", "python-site", "vitrine"}


def test_landlock_bits_are_those_of_the_header():
    assert (BITS["execute"], BITS["read-file"], BITS["read-dir"]) == (1, 4, 8)
    assert (BITS["make-sym"], BITS["refer"], BITS["truncate"], BITS["ioctl-dev"]) == (
        1 << 12,
        1 << 13,
        1 << 14,
        1 << 15,
    )


def test_paths_below_others_are_shown_once():
    assert outermost(("/a/b/c", "/a/b", "/ab", "/a/b", "/a/bc")) == ("/ab", "/a/b", "/a/bc")


def outcome(*layers) -> SealOutcome:
    digest = plan().digest()
    return SealOutcome(kind="model", plan_digest=digest, policy_digest=digest, layers=layers)


def test_the_level_is_full_when_every_layer_is_in_force():
    assert seal_level(outcome(enforced("a", "x"), enforced("b", "y"))) == "full"
    assert seal_level(outcome(enforced("a", "x"), unavailable("b", "y"))) == "partial"


def test_a_refused_step_is_unavailable_or_failed():
    assert refused("a", "step", OSError(1, "x")).state == "unavailable"
    assert refused("a", "step", OSError(5, "x")).model_dump() == {"name": "a", "state": "failed", "detail": "step: EIO"}
