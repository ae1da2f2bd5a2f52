"""The evidence of hardware in a bundle: a package of the start of a run, one of its end, and how they belong together.

`evidence/start.json` is made after the boot and before the first sample, and named by the signed manifest.
`evidence/end.json` is made when the statement is there, and bears its digest: nothing signed can name it, and the
manifest says that it has to be there. Both are made by the same hardware in the same boot.

The application register tells the run: what it held before, then every record of the boot's event log, then the job,
and at the end the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from attest import canonical, machine, reference
from attest.binding import StartStatement, When, binding
from attest.canonical import Model
from attest.digest import Hex32, raw, sha256
from attest.errors import VerificationError
from attest.eventlog import EventLog, measurement
from attest.machine import TpmEvidence
from attest.manifest import Platform
from attest.reference import APPLICATION, ReferenceValues

LAYER = "evidence"


class Evidence(Model):
    """What the hardware of a machine says at one point of a run."""

    format: Literal["vitrine/evidence/v1"] = "vitrine/evidence/v1"
    """Format and version."""
    when: When
    """The point of the run."""
    challenge: Hex32
    """The random bytes that the notary chose for this run."""
    items: Annotated[tuple[TpmEvidence, ...], Field(min_length=1, max_length=8)]
    """Evidence of each platform of the machine, each platform once."""

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms, in order."""
        return tuple(item.platform for item in self.items)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.platforms)) != len(self.items):
            raise ValueError(f"expected each platform once, found {list(self.platforms)}")
        return self


def read(data: bytes, when: When) -> Evidence:
    """The package in `data`, of this point of the run. Raises `MalformedInput`, `VerificationError`."""
    evidence = canonical.parse(Evidence, data, f"evidence of the {when}")
    if evidence.when != when:
        raise VerificationError(LAYER, "when", expected=when, found=evidence.when)
    return evidence


def check_start(evidence: Evidence, log: EventLog, *, nonce: str | None, key: str, job: str, lock: str) -> None:
    """Evidence of a start: of this boot, key and job. Raises `VerificationError`, `MalformedInput`.

    `log`: the boot's event log; `nonce`: the job's; `key`, `job`, `lock`: digests.
    """
    statement = StartStatement(job=job, lock=lock, measurement=measurement(log.registers), challenge=evidence.challenge)
    extra = binding("start", nonce=nonce, key=key, statement=statement.digest())
    for item in evidence.items:
        machine.verify(item, extra)
        _check_application(item, [*(record.digest for record in log.records), job])


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
    extra = binding("end", nonce=nonce, key=key, statement=statement)
    for first, last in zip(start.items, end.items, strict=True):
        machine.verify(last, extra)
        _check_application(last, [*(record.digest for record in log.records), job, results])
        _equal("machine", first.key.hex(), last.key.hex())
        _equal("before", first.before, last.before)
        _check_same_boot(machine.parse_quote(first.attested), machine.parse_quote(last.attested))
        changed = [
            name
            for name in first.registers
            if int(name) < APPLICATION and first.registers[name] != last.registers[name]
        ]
        if changed:
            raise VerificationError(LAYER, "changed", expected="registers as at the start", found=f"changed: {changed}")


def identify(evidence: Evidence, known: Sequence[ReferenceValues]) -> ReferenceValues:
    """The image among `known` whose reference values the machine has. Raises `VerificationError` of the last one."""
    refused: VerificationError | None = None
    for values in known:
        try:
            for item in evidence.items:
                reference.compare(values, item.values())
        except VerificationError as error:
            refused = error
        else:
            return values
    raise refused or RuntimeError("expected reference values to compare with, found none")


def image(evidence: Evidence) -> str:
    """The measurement of the image that the evidence is of, as in a certificate's identity."""
    (item,) = evidence.items
    return reference.image_of(item.registers)


def _check_application(item: TpmEvidence, digests: Sequence[str]) -> None:
    value = bytes.fromhex(item.before)
    for digest in digests:
        value = sha256(value, raw(digest))
    found = item.registers[str(APPLICATION)]
    if found != value.hex():
        raise VerificationError(
            LAYER, "application-register", expected=value.hex(), found=found,
            advice="the machine was told of another boot, job or result than the bundle shows",
        )  # fmt: skip


def _check_same_boot(first: machine.Quote, last: machine.Quote) -> None:
    _equal("boot", (first.resets, first.restarts), (last.resets, last.restarts))
    if last.clock_ms < first.clock_ms:
        raise VerificationError(LAYER, "clock", expected=f"at least {first.clock_ms} ms", found=f"{last.clock_ms} ms")


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found)
