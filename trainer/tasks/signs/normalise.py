"""Normalisation at load time (signs.md 2.3): what a value means is decided here, not on disk.

`anchored` and `legacy` work on single frames, per group: x, y, z minus an origin, divided by the 2-D distance of two
anchors (at least 1e-6). Both may be applied to raw and to normalised recordings alike, because they take out any
earlier shift and scale. `recording` takes the mean position over the whole recording out, group by group: it keeps
where the parts move, and forgets where the signer stood. Missing groups stay 0.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.sampling import Flags, Ints, Values, clear_missing, present_groups, read_frames
from trainer.tasks.signs.schema import Anchor, Schema

Profile = Literal["none", "legacy", "anchored", "recording"]

_SMALLEST_DISTANCE = 1e-6


def normalise_frames(frames: Values, present: Flags, schema: Schema, profile: Profile) -> None:
    """Apply `anchored` or `legacy` to frames `[u, k, f]` in place; missing groups (and `none`) are left as they are."""
    if profile not in ("legacy", "anchored"):
        return
    moved = list(schema.coordinates)
    flat = frames.reshape(len(frames), -1)
    for number, (columns, group) in enumerate(zip(schema.columns, schema.groups, strict=True)):
        anchor = group.legacy if profile == "legacy" else group.anchor
        if anchor is None:
            continue
        origin, divisor = _anchors(frames[:, schema.rows[number]], moved, anchor)
        shift, scale = np.zeros_like(origin), np.ones_like(origin)
        shift[:, moved] = origin[:, moved]
        # A missing group is all zeros: its origin is 0, so it stays 0 whatever it is divided by.
        scale[:, moved] = np.where(present[:, number], 1.0 / divisor, 0.0)[:, None]
        # Repeated for all points, because numpy is slow where its innermost loop is as short as a point.
        flat[:, columns] -= np.tile(shift, (1, group.points))
        flat[:, columns] *= np.tile(scale, (1, group.points))


def _anchors(values: Values, moved: list[int], anchor: Anchor) -> tuple[Values, Values]:
    """Origin `[u, f]` and 2-D distance `[u]` of one group's rows `[u, points, f]`; `moved` starts with x and y."""
    used = sorted({row for rows in anchor for row in rows})
    points = values[:, used]
    origin, first, second = (_mean_row(points, [used.index(row) for row in rows]) for rows in anchor)
    difference = first - second
    distance = np.hypot(difference[:, moved[0]], difference[:, moved[1]])
    return origin, np.maximum(distance, np.float32(_SMALLEST_DISTANCE))


def _mean_row(points: Values, rows: list[int]) -> Values:
    """Mean `[u, f]` of some rows, added up one by one: numpy's own order of summation hangs on the batch."""
    total = points[:, rows[0]].copy()
    for row in rows[1:]:
        total += points[:, row]
    total /= len(rows)
    return total


def centre_recording(frames: Values, present: Flags, clip: Ints, centres: Values, schema: Schema) -> None:
    """Apply `recording` to gathered frames `[u, k, f]` in place; `clip` `[u]` says whose of `centres` counts."""
    for group, rows in enumerate(schema.rows):
        frames[:, rows] -= centres[clip, group][:, None]
    clear_missing(frames, present, schema)


def recording_centres(frames: NDArray[Any], starts: Ints, lengths: Ints, schema: Schema) -> Values:
    """Mean x, y, z of each group over its present frames of every recording, `[n, g, f]` (0 elsewhere), streamed."""
    centres = np.zeros((len(starts), schema.num_groups, schema.num_features), np.float32)
    moved = list(schema.coordinates)
    for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        clip = read_frames(frames, np.arange(start, start + length))
        present = present_groups(clip, schema)
        for group, rows in enumerate(schema.rows):
            found = clip[present[:, group], rows][..., moved]
            if len(found):
                centres[number, group, moved] = found.mean((0, 1))
    return centres


def unroll(frames: Values, schema: Schema) -> Values:
    """Frames `[u, k, f]` with each cyclic feature as sine, cosine and a flag (all 0 without a reading).

    A turn cannot be averaged: between 11/12 and 0 lies not one half. So this comes before frames are blended.
    """
    if not schema.cyclic:
        return frames
    columns: list[Values] = []
    for number, name in enumerate(schema.features):
        value = frames[..., number]
        if name not in schema.cyclic:
            columns.append(value)
            continue
        known = (value >= 0).astype(np.float32)
        angle = 2.0 * np.pi * value
        columns += [np.sin(angle) * known, np.cos(angle) * known, known]
    return np.stack(columns, axis=-1).astype(np.float32)
