"""What the encoder and the decoder are made of: attention, feed-forward, position; both stacks share them.

Shapes: b batch, t queries, s keys, d width, h heads, k channels a head (d = h * k), n rows of a decoding step.
Every attention takes queries `[b, t, d]`, so a step that decodes g hypotheses of one sentence looks at its source as
g queries, and keys and values of the source exist once a sentence.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

BASE = 10_000.0
"""Of the wave lengths of positions (Vaswani et al. 2017, 3.5)."""
Heads = tuple[Tensor, Tensor]
"""Keys and values `[b, h, s, k]`."""


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal code `[t, d]` of `positions` `[t]`: column 2i is sin(t / 10000^(2i/d)), column 2i+1 its cosine."""
    angles = _angles(positions, width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def rotate(x_bhtk: Tensor, positions: Tensor) -> Tensor:
    """Rotary position (Su et al. 2021): each pair of channels (2i, 2i+1) turned by its angle at `positions` `[t]`."""
    angles = _angles(positions, x_bhtk.shape[-1])
    cos, sin = angles.cos().to(x_bhtk.dtype), angles.sin().to(x_bhtk.dtype)
    even, odd = x_bhtk[..., 0::2], x_bhtk[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _angles(positions: Tensor, width: int) -> Tensor:
    """T / 10000^(2i/d) in double precision `[t, ceil(d/2)]`: at large t single precision loses the fast waves."""
    waves = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)
    return positions.double()[:, None] * torch.exp(waves * (-math.log(BASE) / width))


class Attention(nn.Module):
    """Multi-head attention: four projections with biases, 4d^2 + 4d parameters."""

    def __init__(self, width: int, num_heads: int, dropout: float, *, is_rotary: bool = False) -> None:
        """`dropout` acts on the attention weights; `is_rotary` turns queries and keys by their positions."""
        super().__init__()
        self.num_heads, self.dropout, self.is_rotary = num_heads, dropout, is_rotary
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def heads(self, x_bsd: Tensor, first: int = 0) -> Heads:
        """Keys and values of the positions from `first` on."""
        key = self.split(self.key(x_bsd))
        return self._turned(key, first), self.split(self.value(x_bsd))

    def forward(
        self, x_btd: Tensor, heads: Heads, allowed: Tensor | None = None, *, is_causal: bool = False, first: int = 0
    ) -> Tensor:
        """Attend to `heads`. `allowed` bool `[b, 1, 1, s]`: keys that may be seen; `first`: position of query 0."""
        query = self._turned(self.split(self.query(x_btd)), first)
        p = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(
            query, *heads, attn_mask=allowed, dropout_p=p, is_causal=is_causal
        )
        return cast(Tensor, self.out(out.transpose(1, 2).flatten(2)))

    def split(self, x_btd: Tensor) -> Tensor:
        """`[b, t, d]` to `[b, h, t, k]`."""
        return x_btd.view(*x_btd.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _turned(self, x_bhtk: Tensor, first: int) -> Tensor:
        if not self.is_rotary:
            return x_bhtk
        return rotate(x_bhtk, torch.arange(first, first + x_bhtk.shape[2], device=x_bhtk.device))


class FeedForward(nn.Module):
    """d -> ff -> d with dropout inside, 2 d ff + ff + d parameters."""

    def __init__(self, width: int, hidden: int, dropout: float, activation: str) -> None:
        """`activation`: relu or gelu."""
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = functional.relu if activation == "relu" else functional.gelu
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_btd: Tensor) -> Tensor:
        """`[b, t, d]` in and out."""
        return cast(Tensor, self.narrow(self.dropout(self.activation(self.wide(x_btd)))))


class Sublayer(nn.Module):
    """The norm, dropout and residual around a sub-layer: pre x + f(LN(x)), post LN(x + f(x))."""

    def __init__(self, width: int, dropout: float, *, is_pre: bool) -> None:
        """`is_pre`: the norm stands before the sub-layer."""
        super().__init__()
        self.norm, self.dropout, self.is_pre = nn.LayerNorm(width), nn.Dropout(dropout), is_pre

    def forward(self, x: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `work` within."""
        if self.is_pre:
            return x + cast(Tensor, self.dropout(work(self.norm(x))))
        return cast(Tensor, self.norm(x + self.dropout(work(x))))
