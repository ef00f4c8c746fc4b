"""One block of the ST-Transformer: attention over the groups of a frame, over the frames of a group, then an MLP.

Parameter names are those of `nn.MultiheadAttention` and of the published model (signs.md 8.5). Shapes: b batch,
t frames, g groups, d width, h heads, n rows of attention, s its length.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.tasks.signs.dropout import Bits, Dropout, fast_dropout

Residual = Literal["pre", "legacy"]


class Attention(nn.Module):
    """Self-attention with the parameters, initialisation and mathematics of `nn.MultiheadAttention`."""

    def __init__(self, width: int, num_heads: int, dropout: float, bits: Bits) -> None:
        """`dropout` acts on the attention weights."""
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.bits = bits
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_nsd: Tensor, allowed: Tensor | None) -> Tensor:
        """Attend over s. `allowed` bool `[n, 1, 1, s]`: keys that may be seen; at least one in every row."""
        n, s, d = x_nsd.shape
        if s == 1:
            return self._single(x_nsd)
        qkv = functional.linear(x_nsd, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(n, s, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.training and self.dropout > 0.0 and self.bits == "fast":
            out = self._fast(q, k, v, allowed)
        else:
            p = self.dropout if self.training else 0.0
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=p)
        result: Tensor = self.out_proj(out.transpose(1, 2).reshape(n, s, d))
        return result

    def _fast(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """The same attention with cheap dropout bits."""
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        return fast_dropout(scores.softmax(-1), self.dropout) @ v

    def _single(self, x_nsd: Tensor) -> Tensor:
        """Length one: the softmax of a single score is 1, so only the value path is left."""
        n, s, d = x_nsd.shape
        v = functional.linear(x_nsd, self.in_proj_weight[2 * d :], self.in_proj_bias[2 * d :])
        if self.training and self.dropout > 0.0:
            weights = v.new_ones(n, s, self.num_heads, 1)
            dropped = fast_dropout(weights, self.dropout) if self.bits == "fast" else self._drop(weights)
            v = (v.view(n, s, self.num_heads, -1) * dropped).view(n, s, d)
        result: Tensor = self.out_proj(v)
        return result

    def _drop(self, weights: Tensor) -> Tensor:
        return functional.dropout(weights, self.dropout)


class Block(nn.Module):
    """Spatial attention, temporal attention, MLP, each with its residual.

    `pre`: x <- x + f(LN(x)). `legacy` (published weights): u = LN(x), x <- u + attn(u), so the attention loses its
    un-normalised input; the MLP is as in `pre`.
    """

    def __init__(
        self, width: int, num_heads: int, *, dropout: float, attention_dropout: float, bits: Bits, residual: Residual
    ) -> None:
        """Hidden width of the MLP is four times `width`."""
        super().__init__()
        self.residual = residual
        self.spatial_attention = Attention(width, num_heads, attention_dropout, bits)
        self.spatial_norm = nn.LayerNorm(width)
        self.temporal_attention = Attention(width, num_heads, attention_dropout, bits)
        self.temporal_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            Dropout(dropout, bits),
            nn.Linear(4 * width, width),
            Dropout(dropout, bits),
        )
        self.mlp_norm = nn.LayerNorm(width)

    def forward(self, x_btgd: Tensor, spatial: Tensor | None, temporal: Tensor | None) -> Tensor:
        """`spatial` `[b*t, 1, 1, g]` and `temporal` `[b*g, 1, 1, t]`: allowed keys, or None for all."""
        _, t, g, d = x_btgd.shape
        u = self.spatial_norm(x_btgd)
        attended = self.spatial_attention(u.reshape(-1, g, d), spatial).view(x_btgd.shape)
        x_btgd = self._source(x_btgd, u) + attended
        u = self.temporal_norm(x_btgd)
        attended = self.temporal_attention(u.transpose(1, 2).reshape(-1, t, d), temporal)
        x_btgd = self._source(x_btgd, u) + attended.view(-1, g, t, d).transpose(1, 2)
        result: Tensor = x_btgd + self.mlp(self.mlp_norm(x_btgd))
        return result

    def _source(self, x: Tensor, normed: Tensor) -> Tensor:
        return normed if self.residual == "legacy" else x


class AttentionPool(nn.Module):
    """Weighted mean over time: a = softmax_t(w2 tanh(w1 x)), pooled = sum_t a_t x_t."""

    def __init__(self, width: int) -> None:
        """The score network halves the width."""
        super().__init__()
        self.attention_weights = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))

    def forward(self, x_btd: Tensor, allowed_bt: Tensor | None) -> Tensor:
        """`[b, t, d]` to `[b, d]`; frames outside `allowed_bt` get no weight."""
        scores_bt1 = self.attention_weights(x_btd)
        if allowed_bt is not None:
            scores_bt1 = scores_bt1.masked_fill(~allowed_bt[..., None], float("-inf"))
        pooled: Tensor = (scores_bt1.softmax(1) * x_btd).sum(1)
        return pooled


def time_code(num_frames: int, width: int) -> Tensor:
    """Sinusoidal code `[1, t, 1, d]`: sin and cos of t * w_i in turns, w_i = 100000^(-2i/d) (base 1e5: 8.2)."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(100000.0) / width))
    angles = torch.arange(num_frames, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).reshape(1, num_frames, 1, width)
