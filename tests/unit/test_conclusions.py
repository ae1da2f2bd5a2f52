"""What follows from a bundle and what does not: each sentence is there exactly when it is true."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from attest import canonical, conclusions
from attest.appraise import Appraisal
from attest.conclusions import Given
from attest.cosignature import Cosigned, WitnessKey
from attest.counter import RunCounter
from attest.manifest import ExecutionManifest
from attest.rollback import Kept, Thing
from tests.tools.manifests import MANIFEST, D, self_test

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOTHING = Given(
    nonce=False,
    lock=False,
    machine=None,
    assurance=("signed", "measured"),
    appraisals=(),
    witnesses=(),
    counter=None,
    kept=(),
)
SEEN = Cosigned(WitnessKey("auditor.example", bytes(32)), NOW)

KEPT = Kept(Thing("lock", "gsm8k"), 3), Kept(Thing("image", "vitrine-vm"), 7)


@dataclass(frozen=True)
class Said:
    """What a platform's claims say to these conclusions."""

    bound: str = ""
    debug: bool = False
    kind: str = "unknown"


def appraised(*downgrades: str, **claims: Said | tuple[Said, ...]) -> Appraisal:
    """An appraisal with the claims of platforms, in whose names `_` is a dash."""
    each: Any = {name.replace("_", "-"): said if isinstance(said, tuple) else (said,) for name, said in claims.items()}
    return Appraisal(NOW, each, (), downgrades, ())


def manifest(**more: Any) -> ExecutionManifest:
    return canonical.validate(ExecutionManifest, {**MANIFEST, **more}, "manifest")


HARD, SOFT, BARE = Said(kind="hardware"), Said(kind="software"), Said()
OPEN = Said(debug=True)


@pytest.mark.parametrize(
    ("evidence", "appraisals", "steps"),
    [
        ((), (), []),
        (("tpm",), (), ["quoted (software TPM)"]),
        (("tpm",), (appraised(tpm=SOFT), appraised(tpm=SOFT)), ["quoted (software TPM)"]),
        (("tpm",), (appraised(tpm=HARD), appraised(tpm=HARD)), ["quoted (hardware TPM)"]),
        # Both the start and the end, and every TPM in them.
        (("tpm",), (appraised(tpm=HARD), appraised(tpm=SOFT)), ["quoted (software TPM)"]),
        (("tpm",), (appraised(tpm=HARD), appraised()), ["quoted (software TPM)"]),
        (("sev-snp",), (), []),
        (("sev-snp",), (appraised(sev_snp=BARE), appraised(sev_snp=BARE)), ["confidential"]),
        (("tdx",), (appraised(tdx=BARE), appraised(tdx=BARE)), ["confidential"]),
        (("nitro",), (appraised(nitro=BARE), appraised(nitro=BARE)), ["confidential"]),
        (("azure",), (appraised(azure=BARE), appraised(azure=BARE)), ["confidential"]),
        (("nvidia-gpu",), (appraised(nvidia_gpu=BARE), appraised(nvidia_gpu=BARE)), []),
        (("sev-snp",), (appraised(sev_snp=OPEN), appraised(sev_snp=BARE)), []),
        (("sev-snp",), (appraised(sev_snp=BARE), appraised(sev_snp=OPEN)), []),
        (("sev-snp",), (appraised(sev_snp=(BARE, OPEN)), appraised(sev_snp=BARE)), []),
        (("sev-snp", "tdx"), (appraised(sev_snp=BARE), appraised(tdx=BARE)), []),
        (("tpm", "tdx"), (appraised(tpm=OPEN, tdx=BARE),) * 2, ["quoted (software TPM)", "confidential"]),
    ],
)
def test_the_ladder(evidence: tuple[str, ...], appraisals: tuple[Appraisal, ...], steps: list[str]) -> None:
    assert conclusions.ladder(manifest(evidence=evidence), appraisals) == ("signed", "measured", *steps)


PARTIAL = {**MANIFEST["seal"][0], "level": "partial"}
INSPECT = {"name": "evidence/inspect.eval", "digest": D, "size_bytes": 2}
ATTEMPT_3 = {**MANIFEST["job"], "attempt": 3}
RESUMED = {"job": ATTEMPT_3, "transcript": {**MANIFEST["transcript"], "samples": 9}}
CONTAINER = {"image": D, "plan": D, "runtime": "runc"}


