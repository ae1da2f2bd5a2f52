"""The TPM of a machine that speaks for a run: what it quoted, as far as that can be judged without knowing whose it is.

Proven: a key that signs only what its TPM says quoted registers 0 to 15 with this binding, and the firmware's log
explains registers 0 to 7, 9 and 11 to the last bit. Not proven: whose TPM it is; `attest.appraise` judges that, with a
manufacturer's certificate and a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from attest import canonical, rollback, tpm
from attest.counter import INDEX, RunCounter
from attest.digest import digest_of, raw, sha256
from attest.errors import VerificationError
from attest.reference import APPLICATION
from attest.rollback import INDEXES, Kept

QUOTED = range(16)
"""The registers that nobody can reset while the machine runs."""
EXPLAINED = (*range(8), 9, 11)
"""Those that firmware, boot stub and kernel extend: the log has to explain them."""
ENDORSEMENT = 0x4000000B
"""TPM_RH_ENDORSEMENT: the hierarchy that the key is of."""
NOBODY = tpm.Endorsements(roots=())
NEVER = datetime.min.replace(tzinfo=UTC)
"""No certificate is looked at here, so that there is no time to look at it."""


@dataclass(frozen=True)
class Quoted:
    """What a TPM quoted."""

    registers: dict[int, bytes]
    """The SHA-256 values of registers 0 to 15."""
    key: bytes
    """The name of the key that signed."""
    boot: tuple[int, int]
    """How often the TPM was reset, and restarted since: equal within one boot."""
    clock_ms: int
    """Milliseconds that it was powered."""
    counter: RunCounter | None
    """Where its counter of runs stood, where it was certified too."""
    versions: tuple[Kept, ...]
    """The versions that it kept, where they were certified too."""

    @property
    def values(self) -> dict[str, str]:
        """The registers as reference values have them."""
        return {str(register): value.hex() for register, value in self.registers.items()}


def verify(evidence: tpm.Evidence, extra: bytes) -> Quoted:
    """Verify quote, registers and event log. `extra` is what the quote has to bear.

    Raises `VerificationError` (layers `tpm` and `machine`), `MalformedInput`, `Unsupported`.
    """
    # Who vouches for the key is judged elsewhere, if at all.
    alone = evidence.model_copy(update={"endorsement": None, "key_certificate": None})
    found = tpm.authenticate(
        alone, NOBODY, nonce=extra, now=NEVER, unsafe_without_endorsement=True, unsafe_without_revocation=True
    )
    _check_signer(found)
    registers = found.values.get("sha256", {})
    if missing := [register for register in QUOTED if register not in registers]:
        raise VerificationError("machine", "selection", expected="registers 0 to 15, SHA-256", found=f"no {missing}")
    explained = found.explained["sha256"]
    if unexplained := [register for register in EXPLAINED if explained[register] == "unexplained"]:
        raise VerificationError(
            "machine", "event-log", expected="a log that explains the firmware's registers",
            found=f"other values in {unexplained}", advice="the log is not of this boot, or was changed",
        )  # fmt: skip
    first = found.statements[0]
    return Quoted(
        registers={register: registers[register] for register in QUOTED},
        key=found.key.name,
        boot=(first.resets, first.restarts),
        clock_ms=first.clock_ms,
        counter=_counter(found, digest_of(evidence.key)),
        versions=_versions(found),
    )


def _check_signer(found: tpm.Authenticated) -> None:
    """The key is a primary key of the endorsement hierarchy, with the very attributes that the evidence shows: the TPM
    puts the key's qualified name (part 1, 16) into what it signs."""
    expected = tpm.layout.name_of("sha256", ENDORSEMENT.to_bytes(4, "big") + found.key.name)
    for statement in found.statements:
        _equal("signer", expected.hex(), statement.signer.hex())


def _counter(found: tpm.Authenticated, owner: str) -> RunCounter | None:
    """The counter of runs, which is at one index of every TPM."""
    if found.counter is None:
        return None
    index, value = found.counter
    _equal("counter", f"index {INDEX:#x}", f"index {index:#x}")
    return canonical.validate(RunCounter, {"tpm": owner, "value": value}, "counter of runs")


def _versions(found: tpm.Authenticated) -> tuple[Kept, ...]:
    """The versions that the TPM keeps, each of another thing, at the indexes for them."""
    if strange := [f"{index:#x}" for index, _ in found.versions if index not in INDEXES]:
        wanted = f"indexes {INDEXES.start:#x} to {INDEXES.stop - 1:#x}"
        raise VerificationError("machine", "versions", expected=wanted, found=strange)
    kept = tuple(rollback.read(contents) for _, contents in found.versions)
    things = [str(one.thing) for one in kept]
    if len(set(things)) != len(things):
        raise VerificationError("machine", "versions", expected="one version of each thing", found=things)
    return kept


def check_application(quoted: Quoted, before: str, digests: Sequence[str]) -> None:
    """The application register was extended from `before` by `digests`, and by nothing else."""
    value = bytes.fromhex(before)
    for digest in digests:
        value = sha256(value, raw(digest))
    if quoted.registers[APPLICATION] != value:
        raise VerificationError(
            "machine", "application-register", expected=value.hex(), found=quoted.registers[APPLICATION].hex(),
            advice="the machine was told of another boot, job or result than the bundle shows",
        )  # fmt: skip


def check_same(first: Quoted, last: Quoted) -> None:
    """Both were quoted by one TPM in one boot, `last` later, and nothing but the application register has changed."""
    _equal("key", first.key.hex(), last.key.hex())
    _equal("boot", first.boot, last.boot)
    if last.clock_ms < first.clock_ms:
        raise VerificationError("machine", "clock", expected=f"{first.clock_ms} ms or later", found=last.clock_ms)
    changed = [r for r in range(APPLICATION) if first.registers[r] != last.registers[r]]
    if changed:
        raise VerificationError("machine", "changed", expected="registers as at the start", found=f"others: {changed}")


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError("machine", code, expected=expected, found=found)
