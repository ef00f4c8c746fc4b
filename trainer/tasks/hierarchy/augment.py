"""Random changes of the features of training rows, a whole batch at once; labels and blocks stay as they are.

Every draw is keyed by (seed, epoch, row): a row looks the same whichever batch or rank it lands in, and as a partner.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import HierarchyAugment
from trainer.data.dataset import Indices
from trainer.data.keys import derive, normal, uniform

Features = NDArray[np.float32]
IMAGE_CHANGES = ("flip", "crop", "colour", "erase")
_AREA = (0.02, 0.2)
"""Of an erased rectangle, as shares of the image."""


@dataclass(frozen=True)
class Augment:
    """Flip, shift, colour, erasing (images `[B, channels, height, width]`) and noise (all)."""

    settings: HierarchyAugment
    deviation: Features
    """Of each feature over the training rows, shaped to go with them; the unit of the noise."""
    seed: int

    def __call__(self, features: Features, rows: Indices, epoch: int) -> Features:
        """Changed copies of the features of these rows."""
        settings = self.settings
        if features.ndim == 4 and any(getattr(settings, name) for name in IMAGE_CHANGES):
            draws = uniform(derive(self.seed, "augment", epoch), rows, 10)
            flips = draws[:, 0] < settings.flip
            features = np.where(flips[:, None, None, None], features[..., ::-1], features)
            features = _shifted(features, draws[:, 1:3], settings.crop)
            features = _coloured(features, draws[:, 3:5], settings.colour)
            features = _erased(features, draws[:, 5:10], settings.erase)
        if settings.noise:
            noise = normal(derive(self.seed, "noise", epoch), rows, int(np.prod(features.shape[1:])))
            features = features + settings.noise * self.deviation * noise.reshape(features.shape).astype(np.float32)
        return features.astype(np.float32, copy=False)


def _shifted(images: Features, draws: NDArray[np.float64], most: int) -> Features:
    """Moved by up to `most` pixels both ways; 0 moves in."""
    if not most:
        return images
    height, width = images.shape[-2:]
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    offset = (draws * (2 * most + 1)).astype(np.int64)
    rows = offset[:, 0, None] + np.arange(height)
    columns = offset[:, 1, None] + np.arange(width)
    batch = np.arange(len(images))
    moved: Features = padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.transpose(0, 3, 1, 2)


def _coloured(images: Features, draws: NDArray[np.float64], strength: float) -> Features:
    """Contrast around the image's own mean, then brightness, as factors."""
    if not strength:
        return images
    factors = (1.0 + strength * (2.0 * draws - 1.0)).astype(np.float32)[:, :, None, None, None]
    mean = images.mean((1, 2, 3), keepdims=True)
    coloured: Features = ((images - mean) * factors[:, 0] + mean) * factors[:, 1]
    return coloured


def _erased(images: Features, draws: NDArray[np.float64], probability: float) -> Features:
    """A rectangle of 0 in some images; its sides differ by a factor of at most two."""
    if not probability:
        return images
    height, width = images.shape[-2:]
    area = _AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, 1]
    ratio = 2.0 ** (draws[:, 2] - 0.5)
    inside = []
    for length, share, place in ((height, np.sqrt(area) * ratio, 3), (width, np.sqrt(area) / ratio, 4)):
        start = draws[:, place] * (1.0 - share) * length
        cells = np.arange(length)
        inside.append((cells >= start[:, None]) & (cells < (start + share * length)[:, None]))
    hole = inside[0][:, :, None] & inside[1][:, None, :] & (draws[:, 0] < probability)[:, None, None]
    return np.where(hole[:, None], np.float32(0), images)
