"""The evidence of hardware in a bundle: a package of the start of a run, one of its end, and how they belong together.

`evidence/start.json` is made after the boot and before the first sample, and named by the signed manifest.
`evidence/end.json` is made when the statement is there, and bears its digest: nothing signed can name it, and the
manifest says that it has to be there. Both are made by the same hardware in the same boot.

What a platform says is a JSON object of that platform's own format. A TPM's application register tells the run: what it
held before, then every record of the boot's event log, then the job, and at the end the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, model_validator

from attest import canonical, reference
from attest.binding import StartStatement, When, binding
from attest.canonical import JSON, Model
from attest.counter import RunCounter
from attest.digest import Hex32
from attest.errors import VerificationError
from attest.eventlog import EventLog, measurement
from attest.manifest import Platform
from attest.reference import ReferenceValues

if TYPE_CHECKING:
    from attest.machine import Quoted
    from attest.rollback import Kept

LAYER = "evidence"
FORMATS: Final[Mapping[str, Platform]] = {
    "vitrine/tpm-evidence/v1": "tpm",
    "vitrine/sev-snp-evidence/v1": "sev-snp",
    "vitrine/tdx-evidence/v1": "tdx",
    "vitrine/nitro-evidence/v1": "nitro",
    "vitrine/azure-evidence/v1": "azure",
    "vitrine/gpu-evidence/v1": "nvidia-gpu",
}
"""What evidence of each platform is called."""


class Evidence(Model):
    """What the hardware of a machine says at one point of a run."""

    format: str = Field(default="vitrine/evidence/v1", pattern=r"^vitrine/evidence/v1$")
    """Format and version."""
    when: When
    """The point of the run."""
    challenge: Hex32
    """The random bytes that the notary chose for this run."""
    before: Hex32 | None = None
    """What a TPM's application register held when the program that runs jobs started; None without a TPM."""
    items: Annotated[tuple[dict[str, JSON], ...], Field(min_length=1, max_length=8)]
    """Evidence of each platform of the machine, each platform once; of the platform's own format."""

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms, in order."""
        return tuple(FORMATS[str(item["format"])] for item in self.items)

    def of(self, platform: Platform) -> dict[str, JSON] | None:
        """The evidence of one platform."""
        return next((item for item in self.items if FORMATS[str(item["format"])] == platform), None)

    @model_validator(mode="after")
    def _known_and_once(self) -> Self:
        found = [str(item.get("format")) for item in self.items]
        if unknown := [name for name in found if name not in FORMATS]:
            raise ValueError(f"expected formats of {list(FORMATS)}, found {str(unknown)[:200]}")
        if len(set(found)) != len(found):
            raise ValueError(f"expected each platform once, found {found}")
        if (self.of("tpm") is not None) != (self.before is not None):
            raise ValueError("expected 'before' exactly with evidence of a TPM")
        return self


def read(data: bytes, when: When) -> Evidence:
    """The package in `data`, of this point of the run. Raises `MalformedInput`, `VerificationError`."""
    evidence = canonical.parse(Evidence, data, f"evidence of the {when}")
    if evidence.when != when:
        raise VerificationError(LAYER, "when", expected=when, found=evidence.when)
    return evidence


def start_binding(evidence: Evidence, log: EventLog, *, nonce: str | None, key: str, job: str, lock: str) -> bytes:
    """What evidence of this start bears. `log`: of the boot; `nonce`: the job's; `key`, `job`, `lock`: digests."""
    statement = StartStatement(job=job, lock=lock, measurement=measurement(log.registers), challenge=evidence.challenge)
    return binding("start", nonce=nonce, key=key, statement=statement.digest())


def check_start(evidence: Evidence, log: EventLog, *, nonce: str | None, key: str, job: str, lock: str) -> None:
    """Evidence of a start: of this boot, key and job. Raises `VerificationError`, `MalformedInput`, `Unsupported`.

    Evidence of other platforms than a TPM is judged by `attest.appraise` alone: it takes collateral.
    """
    extra = start_binding(evidence, log, nonce=nonce, key=key, job=job, lock=lock)
    if (quoted := _quoted(evidence, extra)) is not None:
        _check_application(evidence, quoted, [*(record.digest for record in log.records), job])


def check_end(
    start: Evidence,
    end: Evidence,
    log: EventLog,
    *,
    nonce: str | None,
    key: str,
    job: str,
    statement: str,
    results: str,
) -> None:
    """Evidence of an end: of the machine whose start was checked, in the same boot, with these results.

    `statement`: the digest of the signed statement; the others as in `check_start`. Raises as `check_start`.
    """
    _equal("platforms", start.platforms, end.platforms)
    _equal("challenge", start.challenge, end.challenge)
    _equal("before", start.before, end.before)
    quoted = _quoted(end, binding("end", nonce=nonce, key=key, statement=statement))
    if quoted is not None:
        from attest import machine

        _check_application(end, quoted, [*(record.digest for record in log.records), job, results])
        machine.check_same(_unbound(start), quoted)


def image(evidence: Evidence) -> str | None:
    """What a certificate's identity says of the machine's image: the registers that a TPM quoted, or without a TPM the
    launch measurement (`attest.launch`); None where the hardware measures no start.

    Taken from the evidence as it is: whoever uses it has verified that. Raises `MalformedInput`, `Unsupported`.
    """
    if evidence.of("tpm") is not None:
        return reference.image_of(_unbound(evidence).values)
    from attest import launch

    return launch.image_of(dict(zip(evidence.platforms, evidence.items, strict=True)))


def counter(evidence: Evidence) -> RunCounter | None:
    """Where the counter of runs stood, by a TPM's evidence of a start; taken from it as `image` is."""
    return None if evidence.of("tpm") is None else _unbound(evidence).counter


def versions(evidence: Evidence) -> tuple[Kept, ...]:
    """The versions that a TPM keeps, by its evidence of a start; taken from it as `image` is."""
    return () if evidence.of("tpm") is None else _unbound(evidence).versions


def identify(evidence: Evidence, known: Sequence[ReferenceValues]) -> ReferenceValues:
    """The image among `known` whose reference values the machine has. Raises `VerificationError` of the last one."""
    if evidence.of("tpm") is None:
        raise VerificationError(LAYER, "missing", expected="evidence of a TPM", found=evidence.platforms)
    found, refused = _unbound(evidence).registers, None
    for values in known:
        try:
            reference.compare(values, found)
        except VerificationError as error:
            refused = error
        else:
            return values
    raise refused or RuntimeError("expected reference values to compare with, found none")


def _check_application(evidence: Evidence, quoted: Quoted, digests: Sequence[str]) -> None:
    from attest import machine

    assert evidence.before is not None  # `Evidence` sees to that
    machine.check_application(quoted, evidence.before, digests)


def _quoted(evidence: Evidence, extra: bytes) -> Quoted | None:
    """What the package's TPM quoted with this binding; None without a TPM."""
    item = evidence.of("tpm")
    if item is None:
        return None
    from attest import machine, tpm

    return machine.verify(canonical.validate(tpm.Evidence, item, "evidence of a TPM"), extra)


def _unbound(evidence: Evidence) -> Quoted:
    """The same, with whatever binding its first quote bears."""
    from attest import machine, tpm

    item = canonical.validate(tpm.Evidence, evidence.of("tpm"), "evidence of a TPM")
    return machine.verify(item, tpm.layout.attested(item.quotes[0].attested).nonce)


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found)
