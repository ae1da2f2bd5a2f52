"""The default policies: strict, commented to the last line, and fit for use once they are filled in."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from attest import canonical, policies, policy
from attest.cli import app
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.manifest import ExecutionManifest
from tests.tools.manifests import CLAIM, MANIFEST, self_test

SCHEMA = Path(__file__).resolve().parents[2] / "policy" / "schemas" / "appraisal-policy.schema.json"
ROOTS = {
    "sev-snp": [f"snp/amd-roots-virtee/{product}/ark.pem" for product in ("milan", "genoa", "turin")],
    "tdx": ["tdx/dcap-qvl/TrustedRootCA.der"],
    "nitro": ["nitro/dstack-nsm/AWS_NitroEnclaves_Root-G1.pem"],
    "nvidia-gpu": ["nvidia/nvtrust/verifier_device_root.pem"],
    "nvidia-gpu-rim": ["nvidia/nvtrust/verifier_RIM_root.pem"],
    "tpm": [],
}


def text(name: policies.Name) -> str:
    return policies.path(name).read_text("utf-8")


def filled(name: policies.Name) -> str:
    """The policy with the examples in it, and a measurement in the one that may not be without."""
    whole = re.sub(r"^#\| ", "", text(name), flags=re.MULTILINE)
    return whole.replace("measurements = []", f"measurements = ['{'00' * 48}']")


@pytest.mark.parametrize("name", policies.NAMES)
def test_every_line_says_why_and_is_known(name: policies.Name) -> None:
    for line in filled(name).splitlines():
        assert not line or re.fullmatch(r"#.*|\[[a-z.-]+\]|.*\S +# \S.*", line), line
    for version in (text(name), filled(name)):
        found = policy.read(version.encode())
        # What is written and what is read are the same: nothing is dropped, whatever it is called.
        jsonschema.validate(tomllib.loads(version), json.loads(SCHEMA.read_bytes()))
        assert found.format == policy.FORMAT


TURNED_ON = re.compile(r"^#     ((?:required_witnesses|minimum_\w+|rollback_refused) = .*)$", re.MULTILINE)
"""What a policy's comment offers for later."""


@pytest.mark.parametrize("name", policies.NAMES)
def test_what_a_first_run_cannot_have_is_offered_and_not_asked(name: policies.Name) -> None:
    written = policy.read(text(name).encode())
    assert (written.required_witnesses, written.minimum_lock_version, written.minimum_image_version) == (0, None, None)
    assert written.rollback_refused is (name == "auditor")
    later = policy.read("\n".join([*TURNED_ON.findall(text(name)), text(name)]).encode())
    assert (later.required_witnesses, later.minimum_lock_version, later.minimum_image_version) == (1, 4, 1795305600)
    assert later.rollback_refused


def opt_outs(value: Any) -> Iterator[tuple[str, bool]]:
    """Every `unsafe_*` of a model and its parts."""
    for name in type(value).model_fields:
        part = getattr(value, name)
        if name.startswith("unsafe_"):
            yield name, part
        elif hasattr(type(part), "model_fields"):
            yield from opt_outs(part)


def test_none_opts_out_of_anything() -> None:
    for name in policies.NAMES:
        assert not any(value for _, value in opt_outs(policy.read(filled(name).encode())))
    hardware = policy.read(filled("auditor").encode()).hardware
    assert hardware is not None
    assert len(list(opt_outs(hardware))) == 15
    assert hardware.stale == "refuse"
    assert hardware.azure is None


WORSE: dict[str, tuple[dict[str, Any], tuple[policies.Name, ...]]] = {
    "complete": ({"complete": False, "counts": {"planned": 9, "run": 3, "failed": 1}}, policies.NAMES),
    "reviewed-lock": ({"lock": {**MANIFEST["lock"], "origin": "made-for-this-run"}}, policies.NAMES),
    "full-seal": ({"seal": [{**MANIFEST["seal"][0], "level": "partial"}]}, policies.NAMES),
    "exact-numerics": ({"determinism": [self_test("m", mates=3)]}, policies.NAMES),
    "wall": ({"wall": "process"}, ("auditor", "partner")),
    "attempts": ({"job": {**MANIFEST["job"], "attempt": 2}}, ("auditor", "partner")),
}


@pytest.mark.parametrize("name", policies.NAMES)
@pytest.mark.parametrize("code", WORSE)
def test_a_worse_run_is_refused(name: policies.Name, code: str) -> None:
    found, good = policy.read(text(name).encode()), {**MANIFEST, "wall": "vm", "evidence": ["tpm"]}
    found.check(canonical.validate(ExecutionManifest, good, "manifest"))
    # Whether what was claimed came out is a result, and no reason to distrust the run.
    claims = [{"claim": CLAIM, "holds": False}]
    found.check(canonical.validate(ExecutionManifest, good | {"claims": claims}, "manifest"))
    change, refusing = WORSE[code]
    worse = canonical.validate(ExecutionManifest, good | change, "manifest")
    if name in refusing:
        with pytest.raises(VerificationError, match=f"policy/{code}"):
            found.check(worse)
    else:
        found.check(worse)


def test_who_asks_for_a_run_that_drew_all_of_its_samples() -> None:
    """Beside `max_attempts`, which may be raised: then this one still holds."""
    found = {name: policy.read(text(name).encode()).uninterrupted for name in policies.NAMES}
    assert found == {"lab": False, "partner": True, "auditor": True}


def test_the_steps_of_the_ladder_that_they_ask_for() -> None:
    ladder = ["signed", "measured", "quoted (software TPM)", "confidential"]
    for name, least in {"lab": 2, "partner": 2, "auditor": 3}.items():
        found = policy.read(policies.path(name).read_bytes())  # type: ignore[arg-type]
        found.check_assurance(ladder[:least])
        with pytest.raises(VerificationError, match="policy/assurance"):
            found.check_assurance(ladder[: least - 1])


def test_the_auditors_roots_are_the_vendors(data: Path) -> None:
    hardware = policy.read(text("auditor").encode()).hardware
    assert hardware is not None
    found = {}
    for subject, names in ROOTS.items():
        files = [(data / "attestation" / name).read_bytes() for name in names]
        load = [
            x509.load_pem_x509_certificate if item.startswith(b"-") else x509.load_der_x509_certificate
            for item in files
        ]
        found[subject] = tuple(
            digest_of(one(item).public_bytes(Encoding.DER)) for one, item in zip(load, files, strict=True)
        )
    assert dict(hardware.roots) == found


def test_they_are_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in policies.NAMES:
        assert policies.read(Path(name)) == policies.path(name).read_bytes()
        assert CliRunner().invoke(app, ["policy", name]).stdout == text(name)
    with pytest.raises(MalformedInput, match="expected a readable file"):
        policies.read(Path("nobody"))
    # A file in the working directory is no way to change what a name stands for.
    (tmp_path / "auditor").write_text("")
    assert policies.read(Path("auditor")) == policies.path("auditor").read_bytes()
    assert policies.read(tmp_path / "auditor") == b""
