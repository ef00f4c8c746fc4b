"""Normalisation at load time (signs.md 2.3): what a value means is decided here, not on disk.

`anchored` and `legacy` work on single frames, per group: x, y, z minus an origin, divided by the 2-D distance of two
anchors (at least 1e-6). Both may be applied to raw and to normalised recordings alike, because they take out any
earlier shift and scale. `recording` works per feature with statistics of the whole recording. Missing groups stay 0.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.sampling import Flags, Ints, Values, clear_missing, present_groups, read_frames
from trainer.tasks.signs.schema import Anchor, Schema

Profile = Literal["none", "legacy", "anchored", "recording"]

_SMALLEST_DISTANCE = 1e-6
_SMALLEST_SPREAD = 1e-3
_FIRST_FRAMES = 3
"""Frames whose mean is the centre of `recording`: the resting position."""


@dataclass(frozen=True)
class RecordingStatistics:
    """Centre and spread of the values of each recording, `[n, g, f]`: one per group and feature."""

    centre: Values
    spread: Values


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


def normalise_recording(frames: Values, present: Flags, clip: Ints, stats: RecordingStatistics, schema: Schema) -> None:
    """Apply `recording` to gathered frames `[u, k, f]` in place; `clip` `[u]` says whose statistics count."""
    for group, rows in enumerate(schema.rows):
        values = frames[:, rows]
        values -= stats.centre[clip, group][:, None]
        values /= stats.spread[clip, group][:, None]
    clear_missing(frames, present, schema)


def recording_statistics(frames: NDArray[Any], starts: Ints, lengths: Ints, schema: Schema) -> RecordingStatistics:
    """Centre (mean of the group's first present frames) and spread (standard deviation) of every recording, streamed.

    A feature that does not move keeps its scale (spread 1), visibility is left alone.
    """
    shape = (len(starts), schema.num_groups, schema.num_features)
    centre, spread = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    values = list(schema.values)
    for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        clip = read_frames(frames, np.arange(start, start + length))
        present = present_groups(clip, schema)
        for group, rows in enumerate(schema.rows):
            found = clip[present[:, group], rows][..., values]
            if len(found):
                centre[number, group, values] = found[:_FIRST_FRAMES].mean((0, 1))
                deviation = found.std((0, 1))
                spread[number, group, values] = np.where(deviation > _SMALLEST_SPREAD, deviation, 1.0)
    return RecordingStatistics(centre, spread)