@pytest.mark.parametrize(
    ("more", "given", "sentence"),
    [
        ({}, {"nonce": True}, "the run answers your nonce"),
        ({}, {"lock": True}, "those of the lockfile that you gave"),
        ({"evidence": ("tpm",)}, {}, "one TPM quoted, in one boot"),
        ({}, {"machine": "lab-image"}, "those of the image "),
        ({}, {"counter": RunCounter(tpm=D, value=7)}, "raised its counter of runs to 7 for it"),
        (
            {},
            {"witnesses": (SEEN,)},
            "auditor.example saw intent and signature in the lab's log, not after 2026-01-02T03",
        ),
        ({}, {"kept": KEPT}, "that TPM kept 3 as the newest version of the lock gsm8k"),
        ({}, {"kept": KEPT}, "that TPM kept 7 as the newest version of the image vitrine-vm"),
        ({}, {"appraisals": (appraised(tdx=BARE), appraised(tdx=BARE))}, "evidence of tdx, bound to this run, holds"),
    ],
)
def test_what_follows(more: dict[str, Any], given: dict[str, Any], sentence: str) -> None:
    def lines(told: ExecutionManifest, known: Given) -> list[str]:
        return [line for line in conclusions.proven(told, known) if sentence in line]

    assert len(lines(manifest(**more), replace(NOTHING, **given))) == 1
    assert lines(manifest(), NOTHING) == []


@pytest.mark.parametrize(
    ("more", "given", "sentence"),
    [
        ({"lock": {**MANIFEST["lock"], "origin": "made-for-this-run"}}, {}, "that anybody reviewed the lockfile"),
        ({"evidence": ("tpm",)}, {}, "that a known image was booted"),
        (
            {"complete": False, "ended_by": "failed"},
            {},
            "anything about the samples that are missing: the run ended early",
        ),
        (
            RESUMED | {"resumed": [{"attempt": 1, "samples": 2}, {"attempt": 2, "samples": 3}]},
            {},
            "drew the first 5 of 9 samples (attempt 1: 2, attempt 2: 3)",
        ),
        ({}, {"kept": KEPT}, "never made the TPM forget a newer version"),
        ({"job": ATTEMPT_3}, {}, "earlier attempts at this job"),
        ({"determinism": [self_test("m", mates=3), self_test("n")]}, {}, "the logits of ['m'] vary"),
        ({"files": [*MANIFEST["files"], INSPECT]}, {}, "Inspect gave them, outside the seal"),
        ({"wall": "container", "container": CONTAINER}, {}, "the word of the host that started it"),
        ({}, {"appraisals": (appraised("no revocation list", tdx=BARE),) * 2}, "lets pass: no revocation list"),
        ({"seal": [MANIFEST["seal"][0], PARTIAL]}, {}, "at least one worker's seal was partial"),
    ],
)
def test_what_does_not_follow(more: dict[str, Any], given: dict[str, Any], sentence: str) -> None:
    def lines(told: ExecutionManifest, known: Given) -> list[str]:
        return [line for line in conclusions.not_proven(told, known) if sentence in line]

    assert len(lines(manifest(**more), replace(NOTHING, **given))) == 1
    assert lines(manifest(), NOTHING) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"lock": True}, "give --lock to compare"),
        ({"nonce": True}, "that the run is fresh"),
        ({"witnesses": (SEEN,)}, "that the lab shows everybody the same log"),
    ],
)
def test_what_somebody_gave_is_not_asked_for(given: dict[str, Any], sentence: str) -> None:
    assert any(sentence in line for line in conclusions.not_proven(manifest(), NOTHING))
    assert not any(sentence in line for line in conclusions.not_proven(manifest(), replace(NOTHING, **given)))


def test_an_image_that_was_compared_is_known() -> None:
    known = replace(NOTHING, machine="lab-image")
    assert not any("known image" in line for line in conclusions.not_proven(manifest(evidence=("tpm",)), known))


TDX, TPM = (appraised(tdx=BARE),) * 2, (appraised(tpm=SOFT),) * 2


@pytest.mark.parametrize(
    ("evidence", "given", "sentence"),
    [
        ((), {}, "no hardware evidence speaks for it"),
        (("tdx",), {}, "evidence of tdx was not looked at"),
        (("tpm",), {}, "nobody vouches for its TPM"),
        (("tpm", "tdx"), {}, "nobody vouches for its TPM"),
        (
            ("tdx",),
            {"appraisals": TDX, "assurance": ("signed", "measured", "confidential")},
            "hardware vouches for its",
        ),
        (
            ("tpm",),
            {"appraisals": TPM, "assurance": ("signed", "measured", "quoted (hardware TPM)")},
            "hardware vouches for its start",
        ),
        (
            ("tpm",),
            {"appraisals": TPM, "assurance": ("signed", "measured", "quoted (software TPM)")},
            "its TPM is software",
        ),
    ],
)
def test_what_is_known_of_the_machine(evidence: tuple[str, ...], given: dict[str, Any], sentence: str) -> None:
    first, *_ = conclusions.not_proven(manifest(evidence=evidence), replace(NOTHING, **given))
    assert first.startswith("that the lab's machine did what the boot log says: " + sentence)
