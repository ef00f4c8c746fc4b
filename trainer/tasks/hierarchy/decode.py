"""From the levels' log-probabilities to one answer: a class a level, or unknown (-1).

`independent`: the best class of each level, which need not fit each other. `path`: the best complete path of the tree
by the sum of its log-probabilities. `stop`: from the best coarsest class down to the best of its children, as long as
the probability does not fall below a threshold. b rows, k levels, c classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.config.hierarchy import HierarchyDecode
from trainer.tasks.hierarchy.tree import Tree


def decode(log_p: Sequence[Tensor], tree: Tree, settings: HierarchyDecode) -> Tensor:
    """Classes int64 `[b, k]`, fine to coarse, -1 for unknown; `log_p` `[b, c]` of each level."""
    if settings.rule == "path":
        return best_path(log_p, tree)
    return down_to(log_p, tree, settings.threshold) if settings.rule == "stop" else independent(log_p)


def independent(log_p: Sequence[Tensor]) -> Tensor:
    """The best class of each level."""
    return torch.stack([own.argmax(1) for own in log_p], 1)


def best_path(log_p: Sequence[Tensor], tree: Tree) -> Tensor:
    """The best complete path; the best class of each level where the tree has no complete path at all."""
    paths = torch.from_numpy(tree.ancestors[0]).to(log_p[0].device)
    is_complete = (paths >= 0).all(1)
    if not bool(is_complete.any()):
        return independent(log_p)
    paths = paths[is_complete]
    total = sum((own[:, paths[:, level]] for level, own in enumerate(log_p)), torch.zeros(()))
    return paths[torch.as_tensor(total).argmax(1)]


def down_to(log_p: Sequence[Tensor], tree: Tree, threshold: float) -> Tensor:
    """From coarse to fine until no child is probable enough; what is deeper is unknown."""
    chosen = torch.zeros(len(log_p[0]), dtype=torch.int64, device=log_p[0].device)
    answers: list[Tensor] = []
    for level in range(len(log_p) - 1, -1, -1):
        own = log_p[level]
        if answers:
            parent = torch.from_numpy(tree.parents[level]).to(own.device)
            own = own.masked_fill(parent[None] != chosen[:, None], -torch.inf)
        best, answer = own.max(1)
        is_sure = (best.exp() >= threshold) & (best > -torch.inf) & (chosen >= 0)
        chosen = torch.where(is_sure, answer, torch.full_like(answer, -1))
        answers.insert(0, chosen)
    return torch.stack(answers, 1)
