"""A small Llama in plain torch: RMS norm, rotary positions, grouped-query attention, SwiGLU, untied output.

Training only: no cache, no generation.  Attention is written out as matmul and softmax, because on a CPU in bfloat16
the backward pass of the fused kernel is several times slower.  Assumes that rotary pairs are the two halves of a
head; `export.py` reorders the rows for llama.cpp, which pairs neighbours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The hyper-parameters that the weights depend on."""

    vocabulary: int = 1024
    """Rows of the embedding and of the output."""
    width: int = 256
    """Size of the residual stream."""
    hidden: int = 768
    """Inner size of the feed-forward layers."""
    layers: int = 4
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads; divides `heads`."""
    context: int = 2048
    """Context length declared in the file; training sees at most 128 tokens."""
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Size of one head."""
        return self.width // self.heads


def rotary_table(shape: Shape, length: int) -> Tensor:
    """(2, length, head_width): cosines and sines by position."""
    half = shape.head_width // 2
    frequencies = shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each half-split pair of `x` (batch, heads, length, head_width) by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Block(nn.Module):
    """One layer: attention, then feed-forward, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """`x` (batch, length, width); `mask` (batch, 1, length, length) is added to the scores."""
        shape, (batch, length, _) = self.shape, x.shape
        normed = self.attn_norm(x)

        def heads(projected: Tensor, count: int) -> Tensor:
            return projected.view(batch, length, count, shape.head_width).transpose(1, 2)

        q = rotate(heads(self.attn_q(normed), shape.heads), cos, sin)
        k = rotate(heads(self.attn_k(normed), shape.kv_heads), cos, sin)
        v = heads(self.attn_v(normed), shape.kv_heads)
        group = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(-2, -1) * shape.head_width**-0.5 + mask
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, shape.width)
        x = x + self.attn_output(mixed)
        normed = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))


class Llama(nn.Module):
    """The whole model; parameter names are those of a GGUF file of architecture `llama`."""

    def __init__(self, shape: Shape, deviation: float = 0.06) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.register_buffer("rotary", rotary_table(shape, 256), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=deviation)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states (batch, length, width); apply `output` to the positions of interest."""
        cos, sin = self.rotary[:, positions].unsqueeze(2).unbind()
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x, cos, sin, mask)
        return self.output_norm(x)
