"""Augmentation of training clips (signs.md 6): every draw is keyed by (seed, "augment", epoch) and the sample.

    positions: jitter, warp, crop, frame drop    -> before the frames are read
    frames:    flip, rotation, scale, shift      -> one row permutation and one matrix a clip, on the gathered frames
    clips:     noise                             -> on the sampled frames

Flip and affine act on the gathered frames, before blending: both are linear, so the order changes nothing, and there
are fewer gathered frames than sampled ones. Missing rows stay exactly 0: a matrix keeps 0, offsets are masked.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from trainer.config.signs import AugmentSettings, SamplingSettings
from trainer.data.keys import derive, normal, uniform
from trainer.tasks.signs.sampling import Draws, Flags, Floats, Ints, Positions, Values, clear_missing
from trainer.tasks.signs.schema import Schema

POSE = "pose"


@dataclass(frozen=True)
class Change:
    """What happens to the frames of each clip of a batch: `frame[rows of flip] @ matrix + offset`."""

    flip: Flags
    """`[b]`."""
    matrix: Values
    """`[b, f, f]`, for row vectors."""
    offset: Values
    """`[b, g, f]`, added where the group is present."""
    dropped: Flags
    """`[b, g]`, groups that go missing in the whole clip."""


@dataclass(frozen=True)
class Augmenter:
    """The random changes of one training set."""

    settings: AugmentSettings
    sampling: SamplingSettings
    schema: Schema
    raw: bool
    """Coordinates are those of the image (0..1): mirrored and turned about its middle, shifted as a whole."""
    seed: int

    def key(self, epoch: int, purpose: str) -> int:
        """Key of the draws of one kind in one epoch."""
        return derive(self.seed, "augment", epoch, purpose)

    def draw_sampling(self, indices: Ints, epoch: int) -> Draws:
        """Jitter of every frame position and the clips to pad instead of stretch."""
        jitter = 2.0 * uniform(self.key(epoch, "jitter"), indices, self.sampling.frames) - 1.0
        pad = uniform(self.key(epoch, "pad"), indices, 1)[:, 0] < self.sampling.pad_probability
        return Draws(self.sampling.jitter * jitter, pad)

    def change_positions(self, positions: Positions, lengths: Ints, indices: Ints, epoch: int) -> Positions:
        """Time warp, crop and frame drop."""
        at = positions.at
        if self.settings.time_warp:
            strength = self.settings.time_warp * (2.0 * uniform(self.key(epoch, "warp"), indices, 2) - 1.0)
            at = warp(at, lengths, strength)
        if self.settings.crop:
            cut = self.settings.crop * uniform(self.key(epoch, "crop"), indices, 2)
            at = crop(at, lengths, cut[:, :1], cut[:, 1:])
        if self.settings.frame_drop:
            drop = uniform(self.key(epoch, "frame_drop"), indices, at.shape[1]) < self.settings.frame_drop
            at = hold(at, drop)
        return replace(positions, at=at)

    def draw_change(self, indices: Ints, may_flip: Flags, epoch: int) -> Change:
        """Flip, affine, feature scales and dropped groups; `may_flip` `[b]` by word."""
        schema, num = self.schema, len(indices)
        flip = may_flip & (uniform(self.key(epoch, "flip"), indices, 1)[:, 0] < self.settings.flip)
        flip &= schema.can_flip
        matrix = np.broadcast_to(np.eye(schema.num_features), (num, schema.num_features, schema.num_features)).copy()
        if schema.can_flip:
            x = schema.features.index("x")
            matrix[flip, x, x] = -1.0
        turn, shift = self._affine(indices, epoch)
        matrix = matrix @ turn
        if self.settings.axis_scale:
            scale = 1.0 + self.settings.axis_scale * (
                2.0 * uniform(self.key(epoch, "axis"), indices, len(turn[0])) - 1.0
            )
            matrix[:, :, list(schema.values)] *= scale[:, None, list(schema.values)]
        dropped = uniform(self.key(epoch, "group_drop"), indices, schema.num_groups) < self.settings.group_drop
        dropped[:, 0] = False
        return Change(flip, matrix.astype(np.float32), self._offset(matrix, shift), dropped)

    def _affine(self, indices: Ints, epoch: int) -> tuple[Floats, Floats]:
        """Rotation with scale `[b, f, f]` and shift `[b, f]`, the identity and 0 for clips that are left alone."""
        settings, features = self.settings, self.schema.features
        draws = uniform(self.key(epoch, "affine"), indices, 5)
        chosen = draws[:, 0] < settings.affine
        signed = np.where(chosen[:, None], 2.0 * draws[:, 1:] - 1.0, 0.0)
        if "x" not in features or "y" not in features:
            signed[:] = 0.0
        angle = math.radians(settings.degrees) * signed[:, 0]
        scale = 1.0 + settings.scale * signed[:, 1]
        matrix = affine_matrix(angle, scale, features)
        shift = np.zeros((len(indices), len(features)))
        for name, column in (("x", 2), ("y", 3)):
            if name in features:
                shift[:, features.index(name)] = settings.shift * signed[:, column]
        return matrix, shift

    def _offset(self, matrix: Floats, shift: Floats) -> Values:
        """What is added to each group: the shift where the group is not centred on itself, the image's middle kept."""
        offset = np.zeros((len(matrix), self.schema.num_groups, self.schema.num_features))
        for number, group in enumerate(self.schema.groups):
            if self.raw or group.name == POSE or group.anchor is None:
                offset[:, number] = shift
        if self.raw:
            middle = np.array([0.5 if name in ("x", "y") else 0.0 for name in self.schema.features])
            offset += (middle - middle @ matrix)[:, None]
        return offset.astype(np.float32)

    def change_frames(self, frames: Values, present: Flags, clip: Ints, change: Change) -> tuple[Values, Flags]:
        """Frames `[u, k, f]` and their groups `[u, g]` as `change` wants them; `clip` `[u]` says whose they are."""
        schema = self.schema
        flipped = np.flatnonzero(change.flip[clip])
        if len(flipped):
            # Positions and `take` run seven times faster than a boolean mask and a fancy index.
            frames[flipped] = np.take(frames[flipped], schema.mirror_rows, axis=1)
            present = present.copy()
            present[flipped] = present[flipped][:, schema.mirror_groups]
        frames = np.matmul(frames, change.matrix[clip])
        for group, feature in np.argwhere(change.offset.any(0)).tolist():
            frames[:, schema.rows[group], feature] += (change.offset[clip, group, feature] * present[:, group])[:, None]
        if change.dropped.any():
            present = present & ~change.dropped[clip]
            clear_missing(frames, present, schema)
        return frames, present

    def add_noise(self, clips: Values, present: Flags, indices: Ints, epoch: int) -> None:
        """Gaussian noise on all values but the visibility of clips `[b, t, k, f]`, in place, present groups only."""
        values = list(self.schema.values)
        shape = (*clips.shape[:3], len(values))
        noise = normal(self.key(epoch, "noise"), indices, math.prod(shape[1:])).reshape(shape)
        for group, rows in enumerate(self.schema.rows):
            scale = self.settings.noise * present[:, :, group, None, None]
            clips[:, :, rows, values] += (scale * noise[:, :, rows]).astype(np.float32)

    def draw_mixup(self, indices: Ints, num_samples: int, epoch: int) -> tuple[Ints, Values]:
        """Partner of each sample among all `num_samples`, and the sample's own share ~ Beta(alpha, alpha), `[b]`.

        Both hang on the sample alone, so they are the same in any batch and on any rank.
        """
        draws = uniform(self.key(epoch, "mixup"), indices, 2)
        partner = np.minimum((draws[:, 0] * num_samples).astype(np.int64), num_samples - 1)
        seeds = (draws[:, 1] * 2**53).astype(np.uint64).tolist()
        alpha = self.settings.mixup
        shares = [np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha) for seed in seeds]
        return partner, np.array(shares, np.float32)


