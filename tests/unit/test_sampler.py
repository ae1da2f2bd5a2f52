"""The sampler: accurate arithmetic, known randomness, the distribution that the settings say, and nothing else."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.runtime import sampler
from attest.job import Sampling

FINITE = st.floats(-60, 60, width=32)
VECTORS = st.lists(FINITE, min_size=1, max_size=20)


def logits(*values: float) -> sampler.Logits:
    return np.array(values, dtype=np.float32)


def sampling(**values: Any) -> Sampling:
    return Sampling(**{"temperature": "1", **values})


def drawn(values: sampler.Logits, how: Sampling, count: int) -> Counter[int]:
    """How often each token is chosen at the first `count` positions."""
    return Counter(sampler.choose(values, how, 1, "s", position).token for position in range(count))


def ulps(found: float, exact: Decimal) -> float:
    return float(abs(Decimal(found) - exact) / Decimal(math.ulp(float(exact))))


# -- arithmetic -------------------------------------------------------------------------------------------------------


def test_exp_is_within_two_units_in_the_last_place() -> None:
    random = np.random.default_rng(1)
    points = np.concatenate(
        [-random.random(400), -random.random(400) * 700, -(10.0 ** -(random.random(50) * 300)), [0.0, -700.0, -0.34657]]
    )
    with localcontext() as context:
        context.prec = 40
        worst = max(
            ulps(found, Decimal(x).exp())
            for x, found in zip(points.tolist(), sampler.exp(points).tolist(), strict=True)
        )
    assert worst <= 2


def test_exp_at_its_edges() -> None:
    x = np.array([0.0, -0.0, -5e-324, -700.0, np.nextafter(-700.0, -np.inf), -701.0, -1e308, -np.inf])
    found = sampler.exp(x)
    assert found[:3].tolist() == [1.0, 1.0, 1.0]
    assert found[3] > 0
    assert found[4:].tolist() == [0.0] * 4


@given(st.floats(-699, 0), st.floats(-699, 0))
def test_exp_grows(a: float, b: float) -> None:
    low, high = sampler.exp(np.array(sorted((a, b)))).tolist()
    assert low <= high or ulps(low, Decimal(high)) <= 2


def test_log_is_within_three_units_in_the_last_place() -> None:
    random = np.random.default_rng(2)
    points = [
        *(1 + random.random(600) * 0.4),
        *(0.7 + random.random(300) * 0.3),
        *(1 + random.random(300) * 200_000),
        *(10.0 ** (random.random(200) * 600 - 300)),
        *(1 + 10.0 ** -(random.random(50) * 15)),
        1.0631983301619095,
        0.7071067811865476,
        0.7071067811865475,
        2.0,
        5e-324,
        1.7976931348623157e308,
    ]
    with localcontext() as context:
        context.prec = 40
        worst = max((ulps(sampler.log(float(x)), Decimal(float(x)).ln()), float(x)) for x in points)
    assert worst[0] <= 3, worst


def test_log_of_one_is_zero() -> None:
    assert sampler.log(1.0) == 0.0
    assert sampler.log(math.e) == pytest.approx(1, rel=1e-15)


@settings(max_examples=50)
@given(VECTORS)
def test_log_probabilities_are_those_of_a_softmax(values: list[float]) -> None:
    vector = logits(*values)
    total = math.fsum(math.exp(float(value) - float(vector.max())) for value in vector)
    for token, value in enumerate(vector):
        expected = float(value) - float(vector.max()) - math.log(total)
        assert math.isclose(sampler.logprob(vector, token), expected, rel_tol=1e-14, abs_tol=1e-13)


@settings(max_examples=40)
@given(VECTORS, st.sampled_from([-512.0, -1.0, 8.0, 1024.0]))
def test_log_probabilities_do_not_depend_on_a_shift(values: list[float], shift: float) -> None:
    whole = logits(*(round(value) for value in values))
    for token in range(len(values)):
        assert sampler.logprob(whole, token) == sampler.logprob(whole + np.float32(shift), token)


def test_logits_of_any_size_are_fine() -> None:
    vector = logits(3e38, -3e38, 3e38, 0)
    assert sampler.logprob(vector, 0) == pytest.approx(-math.log(2))
    assert sampler.logprob(vector, 1) == pytest.approx(-6e38, rel=1e-6)
    for temperature in ("0.000000000001", "1", "999999999"):
        assert set(drawn(vector, sampling(temperature=temperature), 30)) == {0, 2}
    assert sampler.logprob(logits(7), 0) == 0.0
    assert sampler.choose(logits(-3e38), sampling(), 0, "", 0) == sampler.Draw(0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("how", [sampling(temperature="0"), sampling(), sampling(top_k=1), sampling(min_p="0.5")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_logits_that_are_not_finite_are_refused(bad: float, at: int, how: Sampling) -> None:
    vector = logits(1, 2, 3)
    vector[at] = bad
    with pytest.raises(ValueError, match="finite"):
        sampler.choose(vector, how, 1, "s", 0)
    with pytest.raises(ValueError, match="finite"):
        sampler.logprob(vector, 0)


def test_no_logits_are_refused() -> None:
    for how in (sampling(), sampling(temperature="0")):
        with pytest.raises(ValueError, match="empty"):
            sampler.choose(logits(), how, 1, "s", 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0.000000"), (-1e-9, "0.000000"), (-1.5, "-1.500000"), (-1234.56789, "-1234.567890"), (0.0, "0.000000")],
)
def test_decimals(value: float, text: str) -> None:
    assert sampler.decimal(value) == text


# -- randomness -------------------------------------------------------------------------------------------------------


def test_uniform_is_the_documented_hash() -> None:
    for seed, stream, position in ((0, "", 0), (7, "arc/a", 3), (2**53 - 1, "\u00e9\U0001f600", 2**40)):
        name = stream.encode()
        data = seed.to_bytes(8, "big") + len(name).to_bytes(4, "big") + name + position.to_bytes(8, "big")
        bits = int.from_bytes(hashlib.sha256(b"vitrine/sampler/v1" + data).digest()[:8], "big")
        assert sampler.uniform(seed, stream, position) == (bits >> 11) / 2**53
    assert sampler.uniform(1, "s", 0) == 0.9711709584488399


@given(st.integers(0, 2**53 - 1), st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**32))
def test_uniform_is_in_the_half_open_unit_interval(seed: int, stream: str, position: int) -> None:
    assert 0 <= sampler.uniform(seed, stream, position) < 1


def test_uniform_differs_in_every_argument() -> None:
    points = itertools.product((0, 1, 256), ("", "a", "b", "a\0"), (0, 1, 256))
    assert len({sampler.uniform(*point) for point in points}) == 36


def test_the_same_draw_comes_out_alone_and_in_any_order() -> None:
    random = np.random.default_rng(3)
    vectors = [random.normal(0, 3, 50).astype(np.float32) for _ in range(20)]
    how = sampling(top_k=30, top_p="0.9", min_p="0.01", temperature="0.8")
    forward = [sampler.choose(vector, how, 9, "s", at) for at, vector in enumerate(vectors)]
    backward = [sampler.choose(vectors[at], how, 9, "s", at) for at in reversed(range(20))]
    assert forward == backward[::-1]
    assert len({draw.token for draw in forward}) > 5


def test_logits_are_left_alone_and_their_layout_does_not_matter() -> None:
    vector = np.random.default_rng(4).normal(0, 3, 64).astype(np.float32)
    before = vector.tobytes()
    wide = np.stack([vector, np.zeros_like(vector)], axis=1)[:, 0]
    assert not wide.flags["C_CONTIGUOUS"]
    for how in (sampling(temperature="0"), sampling(top_k=5), sampling(top_p="0.5", min_p="0.1")):
        assert sampler.choose(vector, how, 1, "s", 2) == sampler.choose(wide, how, 1, "s", 2)
    assert vector.tobytes() == before


def test_known_draws() -> None:
    vector = logits(*(((number * 37) % 23) / 4 for number in range(40)))
    how = sampling(temperature="0.9", top_k=20, top_p="0.95", min_p="0.02")
    draws = [sampler.choose(vector, how, 42, "suite/000001", position) for position in range(12)]
    assert [draw.token for draw in draws] == [18, 8, 13, 18, 26, 24, 3, 18, 13, 18, 18, 18]
    assert [sampler.decimal(draw.logprob) for draw in draws[:3]] == ["-2.009487", "-2.509487", "-2.259487"]


# -- settings ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(VECTORS, st.integers(0, 99))
def test_temperature_zero_takes_the_likeliest_and_the_first_of_equals(values: list[float], position: int) -> None:
    vector = logits(*values)
    how = sampling(temperature="0", top_k=3, top_p="0.1", min_p="0.5")
    draw = sampler.choose(vector, how, 1, "s", position)
    assert draw.token == vector.tolist().index(max(vector.tolist()))
    assert draw.logprob == sampler.logprob(vector, draw.token)


def test_signed_zeros_are_equal() -> None:
    assert sampler.choose(logits(-1, -0.0, 0.0), sampling(temperature="0"), 1, "s", 0).token == 1
    assert set(drawn(logits(-0.0, 0.0), sampling(), 50)) == {0, 1}
    assert set(drawn(logits(-0.0, 0.0), sampling(top_k=1), 50)) == {0}


@pytest.mark.parametrize("temperature", ["1", "0.5", "2.5"])
def test_the_distribution_is_the_softmax(temperature: str) -> None:
    vector, count = logits(0.0, 1.0, -1.5, 2.0, 0.5, 2.0, -0.25, 1.75), 3000
    weights = [math.exp(float(value) / float(temperature)) for value in vector]
    found = drawn(vector, sampling(temperature=temperature), count)
    expected = [count * weight / math.fsum(weights) for weight in weights]
    statistic = sum((found[token] - want) ** 2 / want for token, want in enumerate(expected))
    assert statistic < 24.32  # chi-square, 7 degrees of freedom, p = 0.001; the seed is fixed


def test_the_distribution_of_what_is_kept_is_rescaled() -> None:
    vector, count = logits(*(math.log(weight) for weight in (5, 3, 1, 0.5, 0.5))), 2000
    found = drawn(vector, sampling(top_k=3), count)
    statistic = sum(
        (found[token] - count * share / 9) ** 2 / (count * share / 9) for token, share in enumerate((5, 3, 1))
    )
    assert set(found) == {0, 1, 2}
    assert statistic < 13.82  # 2 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {0, 1, 3}),
        ({"top_k": 4}, {0, 1, 2, 3}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": "0"}, {1}),
        ({"top_p": "0.39"}, {1}),
        ({"top_p": "0.41"}, {1, 3}),
        ({"top_p": "0.69"}, {1, 3}),
        ({"top_p": "0.71"}, {0, 1, 3}),
        ({"top_p": "0.79"}, {0, 1, 3}),
        ({"top_p": "0.81"}, {0, 1, 2, 3}),
        ({"top_p": "0.999999"}, {0, 1, 2, 3, 4}),
        ({"min_p": "1"}, {1}),
        ({"min_p": "0.76"}, {1}),
        ({"min_p": "0.74"}, {1, 3}),
        ({"min_p": "0.24"}, {0, 1, 2, 3, 4}),
        ({"top_k": 2, "top_p": "0.56"}, {1}),
        ({"top_k": 2, "top_p": "0.58"}, {1, 3}),
        ({"top_p": "0.9", "min_p": "0.74"}, {1, 3}),
        ({"top_p": "0.71", "min_p": "0.76"}, {1}),
        ({"top_p": "0", "min_p": "1", "top_k": 1}, {1}),
    ],
)
def test_what_is_kept(how: dict[str, Any], kept: set[int]) -> None:
    # 40, 30, 10, 10 and 10 %; of the equal ones the lower ids come first.
    vector = logits(*(math.log(weight) for weight in (0.1, 0.4, 0.1, 0.3, 0.1)))
    assert set(drawn(vector, sampling(**how), 200)) == kept


def test_ties_at_the_border_go_to_the_lower_id() -> None:
    vector = logits(1, 1, 1, 1)
    assert set(drawn(vector, sampling(top_k=2), 60)) == {0, 1}
    assert set(drawn(vector, sampling(top_p="0.6"), 90)) == {0, 1, 2}
    assert set(drawn(vector, sampling(min_p="1"), 90)) == {0, 1, 2, 3}


def reference(vector: Sequence[float], how: Sampling, u: float) -> int:
    """The documented meaning of the settings, in plain Python with the C library's `exp`."""
    order = sorted(range(len(vector)), key=lambda token: (-vector[token], token))
    order = order[: how.top_k or len(order)]
    weight = {token: math.exp((vector[token] - max(vector)) / float(how.temperature)) for token in order}
    kept, before = [], 0.0
    for token in order:
        if not kept or (before < float(how.top_p) * sum(weight.values()) and weight[token] >= float(how.min_p)):
            kept.append(token)
        before += weight[token]
    left = u * sum(weight[token] for token in kept)
    for token in kept:
        left -= weight[token]
        if left < 0:
            return token
    return kept[-1]


@settings(max_examples=120, derandomize=True)
@given(
    st.lists(st.integers(-40, 40).map(lambda number: number / 4), min_size=1, max_size=12),
    st.sampled_from(["0.1", "0.7", "1", "3"]),
    st.integers(0, 13),
    st.sampled_from(["0", "0.13", "0.5", "0.93", "1"]),
    st.sampled_from(["0", "0.011", "0.3", "1"]),
    st.integers(0, 999),
)
def test_against_a_plain_implementation(
    values: list[float], temperature: str, top_k: int, top_p: str, min_p: str, position: int
) -> None:
    how = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found = sampler.choose(logits(*values), how, 5, "s", position)
    assert found.token == reference(values, how, sampler.uniform(5, "s", position))
    assert found.logprob == sampler.logprob(logits(*values), found.token)
