"""Recordings as a data set of the engine: `take` makes a whole batch at once.

    indices -> positions -> gather from the map -> normalise -> flip, affine -> blend -> noise, derived features, mixup

The contract: `take(indices, epoch)` is a pure function of its arguments and touches no shared state, so it may run in
any thread and a sample looks the same in every batch. Batch: `keypoints` float32 `[b, t, k*f]`, `label`, `signer`,
`index` int64 `[b]`, `present` bool `[b, t, g]`, `length` int64 `[b]`; `weight` float32 `[b]` with class weights;
`label_b` int64 and `mix` (share of `label`) float32 `[b]` with mixup.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.signs import SignsData
from trainer.data.dataset import Batch, Indices
from trainer.errors import DataError
from trainer.tasks.signs import normalise, sampling
from trainer.tasks.signs.augment import Augmenter
from trainer.tasks.signs.packed import Recordings
from trainer.tasks.signs.sampling import Flags, Ints, Values
from trainer.tasks.signs.schema import Schema

_PART = 32
"""Clips that are made at a time: arrays of more are handed back to the system each time, which costs as much again."""
_STATISTICS_BATCH = 64
_STATISTICS_SAMPLES = 8192
_SMALLEST_VARIANCE = 1e-8
_VISIBILITY_SPREAD = 0.5
"""A group that was never missing in training must not shoot up in the input when it is."""


@dataclass(frozen=True)
class Source:
    """Recordings and how they are read: what training and evaluation views have in common."""

    recordings: Recordings
    data: SignsData

    def __post_init__(self) -> None:
        """Refuse what has no frame. Raises DataError naming file and recording."""
        empty = np.flatnonzero(self.recordings.lengths < 1)
        if len(empty):
            name = self.recordings.names[int(empty[0])]
            raise DataError(f"{self.recordings.path}: recording {name} has no frame; remove it and pack again")

    @cached_property
    def schema(self) -> Schema:
        """The layout of loaded frames: that on disk, with cyclic features unrolled."""
        return self.recordings.schema.unrolled()

    @cached_property
    def input_schema(self) -> Schema:
        """The layout that the model sees, with derived features."""
        return self.schema.with_derived(self.data.derive)

    @property
    def profile(self) -> str:
        """What the values mean once they are loaded: raw, legacy, anchored or recording."""
        return self.recordings.normalisation if self.data.normalise == "none" else self.data.normalise

    @cached_property
    def centres(self) -> Values:
        """Mean position of every recording `[n, g, f]`, for `normalise: recording`."""
        all_of = self.recordings
        return normalise.recording_centres(all_of.frames, all_of.starts, all_of.lengths, all_of.schema)

    def load(self, rows: Ints, clip: Ints, frame_rows: Ints) -> tuple[Values, Flags]:
        """Normalised frames `[u, k, f]` and their groups `[u, g]`; `clip` points into the recordings `rows`."""
        schema = self.recordings.schema
        frames = sampling.read_frames(self.recordings.frames, frame_rows)
        present = sampling.present_groups(frames, schema)
        sampling.clear_missing(frames, present, schema)
        if self.data.normalise == "recording":
            normalise.centre_recording(frames, present, rows[clip], self.centres, schema)
        else:
            normalise.normalise_frames(frames, present, schema, self.data.normalise)
        return normalise.unroll(frames, schema), present


class SignsDataSet:
    """A view of recordings: `rows` of them, with or without augmentation."""

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        *,
        seed: int | None = None,
        class_weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Augments exactly when there is a `seed`; `class_weights` `[c]` go into the batches as `weight`."""
        self.source = source
        self.rows = np.asarray(rows, np.int64)
        self.labels: Ints = source.recordings.label[self.rows]
        self.class_weights = class_weights
        self.augmenter: Augmenter | None = None
        if seed is not None:
            data, raw = source.data, source.profile == "raw"
            self.augmenter = Augmenter(data.augment, data.sampling, source.schema, raw, seed)
        if source.data.normalise == "recording":
            _ = source.centres  # made here, because `take` must not change anything
        barred = set(source.data.augment.flip_except)
        self.may_flip = np.array([info.word not in barred for info in source.recordings.classes], np.bool_)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def take(self, indices: Indices, epoch: int) -> Batch:
        """Samples at `indices` (positions in this set) as they look in `epoch`."""
        clips, present = self._clips(indices, epoch)
        recordings, rows = self.source.recordings, self.rows[indices]
        batch = {
            "label": torch.from_numpy(recordings.label[rows]),
            "signer": torch.from_numpy(recordings.signer[rows]),
            "index": torch.from_numpy(np.array(indices, np.int64)),
            "length": torch.from_numpy(recordings.lengths[rows]),
        }
        if self.class_weights is not None:
            batch["weight"] = torch.from_numpy(self.class_weights[recordings.label[rows]])
        if self.mixes:
            self._mix(batch, clips, present, indices, epoch)
        batch["keypoints"] = torch.from_numpy(clips.reshape(*present.shape[:2], -1))
        batch["present"] = torch.from_numpy(present)
        return batch

    @property
    def mixes(self) -> bool:
        """Clips are blended with a second one."""
        return self.augmenter is not None and self.augmenter.settings.mixup > 0

    def partners(self, indices: Indices, epoch: int) -> tuple[Ints, Values]:
        """With mixup: the position of each sample's partner and the sample's own share."""
        assert self.augmenter is not None
        return self.augmenter.draw_mixup(indices, len(self), epoch)

    def _mix(self, batch: Batch, clips: Values, present: Flags, indices: Indices, epoch: int) -> None:
        """Blend each clip with its partner's, in place; a group that only one of them has is taken whole."""
        partner, share = self.partners(indices, epoch)
        others, others_present = self._clips(partner, epoch)
        frames, groups = present.shape[1:]
        weight = np.repeat(1.0 - share, frames).astype(np.float32)
        has, has_other = present.reshape(-1, groups), others_present.reshape(-1, groups)
        flat, other = clips.reshape(len(has), -1), others.reshape(len(has), -1)
        sampling.mix(flat, other, sampling.shares(has, has_other, weight), self.source.input_schema)
        present |= others_present
        recordings = self.source.recordings
        batch["label_b"] = torch.from_numpy(recordings.label[self.rows[partner]])
        batch["mix"] = torch.from_numpy(share)
        if self.class_weights is not None:
            batch["weight_b"] = torch.from_numpy(self.class_weights[recordings.label[self.rows[partner]]])

    def _clips(self, indices: Indices, epoch: int) -> tuple[Values, Flags]:
        """Clips `[b, t, k, f']` with derived features, and their groups `[b, t, g]`."""
        schema, num_frames = self.source.input_schema, self.source.data.sampling.frames
        clips = np.empty((len(indices), num_frames, schema.num_keypoints, schema.num_features), np.float32)
        present = np.empty((len(indices), num_frames, schema.num_groups), np.bool_)
        for start in range(0, len(indices), _PART):
            part = slice(start, start + _PART)
            present[part] = self._fill(clips[part], indices[part], epoch)
        return clips, present

    def _fill(self, out: Values, indices: Indices, epoch: int) -> Flags:
        """Write a few clips to `out` and return their groups."""
        recordings, rows, schema = self.source.recordings, self.rows[indices], self.source.schema
        lengths = recordings.lengths[rows]
        where = self._positions(lengths, indices, epoch)
        gather = sampling.plan_gather(recordings.starts[rows], lengths, where.at)
        frames, present = self.source.load(rows, gather.clip, gather.frames)
        if self.augmenter is not None:
            change = self.augmenter.draw_change(indices, self.may_flip[recordings.label[rows]], epoch)
            frames, present = self.augmenter.change_frames(frames, present, gather.clip, change)
        derive = self.source.data.derive
        clips = np.empty((*out.shape[:3], schema.num_features), np.float32) if derive else out
        groups = sampling.blend(frames, present, gather, schema, clips.reshape(len(gather.low), -1))
        groups = groups.reshape(*where.valid.shape, -1)
        if not where.valid.all():
            clips[~where.valid] = 0.0
            groups[~where.valid] = False
        if self.augmenter is not None and self.augmenter.settings.noise:
            self.augmenter.add_noise(clips, groups, indices, epoch)
        if derive:
            more = [
                velocity(clips, groups, schema) if w == "velocity" else length(groups, lengths, schema) for w in derive
            ]
            np.concatenate([clips, *more], axis=3, out=out)
        if schema.visibility is None:
            # As the model finds it out by itself where it gets nothing but the clip (an exported graph).
            groups = np.stack([(out[:, :, rows] != 0).any((2, 3)) for rows in schema.rows], 2)
        return groups

    def _positions(self, lengths: Ints, indices: Indices, epoch: int) -> sampling.Positions:
        """Where the frames are sampled: on the plain grid, or with this epoch's jitter and warp."""
        settings = self.source.data.sampling
        if self.augmenter is None:
            return sampling.positions(lengths, settings)
        where = sampling.positions(lengths, settings, self.augmenter.draw_sampling(indices, epoch))
        return self.augmenter.change_positions(where, lengths, indices, epoch)


