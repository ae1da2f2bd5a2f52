"""The package of a machine's evidence: each platform once, of a known form, and `before` with a TPM's."""

from __future__ import annotations

from typing import Any

import pytest

from attest import canonical, evidence, verify
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.eventlog import EventLog, measurement
from attest.evidence import FORMATS
from attest.manifest import ExecutionManifest
from tests.tools.manifests import MANIFEST

NAMES = {platform: name for name, platform in FORMATS.items()}


def package(*platforms: str, when: str = "start", **more: Any) -> bytes:
    """A package with nothing in it but the names of forms; `before` where there is a TPM."""
    fields = {"challenge": "5c" * 32, "items": [{"format": NAMES.get(name, name)} for name in platforms]}  # type: ignore[call-overload]
    before = {"before": "00" * 32} if "tpm" in platforms else {}
    return canonical.dumps({"format": "vitrine/evidence/v1", "when": when} | fields | before | more)


@pytest.mark.parametrize(
    "platforms", [("tpm",), ("tdx",), ("tdx", "tpm"), ("nvidia-gpu", "sev-snp", "tpm"), tuple(NAMES)]
)
def test_each_platforms_evidence_is_found(platforms: tuple[str, ...]) -> None:
    found = evidence.read(package(*platforms), "start")
    assert found.platforms == platforms
    for platform, name in NAMES.items():
        assert found.of(platform) == ({"format": name} if platform in platforms else None)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (package("tdx", "vitrine/other-evidence/v1"), "expected formats of"),
        (package("tdx", items=[{"quote": ""}]), "expected formats of"),
        (package("tdx", "tdx"), "expected each platform once"),
        (package("tpm", "tdx", "tpm"), "expected each platform once"),
        (package("tpm", before=None), "expected 'before' exactly with evidence of a TPM"),
        (package("tdx", before="00" * 32), "expected 'before' exactly with evidence of a TPM"),
        (package(), "items"),
    ],
)
def test_other_packages_are_malformed(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        evidence.read(data, "start")


def test_a_package_is_of_its_moment() -> None:
    assert evidence.read(package("tdx", when="end"), "end").when == "end"
    for said, wanted in (("start", "end"), ("end", "start")):
        with pytest.raises(VerificationError, match="evidence/when"):
            evidence.read(package("tdx", when=said), wanted)  # type: ignore[arg-type]


def test_without_a_tpm_there_is_no_image_no_counter_and_no_version() -> None:
    found = evidence.read(package("nvidia-gpu"), "start")
    assert (evidence.image(found), evidence.counter(found), evidence.versions(found)) == (None, None, ())
    with pytest.raises(VerificationError, match="evidence/missing"):
        evidence.identify(found, ())


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (package("nitro", when="end"), "evidence/platforms"),
        (package("tdx", "nvidia-gpu", when="end"), "evidence/platforms"),
        (package("tdx", when="end", challenge="00" * 32), "evidence/challenge"),
    ],
)
def test_start_and_end_are_of_the_same_platforms_and_run(end: bytes, code: str) -> None:
    fields = {"nonce": None} | dict.fromkeys(("key", "job", "statement", "results"), digest_of(b"x"))
    start, log = evidence.read(package("tdx"), "start"), EventLog()
    evidence.check_end(start, evidence.read(package("tdx", when="end"), "end"), log, **fields)  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=code):
        evidence.check_end(start, evidence.read(end, "end"), log, **fields)  # type: ignore[arg-type]


def test_an_identity_names_a_machine_where_its_hardware_measured_the_start() -> None:
    """A GPU measures no start: the identity names the appliance alone."""
    log = EventLog()
    appliance = f"/appliance/{measurement(log.registers)}"
    told = canonical.validate(ExecutionManifest, MANIFEST | {"evidence": ["nvidia-gpu"]}, "manifest")
    files = {verify.START: package("nvidia-gpu")}
    verify._check_identity(files, f"https://lab.example{appliance}", told, log)
    for other in (f"/machine/None{appliance}", f"/machine/{'0' * 64}{appliance}", "/appliance/other"):
        with pytest.raises(VerificationError, match="identity/measurement"):
            verify._check_identity(files, f"https://lab.example{other}", told, log)
