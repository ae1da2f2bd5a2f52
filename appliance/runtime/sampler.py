"""The sampler: a pure function of (logits, settings, seed, stream, position), so that any position replays alone.

Randomness is counter-based: SHA-256 over seed, stream and position gives 53 bits. The arithmetic is float64 and uses
only operations that IEEE 754 rounds correctly (`exp` and `log` are polynomials of our own; sums run left to right),
because the C library's and NumPy's transcendental functions differ between processors in the last bit.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attest.job import Sampling

LABEL = b"vitrine/sampler/v1"
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238  # fdlibm e_exp.c: the high 32 bits of ln 2 ...
LN2_LOW = 1.9082149292705877e-10  # ... and the rest
EXP_FLOOR = -700.0
EXP_TERMS = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))
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


def choose(logits: Logits, settings: Sampling, seed: int, stream: str, position: int) -> Draw:
    """The token at `position`. Ties go to the lower id. Raises `ValueError` for logits that are not finite."""
    _check_finite(logits)
    token = int(np.argmax(logits))
    temperature = float(settings.temperature)
    if temperature > 0:
        token = _sample(logits, temperature, settings, uniform(seed, stream, position))
    return Draw(token, logprob(logits, token))


def logprob(logits: Logits, token: int) -> float:
    """Log-probability of `token` in nats. Raises `ValueError` for logits that are not finite."""
    _check_finite(logits)
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token]) - log(float(np.cumsum(exp(shifted))[-1]))


def _check_finite(logits: Logits) -> None:
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, found infinities or NaN")


def _sample(logits: Logits, temperature: float, settings: Sampling, u: float) -> int:
    order = np.argsort(-logits, kind="stable")
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


def exp(x: Vector) -> Vector:
    """e**x for x <= 0, within 2 units in the last place; below `EXP_FLOOR` it is 0. Same bits on every processor."""
    clipped = np.maximum(x, EXP_FLOOR)
    k = np.rint(clipped * LOG2_E)
    r = (clipped - k * LN2_HIGH) - k * LN2_LOW
    total = np.full_like(r, EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        total = total * r + term
    value = np.ldexp(total, k.astype(np.int32))
    return np.where(x < EXP_FLOOR, 0.0, value)


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