def velocity(clips: Values, present: Flags, schema: Schema) -> Values:
    """Differences to the frame before `[b, t, k, coordinates]`, 0 in the first and where a group lacks in either."""
    values = clips[..., list(schema.coordinates)]
    difference = np.zeros_like(values)
    difference[:, 1:] = values[:, 1:] - values[:, :-1]
    both = present.copy()
    both[:, 1:] &= present[:, :-1]
    for group, rows in enumerate(schema.rows):
        difference[:, :, rows] *= both[:, :, group, None, None]
    return difference


def length(present: Flags, lengths: Ints, schema: Schema) -> Values:
    """Natural logarithm of one plus the recording's number of frames `[b, t, k, 1]`, 0 where a group is missing."""
    value = np.log1p(lengths).astype(np.float32)[:, None, None] * present
    points = [group.points for group in schema.groups]
    return np.repeat(value, points, axis=2)[..., None].astype(np.float32)


def input_statistics(view: SignsDataSet) -> tuple[Tensor, Tensor]:
    """Mean and variance `[k*f]` of a view without augmentation, in one stream over it in order.

    A large view is represented by 8,192 samples, evenly spread: all of KArSL would take half a minute. Only frames in
    which a column's group is present count. A column that never changes is centred and not scaled; the visibility is
    divided by half its range at least.
    """
    schema = view.source.input_schema
    count = np.zeros(schema.num_groups)
    total, squares = np.zeros(schema.width), np.zeros(schema.width)
    positions = np.linspace(0, len(view) - 1, min(len(view), _STATISTICS_SAMPLES)).astype(np.int64)
    for start in range(0, len(positions), _STATISTICS_BATCH):
        batch = view.take(positions[start : start + _STATISTICS_BATCH], 0)
        values = batch["keypoints"].numpy().reshape(-1, schema.width)
        count += batch["present"].numpy().sum((0, 1))
        # Missing groups are exactly 0 and add nothing.
        total += values.sum(0, dtype=np.float64)
        squares += np.einsum("ij,ij->j", values, values, dtype=np.float64)
    columns = np.repeat(np.maximum(count, 1.0), [c.stop - c.start for c in schema.columns])
    mean = total / columns
    variance = np.maximum(squares / columns - mean**2, 0.0)
    if schema.visibility is not None:
        seen = slice(schema.visibility, None, schema.num_features)
        variance[seen] = np.maximum(variance[seen], _VISIBILITY_SPREAD**2)
    variance = np.where(variance < _SMALLEST_VARIANCE, 1.0, variance)
    return torch.from_numpy(mean).float(), torch.from_numpy(variance).float()
