"""Leads evidence of each platform through its package: parse, authenticate by the capsule's collateral, claim, compare.

Every function takes a document of its platform's format, the collateral, the policy's roots and part, and the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from attest import azure, canonical, nitro, nvgpu, sevsnp, tdx, tpm
from attest.appraisal import Claims, Line
from attest.appraise import intel
from attest.appraise.items import Gpus, Nitro, Tdx
from attest.appraise.policy import Hardware
from attest.canonical import JSON
from attest.capsule import Capsule
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.manifest import Platform
from attest.tpm import layout
from attest.validity import Kind


@dataclass(frozen=True)
class Judged:
    """One platform's claims, and the rules that they were compared with."""

    claims: Claims
    """What authenticated evidence says."""
    lines: tuple[Line, ...]
    """The rules."""


@dataclass(frozen=True)
class Collateral:
    """What there is to judge by."""

    capsule: Capsule | None
    """The capsule; None: nothing."""
    hardware: Hardware
    """The policy."""
    now: datetime
    """The time to judge at."""

    def of(self, platform: Platform, *kinds: Kind) -> tuple[bytes, ...]:
        """The files of these kinds."""
        return tuple(item.data for item in self.capsule.of(platform, *kinds)) if self.capsule else ()

    def roots(self, platform: Platform, kind: Kind = "root") -> tuple[bytes, ...]:
        """The roots that the policy pins."""
        pinned = self.hardware.trusted(platform)
        return tuple(data for data in self.of(platform, kind) if digest_of(data) in pinned)


def judge(platform: Platform, document: dict[str, JSON], collateral: Collateral) -> Judged:
    """Judge a document. Raises `VerificationError` where it is not authentic, `MalformedInput`, `Unsupported`."""
    return JUDGES[platform](document, collateral)


def accepted(platform: Platform, hardware: Hardware) -> bool:
    """Whether the policy has a part on `platform`."""
    return getattr(hardware, platform.replace("-", "_")) is not None


def _tpm(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.tpm)
    evidence = canonical.validate(tpm.Evidence, document, "evidence of a TPM")
    roots = [tpm.Root(data, "hardware") for data in at.roots("tpm")]
    roots += [tpm.Root(data, "software") for data in at.roots("tpm", "software-root")]
    endorsements = tpm.Endorsements(tuple(roots), at.of("tpm", "certificate"), at.of("tpm", "revocation-list"))
    # The policy's lines speak of who vouches, and of what was skipped; the caller compares what a quote is bound to.
    found = tpm.authenticate(
        evidence,
        endorsements,
        nonce=layout.attested(evidence.quotes[0].attested).nonce,
        now=at.now,
        unsafe_without_endorsement=True,
        unsafe_without_revocation=policy.unsafe_skipped,
    )
    claims = tpm.claims(found)
    return Judged(claims, tpm.appraise(claims, policy))


def _sev_snp(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.sev_snp)
    found = sevsnp.authenticate(
        canonical.validate(sevsnp.Evidence, document, "evidence of SEV-SNP"),
        _amd(at),
        roots=at.hardware.trusted("sev-snp"),
        now=at.now,
        unsafe_without_revocation=policy.unsafe_without_revocation,
    )
    claims = sevsnp.claims(found)
    return Judged(claims, sevsnp.appraise(claims, policy))


def _tdx(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.tdx)
    evidence = canonical.validate(Tdx, document, "evidence of TDX")
    found = tdx.authenticate(
        evidence.quote,
        _intel(at, evidence.quote),
        now=at.now,
        unsafe_without_revocation=policy.unsafe_skipped,
        unsafe_without_tcb=policy.unsafe_skipped,
    )
    log = evidence.event_log
    parse = tdx.eventlog.parse_dstack if log is not None and log.lstrip().startswith(b"[") else tdx.eventlog.parse
    claims = tdx.claims(found, parse(log) if log is not None else ())
    return Judged(claims, tdx.appraise(claims, policy))


