"""What the balance of loss terms follows: the mean of each term, and how strongly it pulls at the shared trunk."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainer.engine.balance import Values
from trainer.engine.world import World


def measure(
    world: World, trunk: Sequence[nn.Parameter], terms: Mapping[str, Tensor], counts: Values, weight: float
) -> tuple[Values, Values]:
    """Mean loss of each term and, with a `trunk`, the norm of its gradient there, over the micro-batches of all ranks.

    `terms` are sums over this rank's micro-batch and `counts` what they are divided by; `weight` 0 marks a placeholder.
    Every rank takes part; each holds the graph afterwards. Terms without samples are left out, and all of them where
    a number is not finite: what becomes of such a step is decided elsewhere.
    """
    sums = [terms[name].detach().float() * weight for name in counts]
    shares = torch.tensor([count * weight for count in counts.values()], device=world.device)
    totals = world.sum(torch.cat([torch.stack(sums), shares])).tolist()
    found = {
        name: (total, count)
        for name, total, count in zip(counts, totals, totals[len(counts) :], strict=False)
        if count > 0
    }
    losses = {name: total / count for name, (total, count) in found.items()}
    norms: Values = {}
    if trunk and found:
        lengths = [world.sum(gradient(terms[name], trunk) * weight).norm() for name in found]
        for (name, (_, count)), length in zip(found.items(), torch.stack(lengths).tolist(), strict=True):
            norms[name] = length / count
    is_finite = all(map(math.isfinite, [*losses.values(), *norms.values()]))
    return (losses, norms) if is_finite else ({}, {})


def gradient(term: Tensor, trunk: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a term with respect to the trunk, flat float32; zero where it does not depend on it."""
    if not term.requires_grad:
        return torch.zeros(sum(parameter.numel() for parameter in trunk), device=trunk[0].device)
    parts = torch.autograd.grad(term, trunk, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1).float() for part in parts])
