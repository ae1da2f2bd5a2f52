"""A lab that signs a false seal report is caught, although everything else in the bundle fits to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance import run, workers
from appliance.seal import plan_for
from attest import canonical, seal, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError, VitrineError
from attest.manifest import ExecutionManifest
from attest.policy import Policy
from attest.sealplan import SealPlan
from tests.conftest import Made
from tests.tools.resign import resign

ZERO = "sha256:" + "0" * 64


def claimed(made: Made, change: Callable[[list[dict[str, Any]]], object]) -> dict[str, bytes]:
    """The bundle with changed workers in its seal report, and a manifest that fits to them; validly signed anew."""

    def told(signed: Any, files: dict[str, bytes]) -> None:
        predicate, value = signed["predicate"], canonical.loads(files[verify.SEAL])
        change(value["workers"])
        for one in value["workers"]:
            if "kind" in one["plan"]:
                one["policy"] = canonical.validate(SealPlan, one["plan"], "plan").policy_digest()
        files[verify.SEAL] = canonical.dumps(value)
        for one, section in zip(value["workers"], predicate["seal"], strict=True):
            states = {layer["state"] for layer in one["layers"]}
            digest = digest_of(canonical.dumps(one["plan"]))
            section.update(plan=digest, policy=one["policy"], probes=len(one["probes"]))
            section.update(level="full" if states == {"enforced"} else "partial")
            section["violations"] = sum(probe["outcome"] == "allowed" for probe in one["probes"])
        canonical.validate(ExecutionManifest, predicate, "manifest")

    return resign(made, told)


def test_signed_anew_without_a_change_the_bundle_verifies(made: Made) -> None:
    verified = verify.verify(claimed(made, lambda _workers: None), made.trusted_root)
    workers_sealed = seal.read(read_bundle(made.bundle)[verify.SEAL]).workers
    assert tuple(one.section() for one in workers_sealed) == verified.manifest.seal


def invented(found: list[dict[str, Any]]) -> None:
    """Nothing planned, one layer and one probe made up for each worker."""
    for one in found:
        one["plan"] = {}
        one["layers"] = [{"name": "invented", "state": "enforced", "detail": "x"}]
        one["probes"] = [{"name": "invented", "attempted": "x", "outcome": "denied", "errno": ""}]


def exchanged(found: list[dict[str, Any]]) -> None:
    """The eval worker's plan, and its policy, for the model."""
    found[1]["plan"] = found[0]["plan"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (invented, None),
        (lambda found: found[0]["probes"].pop(), "probes"),
        (lambda found: found[1]["layers"].pop(), "layers"),
        (lambda found: found[1]["plan"]["seccomp"].update(policy_digest=ZERO), "seccomp-policy"),
        (
            lambda found: found[1]["plan"]["seccomp"].update(
                policy_digest=found[0]["plan"]["seccomp"]["policy_digest"]
            ),
            "seccomp-policy",
        ),
        (exchanged, "kind"),
        (lambda found: found[1]["plan"]["environment"].append({"name": "GGML_X", "value": "1"}), "engine-environment"),
        (lambda found: found[1]["plan"]["environment"].pop(), "engine-environment"),
        (lambda found: found[0]["plan"].update(namespaces=[]), "namespaces"),
        (lambda found: found[0]["layers"][0].update(state="unavailable"), "mandatory"),
        (lambda found: found[0]["probes"][0].update(outcome="absent"), "absent"),
        (lambda found: found[0]["probes"][0].update(outcome="allowed"), "probe"),
    ],
)
@pytest.mark.parametrize("policy", [Policy(), Policy(full_seal=True)])
def test_lab_that_signs_a_false_seal_report_is_caught(
    made: Made, change: Callable[[list[dict[str, Any]]], object], code: str | None, policy: Policy
) -> None:
    with pytest.raises(VitrineError) as caught:
        verify.verify(claimed(made, change), made.trusted_root, policy=policy)
    if code is None:
        assert isinstance(caught.value, MalformedInput)
    else:
        assert isinstance(caught.value, VerificationError)
        assert (caught.value.layer, caught.value.code) == ("seal", code)


def test_run_with_another_system_call_policy_than_was_measured_is_refused(
    made: Made, tmp_path: Any, execute: Callable[..., run.Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(kind: Any, **fields: Any) -> SealPlan:
        plan = plan_for(kind, **fields)
        return plan.model_copy(update={"seccomp": plan.seccomp.model_copy(update={"policy_digest": ZERO})})

    monkeypatch.setattr(workers, "plan_for", other)
    with pytest.raises(VerificationError, match="seal/seccomp-policy"):
        execute(made.job, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