def _nitro(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.nitro)
    found = nitro.authenticate(
        canonical.validate(Nitro, document, "evidence of Nitro").document,
        nitro.Endorsements(at.roots("nitro"), at.of("nitro", "revocation-list")),
        now=at.now,
        unsafe_without_revocation=policy.unsafe_without_revocation,
    )
    claims = nitro.claims(found)
    return Judged(claims, nitro.appraise(claims, policy))


def _azure(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.azure)
    evidence = canonical.validate(azure.Evidence, document, "evidence of Azure")
    found = azure.authenticate(
        evidence,
        azure.Endorsements(
            sev_snp=_amd(at),
            roots=at.hardware.trusted("sev-snp"),
            tdx=_intel(at, evidence.td_quote) if evidence.td_quote is not None else None,
        ),
        nonce=layout.attested(evidence.quote.attested).nonce,
        now=at.now,
        unsafe_without_revocation=bool(policy.sev_snp and policy.sev_snp.unsafe_without_revocation)
        or bool(policy.tdx and policy.tdx.unsafe_skipped),
        unsafe_without_tcb=bool(policy.tdx and policy.tdx.unsafe_skipped),
    )
    claims = azure.claims(found)
    return Judged(claims, azure.appraise(claims, policy))


def _nvidia_gpu(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.nvidia_gpu)
    gpus = canonical.validate(Gpus, document, "evidence of GPUs").gpus
    driver, vbios = at.of("nvidia-gpu", "driver-rim"), at.of("nvidia-gpu", "vbios-rim")
    endorsements = nvgpu.Endorsements(
        device_roots=at.roots("nvidia-gpu"),
        rim_roots=at.roots("nvidia-gpu", "rim-root"),
        driver_rim=driver[0] if driver else None,
        vbios_rim=vbios[0] if vbios else None,
        ocsp=at.of("nvidia-gpu", "ocsp"),
    )
    found = nvgpu.authenticate_all(
        [nvgpu.Evidence(gpu.report, gpu.certificates) for gpu in gpus],
        endorsements,
        now=at.now,
        unsafe_without_revocation=policy.unsafe_without_revocation,
        unsafe_without_rims=policy.unsafe_without_rims,
    )
    claims = [nvgpu.claims(one) for one in found]
    lines = [line for one in claims for line in nvgpu.appraise(one, policy)]
    return Judged(claims[0], tuple(lines))


def _amd(at: Collateral) -> sevsnp.Endorsements:
    return sevsnp.Endorsements(at.of("sev-snp", "root", "certificate"), at.of("sev-snp", "revocation-list"))


def _intel(at: Collateral, quote: bytes) -> tdx.Endorsements:
    """Intel's collateral that fits to a quote: the first of each kind that is of its platform."""
    roots = at.roots("tdx")
    if not roots:
        wanted = ", ".join(sorted(at.hardware.trusted("tdx"))) or "a root that the policy pins"
        raise VerificationError("tdx", "root", expected=f"{wanted}, in the capsule", found="none")
    lists = at.of("tdx", "revocation-list")
    return intel.endorsements(quote, roots[0], lists, _documents(at, "tcb-info"), _documents(at, "qe-identity"))


def _documents(at: Collateral, kind: Kind) -> Iterable[tuple[bytes, bytes]]:
    """Intel's answers of one kind, each with its chain."""
    items = at.capsule.of("tdx", kind) if at.capsule else ()
    return [(item.data, item.chain or b"") for item in items]


def _part(policy: Any) -> Any:
    """A part of the policy that the caller has seen to be there."""
    if policy is None:
        raise RuntimeError("expected a platform that the policy accepts")
    return policy


JUDGES: Final[dict[Platform, Callable[[dict[str, JSON], Collateral], Judged]]] = {
    "tpm": _tpm,
    "sev-snp": _sev_snp,
    "tdx": _tdx,
    "nitro": _nitro,
    "azure": _azure,
    "nvidia-gpu": _nvidia_gpu,
}
