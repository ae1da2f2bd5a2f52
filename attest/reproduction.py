"""Another run of the same thing, beside a verified one: were the same samples drawn, down to the bits?

Both bundles are verified by their own lab's trusted root before they come here. What decides a sample is compared
first: the models, suites and data sets by digest, the seed, the sampling, the contract and the context. Then every
record that both runs hold, byte for byte: all of them (`reproduced`), or those that the second run drew again
(`sampled`). One difference is a rejection that names sample and token.

What it does not show: that the two labs are independent (two trusted roots are two names), and, of samples that nobody
drew again, anything. Doctored records hide from a sample of m of n with a chance that `chance` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from attest import canonical
from attest.canonical import JSON
from attest.errors import VerificationError
from attest.job import Job
from attest.lockfile import Lockfile

if TYPE_CHECKING:
    from attest.verify import Verified

LAYER = "reproduction"
PLACE = ("index",)
"""What a record says of its place in its own run, and not of the sample."""
Key = tuple[str, str, str]
"""Model, suite and id."""


@dataclass(frozen=True)
class Reproduction:
    """A second run that agrees with the first."""

    issuer: str
    """The lab that signed it, by its trusted root."""
    same_lab: bool
    """Whether that is the first run's lab, by its name or its trusted root."""
    same_engine: bool
    """Whether the engine's library was the same file."""
    compared: int
    """Samples that both runs hold, every one the same."""
    samples: int
    """Samples of the first run."""

    @property
    def whole(self) -> bool:
        """Whether every sample was drawn again."""
        return self.compared == self.samples

    def describe(self) -> str:
        """One sentence."""
        who = "the same lab" if self.same_lab else f"another lab, {self.issuer},"
        what = "all" if self.whole else f"{self.compared} of"
        engine = "" if self.same_engine else ", with another build of the engine"
        return f"{who} drew {what} {self.samples} samples again{engine}: the same records, byte for byte"


def add(verified: Verified, reruns: Sequence[Verified]) -> Verified:
    """`verified`, and what `reruns` add to it. Raises `VerificationError` (layer `reproduction`)."""
    if len({(rerun.issuer, rerun.log_index) for rerun in reruns}) < len(reruns):
        raise VerificationError(
            LAYER, "same-run", expected="reruns that are runs of their own", found="one given twice"
        )
    found = tuple(compare(verified, rerun) for rerun in reruns)
    if not found:
        return verified
    whole = any(each.whole for each in found)
    doubt = "that the outputs come from the model"
    left = [line for line in verified.not_proven if not line.startswith(doubt)]
    if not whole:
        most = max(each.compared for each in found)
        rest = len(verified.transcript.samples) - most
        hidden = chance(len(verified.transcript.samples), 1 + (len(verified.transcript.samples) - 1) // 100, most)
        left.append(
            f"{doubt}: {rest} samples were not drawn again (were one in a hundred doctored, and the samples picked "
            f"by chance, all would be missed with probability {float(hidden):.2g})"
        )
    if all(each.same_lab for each in found):
        left.append("that anybody but this lab finds the same: every rerun is its own")
    else:
        left.append("that the labs did not agree with each other to say the same")
    return replace(
        verified,
        reproductions=found,
        proven=(*verified.proven, *(each.describe() for each in found)),
        not_proven=tuple(left),
    )


def compare(first: Verified, second: Verified) -> Reproduction:
    """What `second` says of `first`. Raises `VerificationError`: `same-run`, `settings`, `artifacts`, `none-in-common`,
    `divergent`."""
    if (first.issuer, first.log_index) == (second.issuer, second.log_index):
        raise VerificationError(LAYER, "same-run", expected="another run", found="the same entry of the same lab's log")
    _equal("settings", _settings(first.job), _settings(second.job))
    ours, theirs = _records(first), _records(second)
    common = [key for key in ours if key in theirs]
    if not common:
        raise VerificationError(
            LAYER, "none-in-common", expected="samples of the same models and suites", found="none with the same ids"
        )
    _equal("artifacts", _artifacts(first.lock, common), _artifacts(second.lock, common))
    for key in common:
        _same(key, ours[key], theirs[key])
    return Reproduction(
        issuer=second.issuer,
        # By its name too: one lab may hand out its trusted root in two spellings.
        same_lab=first.issuer == second.issuer or first.trusted_root == second.trusted_root,
        same_engine=first.manifest.engine.library == second.manifest.engine.library,
        compared=len(common),
        samples=len(ours),
    )


def chance(samples: int, doctored: int, picked: int) -> Fraction:
    """The probability that none of `doctored` samples is among `picked` ones, drawn from `samples` by chance."""
    found = Fraction(1)
    for number in range(picked):
        left = samples - number
        found *= Fraction(max(0, left - doctored), left)
    return found


def _settings(job: Job) -> dict[str, JSON]:
    """What decides samples besides the artifacts. Threads and batches do not, under the exact contract."""
    return {
        "seed": job.seed,
        "sampling": job.sampling.model_dump(mode="json"),
        "context_tokens": job.limits.context_tokens,
        "contract": job.numerics.contract,
        "kv": job.numerics.kv,
    }


def _artifacts(lock: Lockfile, common: Sequence[Key]) -> dict[str, str]:
    """The digests of the models, suites and data sets that the samples in common are made with."""
    models, suites = {model for model, _, _ in common}, {suite for _, suite, _ in common}
    parts = tuple(f"{suite}." for suite in suites)
    return {
        f"{item.kind} {item.name}": item.digest
        for item in lock.artifacts
        if (item.kind == "model" and item.name in models)
        or (item.kind == "suite" and item.name in suites)
        or (item.kind == "dataset" and (item.name in suites or item.name.startswith(parts)))
    }


def _records(verified: Verified) -> dict[Key, Mapping[str, JSON]]:
    found: dict[Key, Mapping[str, JSON]] = {}
    for line in verified.transcript.samples:
        record = line.record
        assert isinstance(record, dict)  # verified: it is a sample record
        key = (str(record["model"]), str(record["suite"]), str(record["id"]))
        found[key] = {name: value for name, value in record.items() if name not in PLACE}
    return found


def _same(key: Key, ours: Mapping[str, JSON], theirs: Mapping[str, JSON]) -> None:
    if canonical.dumps(dict(ours)) == canonical.dumps(dict(theirs)):
        return
    place, left, right = difference(dict(ours), dict(theirs))
    model, suite, name = key
    raise VerificationError(
        LAYER,
        "divergent",
        expected=f"sample {name!r} of {suite} on {model}: at {place} {left!r:.120}",
        found=f"{right!r:.120}",
        advice="Run it once more on both machines: the one that differs from itself is not deterministic",
    )


def difference(ours: JSON, theirs: JSON, place: str = "") -> tuple[str, JSON, JSON]:
    """Where two values first differ, and what stands there; tokens before anything that follows from them."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        first = ("prompt_tokens", "tokens", "events", "generation")
        for name in (*first, *sorted({*ours, *theirs} - set(first))):
            left, right = ours.get(name), theirs.get(name)
            if left != right:
                return difference(left, right, f"{place}.{name}".removeprefix("."))
    if isinstance(ours, list) and isinstance(theirs, list):
        for number, (left, right) in enumerate(zip(ours, theirs, strict=False)):
            if left != right:
                return difference(left, right, f"{place}[{number}]")
        return f"{place}, its length", len(ours), len(theirs)
    return place, ours, theirs


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(
            LAYER, code, expected=expected, found=found, advice="Compare with a run of the same job and lock"
        )
