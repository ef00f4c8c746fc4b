"""Images of a folder, decoded by Pillow, upright and scaled to one size."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import HierarchyData
from trainer.errors import DataError
from trainer.tasks.hierarchy.counts import Counts

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_DEEP = 1 << 16
"""Brightnesses of 16 bits."""


def read_images(
    folder: Path, names: Sequence[str], data: HierarchyData, counts: Counts, where: Callable[[int], str]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images `[N, 3, size, size]` as 0 .. 255, and which of them are there.

    A missing file is counted; one that does not decode is a bad sample. Raises DataError without Pillow.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise DataError(f"{folder} holds images, which need Pillow: pip install 'signs-trainer[images]'") from None
    size = data.image_size
    pixels = np.zeros((len(names), 3, size, size), np.uint8)
    is_there = np.zeros(len(names), bool)
    for row, name in enumerate(names):
        if not name or not (folder / name).is_file():
            counts.add("missing_image")
            continue
        try:
            with Image.open(folder / name) as image:
                upright = ImageOps.exif_transpose(image)  # telephones store the sensor's rows, and how it was held
                scaled = _shallow(upright).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            counts.bad(f"{folder / name} ({where(row)})", f"does not decode: {str(error).splitlines()[0]}")
            continue
        pixels[row] = np.asarray(scaled).transpose(2, 0, 1)
        is_there[row] = True
    return pixels, is_there


def _shallow(image: "Picture") -> "Picture":
    """A grey image of 16 bits in 8, which Pillow would cut off at 255 instead. Raises ValueError for other depths."""
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() >= _DEEP:
        raise ValueError(f"its brightness (mode {image.mode}) has no range of 8 or 16 bits; save it with one")
    return Image.fromarray((values >> 8).astype(np.uint8))
