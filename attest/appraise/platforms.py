"""Leads evidence of each platform through its package: parse, authenticate by the capsule's collateral, claim, compare.

Every function takes a document of its platform's format, the collateral, the policy's roots and part, and the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from attest import azure, canonical, nitro, nvgpu, sevsnp, tdx, tpm, validity
from attest.appraisal import Claims, Line
from attest.appraise import intel, nvidia
from attest.appraise.items import Gpus, Nitro, Tdx
from attest.appraise.policy import Hardware, Subject
from attest.canonical import JSON, Model
from attest.capsule import Capsule, Item
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.manifest import Platform
from attest.tpm import layout
from attest.validity import Kind

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Judged:
    """One platform's claims, and the rules that they were compared with."""

    claims: tuple[Claims, ...]
    """What authenticated evidence says: of each GPU, and of any other platform once."""
    lines: tuple[Line, ...]
    """The rules."""
    widened: tuple[str, ...]
    """Those that hold only because the policy opts out of them (`unsafe_*`)."""


@dataclass(frozen=True)
class Collateral:
    """What there is to judge by."""

    capsule: Capsule | None
    """The capsule; None: nothing."""
    hardware: Hardware
    """The policy."""
    now: datetime
    """The time to judge at."""

    def items(self, platform: Platform, *kinds: Kind) -> list[Item]:
        """The items of these kinds: the newest first, and last those that only come into force after `now`."""
        found = self.capsule.of(platform, *kinds) if self.capsule else ()
        moment = validity.write_time(self.now)
        return sorted(found, key=lambda item: (item.not_before <= moment, item.not_before), reverse=True)

    def of(self, platform: Platform, *kinds: Kind) -> tuple[bytes, ...]:
        """Their files, in the same order."""
        return tuple(item.data for item in self.items(platform, *kinds))

    def roots(self, platform: Platform, kind: Kind = "root", subject: Subject | None = None) -> tuple[bytes, ...]:
        """The roots that the policy pins for `subject` (the platform itself, by default)."""
        pinned = self.hardware.trusted(subject or platform)
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
    roots += [tpm.Root(data, "software") for data in at.roots("tpm", "software-root", "tpm-software")]
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
    return _judged(tpm.appraise, claims, policy)


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
    return _judged(sevsnp.appraise, claims, policy)


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
    return _judged(tdx.appraise, claims, policy)


def _nitro(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.nitro)
    found = nitro.authenticate(
        canonical.validate(Nitro, document, "evidence of Nitro").document,
        nitro.Endorsements(at.roots("nitro"), at.of("nitro", "revocation-list")),
        now=at.now,
        unsafe_without_revocation=policy.unsafe_without_revocation,
    )
    claims = nitro.claims(found)
    return _judged(nitro.appraise, claims, policy)


def _azure(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.azure)
    evidence = canonical.validate(azure.Evidence, document, "evidence of Azure")
    amd, intel_ = (policy.sev_snp, None) if evidence.td_quote is None else (None, policy.tdx)
    found = azure.authenticate(
        evidence,
        azure.Endorsements(
            sev_snp=_amd(at),
            roots=at.hardware.trusted("sev-snp"),
            tdx=_intel(at, evidence.td_quote) if evidence.td_quote is not None else None,
        ),
        nonce=layout.attested(evidence.quote.attested).nonce,
        now=at.now,
        unsafe_without_revocation=bool((amd and amd.unsafe_without_revocation) or (intel_ and intel_.unsafe_skipped)),
        unsafe_without_tcb=bool(intel_ and intel_.unsafe_skipped),
    )
    return _judged(azure.appraise, azure.claims(found), policy)


def _nvidia_gpu(document: dict[str, JSON], at: Collateral) -> Judged:
    policy = _part(at.hardware.nvidia_gpu)
    gpus = canonical.validate(Gpus, document, "evidence of GPUs").gpus
    driver, vbios = nvidia.manifests(
        gpus[0].report, at.of("nvidia-gpu", "driver-rim"), at.of("nvidia-gpu", "vbios-rim")
    )
    endorsements = nvgpu.Endorsements(
        device_roots=at.roots("nvidia-gpu"),
        rim_roots=at.roots("nvidia-gpu", "rim-root", "nvidia-gpu-rim"),
        driver_rim=driver,
        vbios_rim=vbios,
        ocsp=at.of("nvidia-gpu", "ocsp"),
    )
    found = nvgpu.authenticate_all(
        [nvgpu.Evidence(gpu.report, gpu.certificates) for gpu in gpus],
        endorsements,
        now=at.now,
        unsafe_without_revocation=policy.unsafe_without_revocation,
        unsafe_without_rims=policy.unsafe_without_rims,
    )
    each = [_judged(nvgpu.appraise, nvgpu.claims(one), policy) for one in found]
    if len(each) == 1:
        return each[0]
    return Judged(
        claims=tuple(claims for one in each for claims in one.claims),
        lines=tuple(
            line.model_copy(update={"rule": f"{line.rule}.gpu-{number}"})
            for number, one in enumerate(each, 1)
            for line in one.lines
        ),
        widened=tuple(f"{rule}.gpu-{number}" for number, one in enumerate(each, 1) for rule in one.widened),
    )


def _judged(compare: Callable[[Any, Any], tuple[Line, ...]], claims: Claims, policy: Model) -> Judged:
    """Claims compared with a policy, and with the same one without its opt-outs, to see which of them counted."""
    lines, strict = compare(claims, policy), compare(claims, _strict(policy))
    return Judged(
        (claims,),
        lines,
        tuple(line.rule for line, other in zip(lines, strict, strict=True) if line.holds and not other.holds),
    )


def _strict(policy: M) -> M:
    """`policy` without what it opts out of, in its parts too."""
    fields = {name: getattr(policy, name) for name in type(policy).model_fields}
    without = {name: False for name in fields if name.startswith("unsafe_")}
    return policy.model_copy(
        update=without | {name: _strict(part) for name, part in fields.items() if isinstance(part, Model)}
    )


def _amd(at: Collateral) -> sevsnp.Endorsements:
    return sevsnp.Endorsements(at.of("sev-snp", "root", "certificate"), at.of("sev-snp", "revocation-list"))


def _intel(at: Collateral, quote: bytes) -> tdx.Endorsements:
    """Intel's collateral that fits to a quote: the first of each kind that is of its platform."""
    roots = at.roots("tdx")
    if not roots:
        wanted = ", ".join(sorted(at.hardware.trusted("tdx"))) or "a root that the policy pins"
        raise VerificationError("tdx", "root", expected=f"{wanted}, in the capsule", found="none")
    lists = at.of("tdx", "revocation-list")
    return intel.endorsements(quote, roots, lists, _documents(at, "tcb-info"), _documents(at, "qe-identity"))


def _documents(at: Collateral, kind: Kind) -> list[tuple[bytes, bytes]]:
    """Intel's answers of one kind, each with its chain."""
    return [(item.data, item.chain or b"") for item in at.items("tdx", kind)]


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
