"""Random models whose past is a running state, alone or beside attention: Mamba and two kinds of hybrids."""

from __future__ import annotations

from collections.abc import Iterator

from tests.tools.families import EMBEDDING, Named, attention, family, feed_forward, linear, norm, settings


def _mamba(block: str, _i: int) -> Iterator[Named]:
    inner, state, rank = 2 * EMBEDDING, 16, 16
    yield from norm(f"{block}attn_norm")
    yield from linear(f"{block}ssm_in", 2 * inner, EMBEDDING)
    yield f"{block}ssm_conv1d.weight", (inner, 4)
    yield f"{block}ssm_conv1d.bias", (inner,)
    yield from linear(f"{block}ssm_x", rank + 2 * state, inner)
    yield from linear(f"{block}ssm_dt", inner, rank, bias=True)
    yield f"{block}ssm_a", (inner, state)
    yield f"{block}ssm_d", (inner,)
    yield from linear(f"{block}ssm_out", EMBEDDING, inner)


def _lfm2(block: str, i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    if i % 2:
        yield from attention(block)
        yield from norm(f"{block}attn_q_norm", 64)
        yield from norm(f"{block}attn_k_norm", 64)
    else:
        yield f"{block}shortconv.conv.weight", (EMBEDDING, 3)
        yield from linear(f"{block}shortconv.in_proj", 3 * EMBEDDING, EMBEDDING)
        yield from linear(f"{block}shortconv.out_proj", EMBEDDING, EMBEDDING)
    yield from norm(f"{block}ffn_norm")
    yield from feed_forward(block)


def _qwen35(block: str, i: int) -> Iterator[Named]:
    keys, values, state, width = 2, 4, 64, 64
    yield from norm(f"{block}attn_norm")
    yield from norm(f"{block}post_attention_norm")
    if i % 2:
        yield from linear(f"{block}attn_q", 2 * 4 * width, EMBEDDING)
        yield from linear(f"{block}attn_k", 2 * width, EMBEDDING)
        yield from linear(f"{block}attn_v", 2 * width, EMBEDDING)
        yield from linear(f"{block}attn_output", EMBEDDING, 4 * width)
        yield from norm(f"{block}attn_q_norm", width)
        yield from norm(f"{block}attn_k_norm", width)
    else:
        mixed = (2 * keys + values) * state
        yield from linear(f"{block}attn_qkv", mixed, EMBEDDING)
        yield from linear(f"{block}attn_gate", values * state, EMBEDDING)
        yield f"{block}ssm_conv1d.weight", (mixed, 4)
        yield f"{block}ssm_dt.bias", (values,)
        yield f"{block}ssm_a", (values,)
        yield from linear(f"{block}ssm_beta", values, EMBEDDING)
        yield from linear(f"{block}ssm_alpha", values, EMBEDDING)
        yield from norm(f"{block}ssm_norm", state)
        yield from linear(f"{block}ssm_out", EMBEDDING, values * state)
    yield from feed_forward(block)


RECURRENT = {
    item.name: item
    for item in (
        family(
            "mamba",
            _mamba,
            {
                **settings(heads=0, kv_heads=0),
                "feed_forward_length": 0,
                "ssm.conv_kernel": 4,
                "ssm.inner_size": 2 * EMBEDDING,
                "ssm.state_size": 16,
                "ssm.time_step_rank": 16,
            },
        ),
        family(
            "qwen35",
            _qwen35,
            {
                **settings(),
                "rope.dimension_sections": [11, 11, 10, 0],
                "full_attention_interval": 2,
                "ssm.conv_kernel": 4,
                "ssm.inner_size": 256,
                "ssm.state_size": 64,
                "ssm.time_step_rank": 4,
                "ssm.group_count": 2,
            },
        ),
        family(
            "lfm2",
            _lfm2,
            {**settings(), "attention.head_count_kv": [0, 2], "shortconv.l_cache": 3},
            tied=True,
            last_norm="token_embd_norm",
        ),
    )
}
"""Models whose past is a running state: there is nothing to trim, so the contract does not cover them."""
