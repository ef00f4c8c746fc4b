"""The data path that people know: memory-mapped recordings, one sample at a time, collated by the DataLoader.

Straight-line numpy that does what the public trainer of signs.md does (TSN sampling with jitter, linear interpolation
in float64, flip, one affine map a clip, torch's own collate function), down to the permutations that it makes and
throws away. Masks, normalisation and keyed draws it does not have.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from trainer.tasks.signs.packed import Recordings

POSE, FACE, RIGHT, LEFT = slice(0, 6), slice(6, 142), slice(142, 163), slice(163, 184)


class PerSample(Dataset[tuple[Tensor, int]]):
    """KArSL clips as (`[frames, 736]` float32, label)."""

    def __init__(self, recordings: Recordings, num_frames: int, seed: int = 0) -> None:
        self.recordings, self.num_frames = recordings, num_frames
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One sampled and augmented clip."""
        start, length = int(self.recordings.starts[index]), int(self.recordings.lengths[index])
        clip = self._sampled(self.recordings.frames[start : start + length], length)
        if self.random.random() < 0.5:
            clip = self._flipped(clip)
        if self.random.random() < 0.5:
            clip = self._moved(clip)
        flat = np.ascontiguousarray(clip.reshape(self.num_frames, -1), np.float32)
        return torch.from_numpy(flat), int(self.recordings.label[index])

    def _sampled(self, clip: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        """`num_frames` frames at jittered places, blended between neighbours."""
        width = length / self.num_frames
        places = (np.arange(self.num_frames) + 0.1 + 0.8 * self.random.random(self.num_frames)) * width
        places = np.clip(places, 0, length - 1 - 1e-6)
        below = np.floor(places).astype(np.int64)
        above = np.minimum(below + 1, length - 1)
        part = (places - below)[:, None, None]
        return clip[below] * (1 - part) + clip[above] * part

    def _moved(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """One rotation, scale and shift of the whole clip in x and y."""
        angle = np.deg2rad(self.random.uniform(-15, 15))
        scale = self.random.uniform(0.85, 1.15)
        rotation = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        clip[..., :2] = clip[..., :2] @ rotation + self.random.uniform(-0.1, 0.1, 2)
        return clip

    def _flipped(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mirror image as that program makes it: x negated, hands swapped, the rest permuted for nothing."""
        rows = self.recordings.schema.mirror_rows
        clip[..., 0] *= -1
        _ = clip[:, rows[POSE]], clip[:, rows[FACE]]
        right = clip[:, RIGHT].copy()
        clip[:, RIGHT] = clip[:, LEFT]
        clip[:, LEFT] = right
        return clip