def affine_matrix(angle: Floats, scale: Floats, features: tuple[str, ...]) -> Floats:
    """`[b, f, f]` for row vectors: (x', y') = s (x cos - y sin, x sin + y cos), z' = s z, other features unchanged."""
    matrix = np.broadcast_to(np.eye(len(features)), (len(angle), len(features), len(features))).copy()
    if "z" in features:
        z = features.index("z")
        matrix[:, z, z] = scale
    if "x" in features and "y" in features:
        x, y = features.index("x"), features.index("y")
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        matrix[:, x, x], matrix[:, x, y], matrix[:, y, x], matrix[:, y, y] = cosine, sine, -sine, cosine
    return matrix


def warp(at: Floats, lengths: Ints, strength: Floats) -> Floats:
    """Positions `[b, t]` under a smooth change of speed; `strength` `[b, 2]` in (-1, 1) keeps their order.

    u -> u + a sin(pi u) / 2 pi + b sin(2 pi u) / 4 pi on the unit interval: both ends stay, the speed 1 + a/2 cos(pi u)
    + b/2 cos(2 pi u) stays positive.
    """
    frames = lengths[:, None].astype(np.float64)
    unit = (at + 0.5) / frames
    slow, fast = strength[:, :1], strength[:, 1:]
    warped = unit + slow * np.sin(np.pi * unit) / (2 * np.pi) + fast * np.sin(2 * np.pi * unit) / (4 * np.pi)
    return np.asarray(np.clip(warped * frames - 0.5, 0.0, frames - 1.0))


def crop(at: Floats, lengths: Ints, head: Floats, tail: Floats) -> Floats:
    """Positions `[b, t]` squeezed into what is left when the shares `head` and `tail` `[b, 1]` are cut off the ends."""
    frames = lengths[:, None].astype(np.float64)
    unit = head + (1.0 - head - tail) * (at + 0.5) / frames
    return np.asarray(np.clip(unit * frames - 0.5, 0.0, frames - 1.0))


def hold(at: Floats, drop: Flags) -> Floats:
    """Dropped frames `[b, t]` show the last frame that was not dropped; the first is always kept."""
    columns = np.where(drop, 0, np.arange(at.shape[1]))
    return np.asarray(np.take_along_axis(at, np.maximum.accumulate(columns, axis=1), axis=1))
