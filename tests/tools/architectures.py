"""The architectures that the random models cover, each as a list of its tensors."""

from __future__ import annotations

from collections.abc import Iterator

from tests.tools.families import (
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    Named,
    attention,
    experts,
    family,
    feed_forward,
    linear,
    norm,
    settings,
)
from tests.tools.gguf_write import Value
from tests.tools.recurrent import RECURRENT

MOE: dict[str, Value] = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": EMBEDDING}
WINDOW = 96
"""Tokens of a sliding window: shorter than the prompts of the matrix."""


def _llama(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block)
    yield from norm(f"{block}ffn_norm")
    yield from feed_forward(block)


def _mixtral(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block)
    yield from norm(f"{block}ffn_norm")
    yield from experts(block, inner=FEED_FORWARD)


def _qwen2(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, bias=True)
    yield from norm(f"{block}ffn_norm")
    yield from feed_forward(block)


def _qwen2moe(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, bias=True)
    yield from norm(f"{block}ffn_norm")
    yield from experts(block, shared=FEED_FORWARD, shared_gate=True)


def _qwen3(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, head=128)
    yield from norm(f"{block}attn_q_norm", 128)
    yield from norm(f"{block}attn_k_norm", 128)
    yield from norm(f"{block}ffn_norm")
    yield from feed_forward(block)


def _qwen3moe(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, head=128)
    yield from norm(f"{block}attn_q_norm", 128)
    yield from norm(f"{block}attn_k_norm", 128)
    yield from norm(f"{block}ffn_norm")
    yield from experts(block)


LORA_Q, LORA_KV, ROPE, NOPE, VALUE = 256, 256, 64, 128, 128
"""Widths of multi-head latent attention: the two low ranks, then the parts of one head."""


def _deepseek2(block: str, i: int) -> Iterator[Named]:
    heads = 4
    yield from norm(f"{block}attn_norm")
    yield from linear(f"{block}attn_q_a", LORA_Q, EMBEDDING)
    yield from norm(f"{block}attn_q_a_norm", LORA_Q)
    yield from linear(f"{block}attn_q_b", heads * (NOPE + ROPE), LORA_Q)
    yield from linear(f"{block}attn_kv_a_mqa", LORA_KV + ROPE, EMBEDDING)
    yield from norm(f"{block}attn_kv_a_norm", LORA_KV)
    yield f"{block}attn_k_b.weight", (heads, LORA_KV, NOPE)
    yield f"{block}attn_v_b.weight", (heads, VALUE, LORA_KV)
    yield from linear(f"{block}attn_output", EMBEDDING, heads * VALUE)
    yield from norm(f"{block}ffn_norm")
    if i == 0:
        yield from feed_forward(block)
    else:
        yield from experts(block, shared=EMBEDDING)
        yield f"{block}exp_probs_b.bias", (8,)


