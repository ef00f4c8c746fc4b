"""Blending of rows of the same group over a global batch: who with whom, how much, and what becomes of the labels.

    step ─► mixed? (one draw, p of its curve) ─► share kept ~ Beta ─► partner: next one in a random circle of the group

All draws are keyed by (seed, step), those of a row by the row, too: neither ranks nor micro-batches matter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Indices
from trainer.data.keys import bits, derive
from trainer.tasks.hierarchy.tree import UNKNOWN, Labels

Box = tuple[int, int, int, int]
"""Top, bottom, left, right of a rectangle, ends exclusive."""


@dataclass(frozen=True)
class Blend:
    """How the global batch of one step is mixed."""

    rows: Indices
    partner: Indices
    """Of each row; a row without one has itself."""
    kept: float
    """Share of its own that a row with a partner keeps; for a rectangle, of the area."""
    box: Box | None = None
    """What is exchanged in place of blending."""


def draw(step: int, rows: Indices, groups: Labels, p: float, alpha: float, seed: int) -> Blend | None:
    """The blend of a global batch with the groups `[B]` (-1: none); None if it stays as it is."""
    random = np.random.Generator(np.random.PCG64(derive(seed, "mix", step)))
    if random.random() >= p:
        return None
    kept = float(random.beta(alpha, alpha))
    return Blend(rows, partners(rows, groups, derive(seed, "partners", step)), kept)


def cut(blend: Blend, step: int, size: tuple[int, int], seed: int) -> Blend:
    """With probability one half the same blend as an exchange of a rectangle in images of `size` (height, width).

    CutMix (Yun et al. 2019): sides sqrt(1 - kept) of the image's, centre uniform, clipped at the edges; what is kept
    is then the area outside.
    """
    random = np.random.Generator(np.random.PCG64(derive(seed, "cut", step)))
    if random.random() < 0.5:
        return blend
    side = np.sqrt(1.0 - blend.kept)
    spans = []
    for length in size:
        centre, half = random.random() * length, side * length / 2
        spans += [max(0, round(centre - half)), min(length, round(centre + half))]
    top, bottom, left, right = spans
    kept = 1.0 - (bottom - top) * (right - left) / (size[0] * size[1])
    return Blend(blend.rows, blend.partner, kept, (top, bottom, left, right))


def partners(rows: Indices, groups: Labels, key: int) -> Indices:
    """The partner of each row: the next one of its group in random order, the last one's is the first.

    So nobody has himself in a group of two or more; alone in a group, or in none (-1), everybody has.
    """
    order = np.lexsort((bits(key, rows, 1)[:, 0], groups))
    ordered = groups[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    following = np.roll(order, -1)
    following[np.concatenate([first[1:] - 1, [len(order) - 1]])] = order[first]
    partner = np.empty_like(rows)
    partner[order] = rows[following]
    return np.where(groups == UNKNOWN, rows, partner)


def mixed_labels(labels: Labels, others: Labels, is_mixed: NDArray[np.bool_]) -> tuple[Labels, Labels]:
    """Labels `[B, K]` of rows and partners: a mixed row knows a level only if both know it."""
    unknown = is_mixed[:, None] & ((labels == UNKNOWN) | (others == UNKNOWN))
    return np.where(unknown, UNKNOWN, labels), np.where(unknown, UNKNOWN, others)


def blended(features: NDArray[np.float32], others: NDArray[np.float32], blend: Blend) -> NDArray[np.float32]:
    """Features of rows that all have a partner."""
    if blend.box is None:
        share = np.float32(blend.kept)
        return share * features + (np.float32(1) - share) * others
    top, bottom, left, right = blend.box
    result = features.copy()
    result[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return result


def chosen_blocks(
    valid: NDArray[np.bool_], others: NDArray[np.bool_], takes_other: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which blocks `[B, num_blocks]` come from the partner.

    All or none by the row's coin, but a block that only one of the two has comes from that one.
    """
    return np.where(valid == others, takes_other[:, None], others)
