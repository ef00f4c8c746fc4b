"""Dropout whose mask comes from 16-bit random words, four out of every 64-bit draw of the default generator.

Random bits are the largest single cost of a training step on a CPU; this needs a quarter of them. The generator is
the device's own, so that re-keying it at the start of a step (design 5) fixes these masks, too.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Bits = Literal["exact", "fast"]
_WORDS = 1 << 16


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element of `x` with probability p, exact to 2^-16, and divide the others by what is kept on average."""
    dropped = round(p * _WORDS)
    if dropped == 0:
        return x
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
    words = draws.view(torch.int16)[: x.numel()].view(x.shape)
    keep = words >= dropped - _WORDS // 2
    # A product with a boolean mask keeps one byte an element for the backward pass; `where` takes three times as long.
    return x * keep * (_WORDS / (_WORDS - dropped))


class Dropout(nn.Module):
    """Dropout with exact (torch's own) or fast bits; the identity in evaluation."""

    def __init__(self, p: float, bits: Bits) -> None:
        """`p`: share of elements set to zero."""
        super().__init__()
        self.p = p
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out."""
        if not self.training or self.p == 0.0:
            return x
        if self.bits == "fast":
            return fast_dropout(x, self.p)
        return nn.functional.dropout(x, self.p)

    def extra_repr(self) -> str:
        """Settings for the printed model."""
        return f"p={self.p}, bits={self.bits}"
