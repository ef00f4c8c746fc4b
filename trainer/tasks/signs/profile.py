"""Tells raw recordings from normalised ones, because nothing in the files says which they are (signs.md 2.3).

`legacy` normalisation puts one known row of every group at exactly zero; a raw coordinate is never exactly zero where
something was found. Raw ones of image landmarks also lie almost all within and near the picture.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.schema import Schema

RAW_RANGE = (-0.5, 1.5)
"""Where nearly all raw x and y lie; a raised arm may leave the picture."""
RAW_SHARE = 0.9


def profile_of(frames: NDArray[np.float32], schema: Schema) -> str:
    """`raw`, `legacy`, `unknown`, or empty if no frame has a group to tell by; frames `[n, K, F]`."""
    if schema.visibility is None or len(schema.coordinates) < 2:
        return "raw"
    votes, inside = [], []
    for rows, group in zip(schema.rows, schema.groups, strict=True):
        if group.legacy is None:
            continue
        part = frames[:, rows]
        found = part[:, :, schema.visibility].max(axis=1) > 0
        xy = part[found][:, :, schema.coordinates[:2]]
        if not len(xy):
            continue
        votes.append((xy[:, group.legacy[0][0]] == 0).all(axis=1))
        inside.append(((xy > RAW_RANGE[0]) & (xy < RAW_RANGE[1])).mean(axis=(1, 2)))
    if not votes:
        return ""
    zero = np.concatenate(votes)
    if zero.all():
        return "legacy"
    return "raw" if not zero.any() and np.concatenate(inside).mean() >= RAW_SHARE else "unknown"
