"""Images of a folder, decoded by Pillow and scaled to one size."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import HierarchyData
from trainer.errors import DataError
from trainer.tasks.hierarchy.counts import Counts


def read_images(
    folder: Path, names: Sequence[str], data: HierarchyData, counts: Counts, where: Callable[[int], str]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images `[N, 3, size, size]` as 0 .. 255, and which of them are there.

    A missing file is counted; one that does not decode is a bad sample. Raises DataError without Pillow.
    """
    try:
        from PIL import Image, UnidentifiedImageError
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
                scaled = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            counts.bad(f"{folder / name} ({where(row)})", f"does not decode: {str(error).splitlines()[0]}")
            continue
        pixels[row] = np.asarray(scaled).transpose(2, 0, 1)
        is_there[row] = True
    return pixels, is_there
