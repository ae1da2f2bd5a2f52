"""The sampler: a pure function of (logits, settings, seed, stream, position), so that any position replays alone.

Randomness is counter-based: SHA-256 over seed, stream and position gives 53 bits. The arithmetic is float64 and uses
only operations that IEEE 754 rounds correctly (`exp` and `log` are polynomials of our own; sums run left to right),
because the C library's and NumPy's transcendental functions differ between processors in the last bit.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attest.job import Sampling

LABEL = b"vitrine/sampler/v1"
EXP_STEPS = 64
STEPS_A_NAT = 92.33248261893664  # EXP_STEPS / ln 2
LN2_HIGH = 0.6931471803691238  # fdlibm e_exp.c: the high 32 bits of ln 2 ...
LN2_LOW = 1.9082149292705877e-10  # ... and the rest
EXP_FLOOR = -700.0
EXP_TERMS = tuple(1.0 / math.factorial(n) for n in range(5, -1, -1))
POWERS = np.array([float(Context(prec=40).power(Decimal(2), Decimal(j) / EXP_STEPS)) for j in range(EXP_STEPS)])
"""2**(j / 64), each the float64 that is nearest."""
BLOCK = 4096
"""Numbers that are worked on at a time: what does not leave the first cache is three times as fast."""
LOG_TERMS = tuple(2.0 / n for n in range(27, 0, -2))

Logits = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """A chosen token and its log-probability under the model's own distribution (temperature 1)."""

    token: int
    logprob: float


def uniform(seed: int, stream: str, position: int) -> float:
    """A float64 in [0, 1) with 53 random bits; `stream` names the sample, `position` counts its tokens."""
    name = stream.encode()
    data = LABEL + seed.to_bytes(8, "big") + len(name).to_bytes(4, "big") + name + position.to_bytes(8, "big")
    return (int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 11) * 2.0**-53


class Constraint(Protocol):
    """What may be drawn, beside the settings."""

    def permits(self, token: int) -> bool:
        """Whether `token` may come next."""

    def mask(self, logits: Logits) -> Logits:
        """A copy of `logits` that has minus infinity wherever a token may not come next, and nowhere else."""


def choose(
    logits: Logits, settings: Sampling, seed: int, stream: str, position: int, constraint: Constraint | None = None
) -> Draw:
    """The token at `position`. Ties go to the lower id. Raises `ValueError` for logits that are not finite.

    With a constraint, the token is drawn from what it leaves over; the log-probability stays that of the model.
    """
    _check_finite(logits)
    temperature = float(settings.temperature)
    if temperature > 0:
        allowed = logits if constraint is None else constraint.mask(logits)
        token = _sample(allowed, temperature, settings, uniform(seed, stream, position))
    else:
        token = int(np.argmax(logits))
        if constraint is not None and not constraint.permits(token):
            token = int(np.argmax(constraint.mask(logits)))
    return Draw(token, logprob(logits, token))


def logprob(logits: Logits, token: int) -> float:
    """Log-probability of `token` in nats. Raises `ValueError` for logits that are not finite."""
    _check_finite(logits)
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token]) - log(float(np.cumsum(exp(shifted))[-1]))


def _check_finite(logits: Logits) -> None:
    if not len(logits):
        raise ValueError("expected logits, found an empty row")
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, found infinities or NaN")


def _sample(logits: Logits, temperature: float, settings: Sampling, u: float) -> int:
    order = _falling(logits)
    if settings.top_k:
        order = order[: settings.top_k]
    scaled = (logits[order].astype(np.float64) - float(logits.max())) / temperature
    weights = exp(scaled)
    keep = weights >= float(settings.min_p) * weights[0]
    mass = np.cumsum(weights)
    keep &= np.concatenate(([0.0], mass[:-1])) < float(settings.top_p) * mass[-1]
    keep[0] = True
    kept = order[keep]
    mass = np.cumsum(weights[keep])
    return int(kept[min(int(np.searchsorted(mass, u * mass[-1], side="right")), len(kept) - 1)])


def _falling(logits: Logits) -> NDArray[np.int64]:
    """Token ids by falling logit, equal ones by rising id. Sorted as integers, which is faster than a stable sort."""
    bits = (logits + np.float32(0)).view(np.uint32)  # minus zero becomes zero
    rising = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
    keys = (~rising).astype(np.uint64) << np.uint64(32) | np.arange(len(logits), dtype=np.uint64)
    return (np.sort(keys) & np.uint64(0xFFFFFFFF)).astype(np.int64)


def exp(x: Vector) -> Vector:
    """e**x for x <= 0, within 2 units in the last place; below `EXP_FLOOR` it is 0. Same bits on every processor."""
    value = np.empty_like(x)
    for at in range(0, len(x), BLOCK):
        value[at : at + BLOCK] = _exp(x[at : at + BLOCK])
    return value


def _exp(x: Vector) -> Vector:
    """x = n * ln 2 / 64 + r; e**x = 2**(n // 64) * 2**(n % 64 / 64) * e**r, with |r| below 0.0055."""
    clipped = np.maximum(x, EXP_FLOOR)
    n = np.rint(clipped * STEPS_A_NAT)
    r = (clipped - n * (LN2_HIGH / EXP_STEPS)) - n * (LN2_LOW / EXP_STEPS)
    total = r * EXP_TERMS[0] + EXP_TERMS[1]
    for term in EXP_TERMS[2:]:
        total *= r
        total += term
    steps = n.astype(np.int64)
    total *= POWERS[steps & (EXP_STEPS - 1)]
    total *= ((steps >> 6) + 1023 << 52).view(np.float64)
    total[x < EXP_FLOOR] = 0.0
    return total


def log(x: float) -> float:
    """ln x for x > 0, within 3 units in the last place. Same bits on every processor."""
    mantissa, exponent = math.frexp(x)
    if mantissa < 0.7071067811865476:
        mantissa, exponent = mantissa * 2, exponent - 1
    f = (mantissa - 1) / (mantissa + 1)
    square, total = f * f, 0.0
    for term in LOG_TERMS:
        total = total * square + term
    return exponent * LN2_HIGH + (exponent * LN2_LOW + f * total)


def decimal(value: float) -> str:
    """A log-probability as it stands in a transcript: six places, no negative zero."""
    text = f"{value:.6f}"
    return "0.000000" if text == "-0.000000" else text
