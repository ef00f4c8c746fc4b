"""Label-smoothed cross-entropy as sums over the target tokens that are not padding (translation.md 3)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SmoothingMass = Literal["all", "others", "others_without_pad"]


@dataclass(frozen=True)
class TokenSums:
    """Sums over the real tokens of a batch, each a scalar: the loss, -log p(label), and right first answers."""

    smoothed: Tensor
    """The only one with a gradient."""
    nll: Tensor
    correct: Tensor
    tokens: Tensor


def token_sums(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, mass: SmoothingMass = "all", pad: int = 0
) -> TokenSums:
    """Sums of logits `[..., v]` against `labels` `[...]`, in fp32; a batch of nothing but padding gives zeros.

    With e = `smoothing`, the label gets 1 - e + e/v and every other class e/v (`all`), or the label 1 - e and every
    other class e/(v-1) (`others`), or every other one but `pad` e/(v-2) (`others_without_pad`).
    """
    assert logits.shape[:-1] == labels.shape, (
        f"logits {tuple(logits.shape)} for labels {tuple(labels.shape)}: the collator shifts targets, nobody else"
    )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    real = labels != pad
    norm = logits.logsumexp(-1)
    nll = norm - logits.gather(-1, labels[..., None])[..., 0]
    loss = nll
    if smoothing:
        num_classes = logits.shape[-1]
        # Sum of -log p over all classes, out of which each convention takes what it leaves alone.
        spread = num_classes * norm - logits.sum(-1)
        if mass == "all":
            loss = (1.0 - smoothing) * nll + smoothing / num_classes * spread
        elif mass == "others":
            loss = (1.0 - smoothing) * nll + smoothing / (num_classes - 1) * (spread - nll)
        else:
            spread = spread - (norm - logits[..., pad])
            loss = (1.0 - smoothing) * nll + smoothing / (num_classes - 2) * (spread - nll)
    zero = torch.zeros((), dtype=logits.dtype, device=logits.device)
    return TokenSums(
        smoothed=torch.where(real, loss, zero).sum(),
        nll=torch.where(real, nll.detach(), zero).sum(),
        correct=((logits.detach().argmax(-1) == labels) & real).sum(),
        tokens=real.sum(),
    )
