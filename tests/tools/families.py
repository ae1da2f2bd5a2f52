"""What the random models are built of: metadata and tensors of the parts that architectures share.

Names and shapes are those of llama.cpp 0c1e57098 (`src/llama-arch.cpp`, `src/models/*.cpp`). Shapes are in NumPy's
order: a matrix is (outputs, inputs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.tools.gguf_write import Value

Named = tuple[str, tuple[int, ...]]

EMBEDDING = 256
"""Columns of most matrices: one super-block of the K-quants."""
FEED_FORWARD = 512
LAYERS = 2
VOCABULARY = 512
CONTEXT = 4096


@dataclass(frozen=True)
class Family:
    """One model: enough to write its file."""

    name: str
    """Our name; also the file's."""
    architecture: str
    """llama.cpp's name of the architecture."""
    settings: Mapping[str, Value]
    """Metadata below `ARCHITECTURE.`."""
    tensors: tuple[Named, ...]
    """Names and shapes, in file order."""
    vocabulary: int = VOCABULARY
    """Number of tokens."""

    @property
    def identity(self) -> str:
        """Eight characters that change with anything above: a folder name for files that were made before."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is stored in the file's type; everything else is F32, as llama.cpp's converter has it."""
    plain = ("norm", "ffn_gate_inp", "ssm_conv1d", "ssm_a", "shortconv.conv", ".bias")
    return len(shape) > 1 and not any(part in name for part in plain)


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Standard deviation and mean of a tensor's values."""
    if "norm" in name and name.endswith(".weight"):
        return 0.1, 1.0
    if name.endswith("ssm_a"):
        return 0.1, -1.0  # a state that decays
    if name.startswith("token_embd"):
        return 1.0, 0.0
    if len(shape) == 1 or name.endswith(".bias"):
        return 0.1, 0.0
    return shape[-1] ** -0.5, 0.0


def settings(*, heads: int = 4, kv_heads: int = 2, rms: bool = True, **more: Value) -> dict[str, Value]:
    """The metadata that every architecture has. In the names of `more`, `__` stands for a dot."""
    epsilon = "attention.layer_norm_rms_epsilon" if rms else "attention.layer_norm_epsilon"
    return {
        "context_length": CONTEXT,
        "embedding_length": EMBEDDING,
        "block_count": LAYERS,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        epsilon: 1e-5,
        "rope.freq_base": 10000.0,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def norm(name: str, width: int = EMBEDDING, *, bias: bool = False) -> Iterator[Named]:
    """A norm, RMS or (with `bias`) of mean and variance."""
    yield f"{name}.weight", (width,)
    if bias:
        yield f"{name}.bias", (width,)


def linear(name: str, outputs: int, inputs: int, *, bias: bool = False) -> Iterator[Named]:
    """A matrix."""
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def attention(
    block: str,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head: int = 64,
    width: int = EMBEDDING,
    bias: bool = False,
    fused: bool = False,
    out_bias: bool = False,
) -> Iterator[Named]:
    """Query, key, value (in one matrix when `fused`) and output."""
    queries, keys = heads * head, kv_heads * head
    if fused:
        yield from linear(f"{block}attn_qkv", queries + 2 * keys, width, bias=bias)
    else:
        yield from linear(f"{block}attn_q", queries, width, bias=bias)
        yield from linear(f"{block}attn_k", keys, width, bias=bias)
        yield from linear(f"{block}attn_v", keys, width, bias=bias)
    yield from linear(f"{block}attn_output", width, queries, bias=out_bias)


def feed_forward(
    block: str, *, width: int = EMBEDDING, inner: int = FEED_FORWARD, gate: bool = True, bias: bool = False
) -> Iterator[Named]:
    """A feed-forward network, with a gate or without."""
    if gate:
        yield from linear(f"{block}ffn_gate", inner, width, bias=bias)
    yield from linear(f"{block}ffn_up", inner, width, bias=bias)
    yield from linear(f"{block}ffn_down", width, inner, bias=bias)


def experts(
    block: str,
    *,
    count: int = 8,
    inner: int = EMBEDDING,
    shared: int = 0,
    shared_gate: bool = False,
    bias: bool = False,
) -> Iterator[Named]:
    """`count` experts and their router; `shared`: the inner width of an expert that every token takes."""
    yield from linear(f"{block}ffn_gate_inp", count, EMBEDDING, bias=bias)
    for part, outputs, inputs in (("gate", inner, EMBEDDING), ("up", inner, EMBEDDING), ("down", EMBEDDING, inner)):
        yield f"{block}ffn_{part}_exps.weight", (count, outputs, inputs)
        if bias:
            yield f"{block}ffn_{part}_exps.bias", (count, outputs)
    if shared_gate:
        yield f"{block}ffn_gate_inp_shexp.weight", (EMBEDDING,)
    if shared:
        yield from linear(f"{block}ffn_gate_shexp", shared, EMBEDDING)
        yield from linear(f"{block}ffn_up_shexp", shared, EMBEDDING)
        yield from linear(f"{block}ffn_down_shexp", EMBEDDING, shared)


def family(
    name: str,
    body: Callable[[str, int], Iterator[Named]],
    values: Mapping[str, Value],
    *,
    architecture: str | None = None,
    tied: bool = False,
    bias: bool = False,
    output_bias: bool = False,
    extra: tuple[Named, ...] = (),
    last_norm: str = "output_norm",
    vocabulary: int = VOCABULARY,
) -> Family:
    """A family whose block number `i`, named by the prefix `blk.i.`, has the tensors of `body(prefix, i)`."""
    width, layers = values["embedding_length"], values["block_count"]
    assert isinstance(width, int) and isinstance(layers, int)
    tensors = [("token_embd.weight", (vocabulary, width)), *extra, *norm(last_norm, width, bias=bias)]
    if not tied:
        tensors += linear("output", vocabulary, width, bias=output_bias)
    for i in range(layers):
        tensors += body(f"blk.{i}.", i)
    return Family(name, architecture or name, dict(values), tuple(tensors), vocabulary)