def _phi2(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", bias=True)
    yield from attention(block, heads=4, kv_heads=4, fused=True, bias=True, out_bias=True)
    yield from feed_forward(block, gate=False, bias=True)


def _phi3(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, fused=True)
    yield from norm(f"{block}ffn_norm")
    yield from linear(f"{block}ffn_up", 2 * FEED_FORWARD, EMBEDDING)
    yield from linear(f"{block}ffn_down", EMBEDDING, FEED_FORWARD)


def _gemma(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, heads=2, kv_heads=1, head=256)
    yield from norm(f"{block}ffn_norm")
    yield from feed_forward(block)


def _gemma2(block: str, i: int) -> Iterator[Named]:
    yield from _gemma(block, i)
    yield from norm(f"{block}post_attention_norm")
    yield from norm(f"{block}post_ffw_norm")


def _gemma3(block: str, i: int) -> Iterator[Named]:
    yield from _gemma2(block, i)
    yield from norm(f"{block}attn_q_norm", 256)
    yield from norm(f"{block}attn_k_norm", 256)


def _stablelm(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", bias=True)
    yield from attention(block, bias=True)
    yield from norm(f"{block}ffn_norm", bias=True)
    yield from feed_forward(block)


def _olmo2(block: str, _i: int) -> Iterator[Named]:
    yield from attention(block)
    yield from norm(f"{block}attn_q_norm")
    yield from norm(f"{block}attn_k_norm", 128)
    yield from norm(f"{block}post_attention_norm")
    yield from feed_forward(block)
    yield from norm(f"{block}post_ffw_norm")


def _command_r(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block)
    yield from feed_forward(block)


def _gpt_oss(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, bias=True, out_bias=True)
    yield f"{block}attn_sinks.weight", (4,)
    yield from norm(f"{block}post_attention_norm")
    yield from experts(block, bias=True)


def _gpt2(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", bias=True)
    yield from attention(block, heads=4, kv_heads=4, fused=True, bias=True, out_bias=True)
    yield from norm(f"{block}ffn_norm", bias=True)
    yield from feed_forward(block, gate=False, bias=True)


def _head80(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, head=80)
    yield from norm(f"{block}ffn_norm")
    yield from feed_forward(block)


def _wide(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", 1024)
    yield from attention(block, heads=8, kv_heads=2, head=128, width=1024)
    yield from norm(f"{block}ffn_norm", 1024)
    yield from feed_forward(block, width=1024, inner=2816)


def _starcoder2(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", bias=True)
    yield from attention(block, bias=True, out_bias=True)
    yield from norm(f"{block}ffn_norm", bias=True)
    yield from feed_forward(block, gate=False, bias=True)


def _falcon(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", bias=True)
    yield from norm(f"{block}attn_norm_2", bias=True)
    yield from attention(block, kv_heads=1, fused=True)
    yield from feed_forward(block, gate=False)


def _olmoe(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, kv_heads=4)
    yield from norm(f"{block}attn_q_norm")
    yield from norm(f"{block}attn_k_norm")
    yield from norm(f"{block}ffn_norm")
    yield from experts(block, inner=FEED_FORWARD)


def _glm4(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, bias=True)
    yield from norm(f"{block}post_attention_norm")
    yield from norm(f"{block}ffn_norm")
    yield from linear(f"{block}ffn_up", 2 * FEED_FORWARD, EMBEDDING)
    yield from linear(f"{block}ffn_down", EMBEDDING, FEED_FORWARD)
    yield from norm(f"{block}post_ffw_norm")


def _glm4moe(block: str, i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block, bias=True)
    yield from norm(f"{block}post_attention_norm")
    if i == 0:
        yield from feed_forward(block)
    else:
        yield from experts(block, shared=EMBEDDING)
        yield f"{block}exp_probs_b.bias", (8,)


def _llama4(block: str, i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm")
    yield from attention(block)
    yield from norm(f"{block}ffn_norm")
    yield from experts(block, shared=EMBEDDING) if i % 2 else feed_forward(block)


GEMMA = settings(heads=2, kv_heads=1, attention__key_length=256, attention__value_length=256)
SLIDING: dict[str, Value] = {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": 2}

ALL = (
    family("llama", _llama, settings()),
    family(
        "llama-head80",
        _head80,
        settings(attention__key_length=80, attention__value_length=80, rope__dimension_count=80),
        architecture="llama",
    ),
    family(
        "llama-wide",
        _wide,
        {**settings(heads=8, rope__dimension_count=128), "embedding_length": 1024, "feed_forward_length": 2816},
        architecture="llama",
    ),
    family(
        "llama4",
        _llama4,
        {**settings(), **MOE, "block_count": 4, "interleave_moe_layer_step": 2, "rope.dimension_count": 64},
    ),
    # Mistral 7B: the converter writes it as `llama`, which reads no sliding window. Ministral 3 is `mistral3`.
    family("mistral", _llama, {**settings(), "attention.sliding_window": WINDOW}, architecture="llama"),
    family(
        "mistral3",
        _llama,
        settings(
            attention__temperature_scale=0.1,
            rope__scaling__type="yarn",
            rope__scaling__factor=4.0,
            rope__scaling__original_context_length=64,
        ),
    ),
    family("mixtral", _mixtral, {**settings(), "expert_count": 8, "expert_used_count": 2}, architecture="llama"),
    family("qwen2", _qwen2, settings()),
    family("qwen2moe", _qwen2moe, {**settings(), **MOE, "expert_shared_feed_forward_length": FEED_FORWARD}),
    family("qwen3", _qwen3, settings(attention__key_length=128, attention__value_length=128)),
    family("qwen3moe", _qwen3moe, {**settings(attention__key_length=128, attention__value_length=128), **MOE}),
    family(
        "deepseek2",
        _deepseek2,
        {
            **settings(kv_heads=1, attention__q_lora_rank=LORA_Q, attention__kv_lora_rank=LORA_KV),
            **MOE,
            "attention.key_length": LORA_KV + ROPE,
            "attention.value_length": LORA_KV,
            "attention.key_length_mla": NOPE + ROPE,
            "attention.value_length_mla": VALUE,
            "rope.dimension_count": ROPE,
            "leading_dense_block_count": 1,
            "expert_shared_count": 1,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
        },
    ),
    family("phi2", _phi2, settings(kv_heads=4, rms=False, rope__dimension_count=32), bias=True, output_bias=True),
    family("phi3", _phi3, {**settings(), "rope.dimension_count": 64}),
    family("gemma", _gemma, GEMMA, tied=True),
    family(
        "gemma2",
        _gemma2,
        {**GEMMA, **SLIDING, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        tied=True,
    ),
    family("gemma3", _gemma3, {**GEMMA, **SLIDING}, tied=True),
    family(
        "stablelm",
        _stablelm,
        {**settings(rms=False, rope__dimension_count=16), "use_parallel_residual": True},
        bias=True,
    ),
    family("olmo2", _olmo2, settings()),
    family("command-r", _command_r, {**settings(rms=False), "logit_scale": 0.0625}, tied=True),
    family("cohere2", _command_r, {**settings(rms=False), **SLIDING, "logit_scale": 0.0625}, tied=True),
    family("gpt-oss", _gpt_oss, {**settings(), **MOE, **SLIDING, "rope.dimension_count": 64}),
    family("granite", _llama, {**settings(), "logit_scale": 8.0, "residual_scale": 0.22, "embedding_scale": 12.0}),
    family("olmoe", _olmoe, {**settings(kv_heads=4), **MOE}),
    family("glm4", _glm4, settings(rope__dimension_count=32)),
    family(
        "glm4moe",
        _glm4moe,
        {
            **settings(rope__dimension_count=32, leading_dense_block_count=1, expert_shared_count=1),
            **MOE,
            "expert_weights_scale": 1.5,
            "expert_weights_norm": True,
        },
    ),
    family("starcoder2", _starcoder2, settings(rms=False), bias=True),
    family("falcon", _falcon, settings(kv_heads=1, rms=False), bias=True),
    # The only one whose attention has a slope for each head (ALiBi).
    family("bloom", _gpt2, settings(kv_heads=4, rms=False), bias=True, extra=tuple(norm("token_embd_norm", bias=True))),
    family(
        "gpt2",
        _gpt2,
        settings(kv_heads=4, rms=False),
        bias=True,
        extra=(("position_embd.weight", (CONTEXT, EMBEDDING)),),
    ),
)
FAMILIES = {item.name: item for item in ALL}
"""By our name. Each keeps its past in a key-value cache."""


def _large(block: str, _i: int) -> Iterator[Named]:
    yield from norm(f"{block}attn_norm", 2048)
    yield from attention(block, heads=32, kv_heads=8, width=2048)
    yield from norm(f"{block}ffn_norm", 2048)
    yield from feed_forward(block, width=2048, inner=5632)


BIG = family(
    "rand765m",
    _large,
    {
        **settings(heads=32, kv_heads=8, rope__dimension_count=64),
        "embedding_length": 2048,
        "block_count": 14,
        "feed_forward_length": 5632,
    },
    architecture="llama",
    vocabulary=32768,
)
"""The benchmarks' model: 765 million parameters."""

EVERY = {**FAMILIES, **RECURRENT}
"""All small models."""
