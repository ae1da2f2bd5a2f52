"""The x86-64-v3 engine's operators: every element has the same bits in every batch, position, cache and thread count.

One column, token or query computed alone by one thread is the reference; everything else has to repeat its bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT
from tests.tools.ggml_ops import TYPES, Floats, Ops, Packed

pytestmark = pytest.mark.engine

FOLDER = Path(os.environ.get("VITRINE_FAST_ENGINE", ROOT / "build" / "engine" / "x86-64-v3"))
STOCK = ROOT / "build" / "engine" / "stock"

WEIGHTS = sorted(set(TYPES) - {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})
"""Every type that a matrix of weights can have. The others are integers or the engine's own intermediate types."""
EXPERTS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
COLUMNS = 40


@pytest.fixture(scope="module")
def clean_environment() -> Iterator[None]:
    """No switch of the engine is set: one of them turns the tiled kernels off."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GGML_", "LLAMA_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def ops(clean_environment: None) -> Ops:
    """The operators of the fast engine."""
    if not (FOLDER / "record.json").exists():
        pytest.skip(f"no engine in {FOLDER}: run `make engine`")
    return Ops(FOLDER / "libllama.so")


@pytest.fixture(scope="module")
def stock(clean_environment: None) -> Ops:
    """The operators of the stock engine, the counter-example."""
    if not (STOCK / "record.json").exists():
        pytest.skip(f"no engine in {STOCK}: build the recipe images/engine/stock.toml")
    return Ops(STOCK / "libllama.so")


def floats(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def packed(ops: Ops, kind: str, seed: int, *shape: int) -> Packed:
    """Random weights. The types whose quantiser searches for seconds get random codes and sane scales instead."""
    if not kind.startswith(("IQ1", "IQ2", "IQ3")):
        return ops.pack(kind, floats(seed, *shape))
    _, weights, size = TYPES[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (int(np.prod(shape)) // weights, size), np.uint8)
    if kind == "IQ1_M":
        blocks[:, -1] = blocks[:, -1] & 0x0F | 0x20  # the top four bits of a float16 that is spread over the block
    else:
        blocks[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return Packed(kind, shape, blocks.tobytes())


def same(found: Floats, expected: Floats) -> bool:
    """Whether all bits agree, and are those of numbers."""
    return bool(np.isfinite(found).all()) and found.tobytes() == np.ascontiguousarray(expected).tobytes()


def shapes(kind: str) -> list[tuple[int, int]]:
    """Rows and row lengths: odd ones, ones that fit each fast kernel, one that takes several steps of the widest."""
    block = TYPES[kind][1]
    lengths = (7, 64, 100, 256) if block == 1 else (block, 3 * block, 9 * block, (8192 // block) * block)
    return list(zip((33, 64, 5, 132), lengths, strict=True))


def moved(ops: Ops, kind: str) -> list[str]:
    """Where a column's product with weights of `kind` has other bits than alone."""
    found = []
    for rows, length in shapes(kind):
        weights, columns = packed(ops, kind, 1, rows, length), floats(2, COLUMNS, length)
        alone = np.concatenate([ops.mul_mat(weights, columns[i : i + 1], 1) for i in range(COLUMNS)])
        runs = [(count, 1) for count in range(1, COLUMNS + 1)]
        runs += [(1, 2), (40, 2), (17, 3), (1, 4), (23, 4)] if rows in {33, 132} else []
        for count, threads in runs:
            picked = (np.arange(count) + 7 * count) % COLUMNS
            if not same(ops.mul_mat(weights, columns[picked], threads), alone[picked]):
                found.append(f"{rows}x{length}, {count} columns, {threads} threads")
    return found


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_product_has_the_same_bits_in_every_batch(ops: Ops, kind: str) -> None:
    assert moved(ops, kind) == []


WIDE_BLOCKS = {
    "Q2_K": (80, 84), "Q3_K": (108, 110), "Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 210), "IQ4_XS": (0, 2),
    "IQ1_S": (0, 2), "IQ2_XXS": (0, 2), "IQ2_XS": (0, 2), "IQ2_S": (0, 2), "IQ3_XXS": (0, 2), "IQ3_S": (0, 2),
}  # fmt: skip
"""The types that the tiled product serves, and where a block has its float16 scales (llama.cpp, ggml-common.h)."""


