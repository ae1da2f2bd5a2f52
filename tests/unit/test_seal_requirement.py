"""What a required seal asks for, and what a kernel of each age offers of Landlock."""

from __future__ import annotations

import pytest

from appliance.seal import given_by, landlock, plan_for, require
from appliance.seal.outcome import enforced, unavailable
from attest.errors import EnvironmentProblem
from attest.seal import MANDATORY
from attest.sealplan import layer_names

PLAN = plan_for("eval", memory_bytes=1 << 28, threads=1)
LATER = {"landlock-refer": 2, "landlock-truncate": 3, "landlock-tcp": 4, "landlock-ioctl-dev": 5, "landlock-scopes": 6}


@pytest.mark.parametrize("name", [name for name in layer_names(PLAN) if name not in MANDATORY])
def test_a_missing_layer_is_named_with_what_gives_it(name: str) -> None:
    layers = [enforced("seccomp", "in force"), unavailable(name, "why not")]
    require("any", "eval", layers)
    with pytest.raises(EnvironmentProblem) as caught:
        require("full", "eval", layers)
    assert caught.value.exit_code == 1
    for word in ("worker eval", f"{name} (why not)", given_by(name), "--require-seal any"):
        assert word
        assert word in str(caught.value)


def test_a_full_seal_meets_every_requirement() -> None:
    layers = [enforced(name, "in force") for name in layer_names(PLAN)]
    require("full", "eval", layers)
    require("any", "eval", layers)


def test_the_same_advice_is_given_once() -> None:
    layers = [unavailable("namespace-net", "x"), unavailable("namespace-uts", "x"), unavailable("root", "x")]
    with pytest.raises(EnvironmentProblem) as caught:
        require("full", "model.m", layers)
    assert str(caught.value).count("user.max_user_namespaces") == 1


@pytest.mark.parametrize("version", range(1, 8))
def test_each_right_of_landlock_is_reported_for_itself(version: int) -> None:
    found = {layer.name: layer for layer in landlock.layers(PLAN.landlock, version)}
    assert tuple(found) == tuple(name for name in layer_names(PLAN) if name.startswith("landlock"))
    assert found.pop("landlock").state == "enforced"
    assert {name for name, layer in found.items() if layer.state == "enforced"} == {
        name for name, since in LATER.items() if since <= version
    }
    for name, since in LATER.items():
        if since > version:
            assert f"needs ABI {since}, found {version}" in found[name].detail
