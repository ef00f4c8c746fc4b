"""Recordings of any length to clips of T frames, a whole batch at once (signs.md 5).

    positions [b, t] (fractions of frames)  ->  two frames and a weight each  ->  gather  ->  blend per group

Only the frames that a batch needs are read from the memory map. Between two frames a group is blended only where it is
present in both; present in one, that one is taken; in none, it is missing (exactly 0).
Shapes: b batch, t sampled frames, u gathered frames, k keypoints, f features, g groups.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config.signs import SamplingSettings
from trainer.tasks.signs.schema import Schema

Floats = NDArray[np.float64]
Values = NDArray[np.float32]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

_SNAP = 1e-9
"""Positions this near to a frame are that frame, so that rounding never blends in a neighbour."""
_BLOCK = 256
"""Sampled frames that are blended at a time."""
_LEGACY_MARGIN = 1e-6
"""The published grid ends this far before the last frame."""


@dataclass(frozen=True)
class Draws:
    """Random numbers of a training batch: `jitter` `[b, t]` in bins, `pad` `[b]` clips to pad by their last frame."""

    jitter: Floats
    pad: Flags


@dataclass(frozen=True)
class Positions:
    """Where in its recording each sampled frame lies, in frames from 0; frames that are not `valid` are padding."""

    at: Floats
    valid: Flags


def positions(lengths: Ints, settings: SamplingSettings, draws: Draws | None = None) -> Positions:
    """The sampling grid of recordings of `lengths` `[b]` (each at least 1); without `draws` that of evaluation."""
    bins = np.arange(settings.frames, dtype=np.float64)
    last = (lengths - 1)[:, None].astype(np.float64)
    jitter = 0.0 if draws is None else draws.jitter
    if settings.mode == "pad":
        at = np.broadcast_to(bins + jitter, (len(lengths), settings.frames))
        return Positions(np.clip(at, 0.0, last), bins < lengths[:, None])
    width = lengths[:, None] / settings.frames
    at = (bins + 0.5) * width + jitter * width
    if settings.grid == "legacy":
        at = np.clip(at, 0.0, np.maximum(last - _LEGACY_MARGIN, 0.0))
    else:
        at = np.clip(at - 0.5, 0.0, last)
    if draws is not None and draws.pad.any():
        at = np.where(draws.pad[:, None], _last_frames(bins, last, settings.frames), at)
    return Positions(at, np.ones(at.shape, np.bool_))


def _last_frames(bins: Floats, last: Floats, num_frames: int) -> Floats:
    """The live app's buffer: the last `num_frames` frames at their own speed, padded by repeating the very last."""
    first: Floats = np.maximum(last - (num_frames - 1), 0.0)
    return np.asarray(np.minimum(first + bins, last))


@dataclass(frozen=True)
class Gather:
    """Which frames of the map a batch needs, and where in them each sampled frame finds its two neighbours."""

    frames: Ints
    """`[u]`, rows of the memory map, each once a clip, clip after clip."""
    clip: Ints
    """`[u]`, which clip of the batch a frame belongs to."""
    low: Ints
    """`[b * t]`, position in `frames` of the frame before or at."""
    high: Ints
    """`[b * t]`, of the frame after or at."""
    weight: Values
    """`[b * t]`, share of `high`."""


def plan_gather(starts: Ints, lengths: Ints, at: Floats) -> Gather:
    """The frames that positions `at` `[b, t]` of recordings at `starts` `[b]` touch."""
    snapped = np.where(np.abs(at - np.rint(at)) < _SNAP, np.rint(at), at)
    low = np.floor(snapped).astype(np.int64)
    high = np.ceil(snapped).astype(np.int64)
    # One flag per frame of the batch's recordings: cheaper than sorting, and the order is that of the map.
    begins = np.cumsum(lengths) - lengths
    used = np.zeros(int(lengths.sum()), np.bool_)
    used[(begins[:, None] + low).ravel()] = True
    used[(begins[:, None] + high).ravel()] = True
    local = np.flatnonzero(used)
    place = np.cumsum(used) - 1
    clip = np.repeat(np.arange(len(lengths)), lengths)[local]
    return Gather(
        frames=local - begins[clip] + starts[clip],
        clip=clip,
        low=place[(begins[:, None] + low).ravel()],
        high=place[(begins[:, None] + high).ravel()],
        weight=(snapped - low).astype(np.float32).ravel(),
    )


def read_frames(frames: NDArray[Any], rows: Ints) -> Values:
    """Frames `[u, k, f]` of the map as float32, copied."""
    return np.asarray(frames[rows], np.float32)


def present_groups(frames: Values, schema: Schema) -> Flags:
    """Which groups `[u, g]` the frames hold: any keypoint visible; without visibility, no value NaN and not all 0."""
    if schema.visibility is not None:
        seen = frames[:, :, schema.visibility] != 0
        return np.stack([seen[:, rows].any(1) for rows in schema.rows], 1)
    parts = [frames[:, rows].reshape(len(frames), -1) for rows in schema.rows]
    return np.stack([(part != 0).any(1) & ~np.isnan(part).any(1) for part in parts], 1)


def clear_missing(frames: Values, present: Flags, schema: Schema) -> None:
    """Set every value of a missing group to exactly 0, in place."""
    for group, rows in enumerate(schema.rows):
        missing = ~present[:, group]
        if missing.any():
            frames[missing, rows] = 0.0


def blend(frames: Values, present: Flags, gather: Gather, schema: Schema, out: Values) -> Flags:
    """Write sampled frames to `out` `[b * t, k * f]`, out of the gathered ones; returns their groups `[b * t, g]`."""
    num = len(out)
    flat = frames.reshape(len(frames), -1)
    scratch = np.empty((min(_BLOCK, num), flat.shape[1]), np.float32)
    has_low, has_high = present[gather.low], present[gather.high]
    share = shares(has_low, has_high, gather.weight)
    # Block by block, so that what the operations pass over stays in the cache.
    for start in range(0, num, _BLOCK):
        part = slice(start, min(start + _BLOCK, num))
        high = scratch[: part.stop - start]
        np.take(flat, gather.low[part], axis=0, out=out[part], mode="clip")
        np.take(flat, gather.high[part], axis=0, out=high, mode="clip")
        mix(out[part], high, share[part], schema)
    return has_low | has_high


def shares(has_first: Flags, has_second: Flags, weight: Values) -> Values:
    """Share `[n, g]` of the second in a blend: `weight` `[n]`; where only one of them has the group, that one's all."""
    return np.where(has_first != has_second, has_second, weight[:, None]).astype(np.float32)


def mix(first: Values, second: Values, share: Values, schema: Schema) -> None:
    """Blend `second` into `first` `[n, columns]` in place by `share` `[n, g]`; uses `second` as scratch."""
    np.subtract(second, first, out=second)
    width = second.shape[1] // schema.num_keypoints
    for group, rows in enumerate(schema.rows):
        second[:, rows.start * width : rows.stop * width] *= share[:, group, None]
    np.add(first, second, out=first)