@pytest.mark.parametrize("kind", WIDE_BLOCKS)
def test_the_largest_codes_and_activations_overflow_nowhere(ops: Ops, kind: str) -> None:
    rows, length = 36, 512
    _, weights, size = TYPES[kind]
    generator = np.random.default_rng(14)
    # Rows whose bytes are all ones, all zeros, or a mixture of both: the largest magnitudes that codes and scales have.
    share = generator.choice([0.0, 0.5, 1.0], (rows, 1, 1))
    blocks = np.where(generator.random((rows, length // weights, size)) < share, 0xFF, 0).astype(np.uint8)
    start, end = WIDE_BLOCKS[kind]
    blocks[..., start:end] = np.tile(np.frombuffer(np.float16(0.01).tobytes(), np.uint8), (end - start) // 2)
    packed_rows = Packed(kind, (rows, length), blocks.tobytes())
    signs = np.concatenate([np.ones((2, length)), -np.ones((2, length)), generator.choice([-1.0, 1.0], (28, length))])
    columns = signs.astype(np.float32)
    alone = np.concatenate([ops.mul_mat(packed_rows, columns[i : i + 1], 1) for i in range(len(columns))])
    for count in (2, 3, 4, 7, 8, 12, 13, 16, 24, 32):
        assert same(ops.mul_mat(packed_rows, columns[:count], 1), alone[:count]), count


def test_the_gate_sees_that_the_stock_engine_moves(stock: Ops) -> None:
    assert {kind for kind in ("F32", "F16", "Q4_K", "IQ4_XS", "Q8_0") if moved(stock, kind)} >= {"F32", "F16", "Q4_K"}


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_K"])
def test_a_product_has_the_same_bits_in_every_plane(ops: Ops, kind: str) -> None:
    planes = [packed(ops, kind, seed, 36, 512) for seed in (3, 4)]
    weights = Packed(kind, (2, 36, 512), planes[0].data + planes[1].data)
    columns = floats(5, 3, 4, 19, 512)
    together = ops.mul_mat(weights, columns, 2)
    for outer in range(3):
        for head in range(4):
            alone = ops.mul_mat(planes[head // 2], columns[outer, head, 5:6], 1)
            assert same(together[outer, head, 5:6], alone), (outer, head)


@pytest.mark.parametrize("width", [64, 100, 2048])
def test_a_norm_has_the_same_bits_in_every_batch(ops: Ops, width: int) -> None:
    rows, gain = floats(12, COLUMNS, width), floats(13, width)
    alone = np.concatenate([ops.norm(rows[i : i + 1], gain, 1) for i in range(COLUMNS)])
    for count, threads in [(count, 1) for count in range(1, COLUMNS + 1)] + [(40, 2), (9, 4)]:
        picked = (np.arange(count) + 3 * count) % COLUMNS
        assert same(ops.norm(rows[picked], gain, threads), alone[picked]), (count, threads)


@pytest.mark.parametrize("kind", EXPERTS)
def test_an_expert_has_the_same_bits_in_every_batch(ops: Ops, kind: str) -> None:
    experts, tokens = packed(ops, kind, 5, 4, 36, 512), floats(6, COLUMNS, 1, 512)
    # Half of the tokens choose the same two experts, so that some get many rows and some few.
    chosen = np.argsort(floats(7, COLUMNS, 4), axis=1)[:, :2].astype(np.int32)
    chosen[::2] = (2, 0)
    alone = np.concatenate([ops.mul_mat_id(experts, tokens[i : i + 1], chosen[i : i + 1], 1) for i in range(COLUMNS)])
    for count, threads in [(count, 1) for count in range(1, COLUMNS + 1)] + [(40, 2), (9, 3), (40, 4)]:
        picked = (np.arange(count) + 3 * count) % COLUMNS
        assert same(ops.mul_mat_id(experts, tokens[picked], chosen[picked], threads), alone[picked]), (count, threads)


class Case(NamedTuple):
    """One form of attention: types of keys and values, sizes of a head, heads, heads of keys, and further arguments."""

    keys: str
    values: str
    width: int
    depth: int
    heads: int
    groups: int
    more: dict[str, Any] = {}  # noqa: RUF012


ATTENTION = [
    Case("F16", "F16", 64, 64, 4, 4),
    Case("F16", "F16", 80, 80, 6, 2),
    Case("F16", "F16", 128, 128, 8, 2),
    Case("F16", "F16", 256, 256, 2, 1),
    Case("F16", "F16", 576, 512, 16, 1),
    Case("F16", "F16", 96, 96, 6, 6, {"alibi": 8.0}),
    Case("F16", "F16", 128, 128, 8, 2, {"softcap": 30.0}),
    Case("F16", "F16", 64, 64, 8, 2, {"sinks": floats(8, 8)}),
    Case("F32", "F32", 100, 100, 4, 2),
    Case("BF16", "BF16", 64, 64, 4, 2),
    Case("Q8_0", "Q8_0", 128, 128, 8, 2),
    Case("Q8_0", "F16", 64, 64, 4, 2),
    Case("Q4_0", "Q4_0", 64, 64, 4, 2),
]


def causal(case: Case, cache: int, count: int) -> NDArray[np.float16]:
    """The mask of the last `count` tokens of a sequence: each sees the keys up to its own position."""
    distance = np.arange(cache) - (np.arange(count) + cache - count)[:, None]
    bias = distance if "alibi" in case.more else np.zeros_like(distance)
    return np.where(distance <= 0, bias, -np.inf).astype(np.float16)[None, None]


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: "-".join(map(str, [*case[:6], *case.more])))
def test_attention_has_the_same_bits_in_every_batch_and_cache(ops: Ops, case: Case) -> None:
    for cache in (1, 2, 63, 65, 200, 513) if case.width > 100 else (1, 64, 129, 512, 2100):
        count = min(COLUMNS, cache)
        queries = floats(9, 1, case.heads, count, case.width)
        keys = packed(ops, case.keys, 10, 1, case.groups, cache, case.width)
        values = packed(ops, case.values, 11, 1, case.groups, cache, case.depth)
        mask = causal(case, cache, count)
        alone = [one(ops, case, queries, keys, values, mask, i) for i in range(count)]
        runs = [(size, 1) for size in {*range(1, min(count, 9)), 15, 16, 17, 31, 32, 33, count} if size <= count]
        for size, threads in runs + ([(count, 2), (1, 3), (count, 4)] if cache in {65, 129} else []):
            picked = (np.arange(size) + 7 * size) % count
            found = ops.attention(queries[:, :, picked], keys, values, mask[:, :, picked], threads, **case.more)
            assert same(found, np.concatenate([alone[i] for i in picked], axis=1)), (cache, size, threads)
        # The cache as it was when the query's own token was decoded: later cells did not exist yet.
        for i in {0, count // 2, count - 1}:
            then = cache - count + i + 1
            shorter = keys.head(2, then), values.head(2, then), mask[..., :then]
            assert same(one(ops, case, queries, *shorter, i), alone[i]), (cache, i)


def one(
    ops: Ops, case: Case, queries: Floats, keys: Packed, values: Packed, mask: NDArray[np.float16], i: int
) -> Floats:
    """The attention of query `i` alone, computed by one thread."""
    return ops.attention(queries[:, :, i : i + 1], keys, values, mask[:, :, i : i + 1], 1, **case.more)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_stream_has_the_same_bits_beside_others(ops: Ops, kind: str) -> None:
    case = Case(kind, kind, 64, 64, 4, 2)
    queries, mask = floats(14, 3, 4, 1, 64), np.repeat(causal(case, 300, 1), 3, axis=0)
    mask[1, ..., 70:] = -np.inf  # a shorter sequence
    caches = [[packed(ops, kind, seed + stream, 1, 2, 300, 64) for stream in range(3)] for seed in (20, 30)]
    keys, values = (Packed(kind, (3, 2, 300, 64), b"".join(part.data for part in cache)) for cache in caches)
    together = ops.attention(queries, keys, values, mask, 2)
    for stream in range(3):
        own = caches[0][stream], caches[1][stream], mask[stream : stream + 1]
        assert same(together[stream : stream + 1], ops.attention(queries[stream : stream + 1], *own, 1)), stream


@pytest.mark.parametrize("rubbish", [np.inf, -np.inf, np.nan, 60000.0])
def test_what_lies_behind_the_mask_has_no_influence(ops: Ops, rubbish: float) -> None:
    case = Case("F16", "F16", 64, 64, 4, 2)
    queries, mask = floats(15, 1, 4, 20, 64), causal(case, 150, 20)
    mask[..., 40:90] = -np.inf  # the cells of another sequence
    clean = [floats(seed, 1, 2, 150, 64) for seed in (16, 17)]
    dirty = [values.copy() for values in clean]
    for values in dirty:
        values[..., 40:90, :] = rubbish
        values[..., 149, :] = rubbish  # seen by the last query only
    expected = ops.attention(queries, *(ops.pack("F16", values) for values in clean), mask, 1)
    found = ops.attention(queries, *(ops.pack("F16", values) for values in dirty), mask, 1)
    assert same(found[:, :19], expected[:, :19])
