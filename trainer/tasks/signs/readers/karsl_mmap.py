"""Reads `<split>_X.mmap` with its shape, labels and pickled table of lengths (signs.md 3.3).

Clips stand in the order sign, signer, clip; the table of lengths says how many frames each has, so any clip is found
from (sign, signer) and the labels are only checked. Pickle can run code: `unpickler` builds nothing but what the table
is made of.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.signs.readers.source import Recording, Source, karsl_classes, listing_key
from trainer.tasks.signs.readers.unpickler import load_table
from trainer.tasks.signs.schema import Schema

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Part:
    """One split's files."""

    split: str
    frames: NDArray[np.float32]
    file: Path
    clips: list[tuple[int, int, int]]
    """(sign, signer, number of frames) in the order of the file."""


def is_here(path: Path) -> bool:
    """Does `path` hold `train_X.mmap` or one of the other splits?"""
    return any((path / f"{split}_X.mmap").is_file() for split in SPLITS)


def open_source(path: Path, schema: Schema) -> Source:
    """The clips of all splits. Raises DataError for files that do not fit each other."""
    del schema  # the layout has one
    parts = [_open_part(path, split) for split in SPLITS if (path / f"{split}_X.mmap").is_file()]
    clips = [clip for part in parts for clip in part.clips]
    classes = karsl_classes(path, sorted({word for word, _, _ in clips}))
    files = [file for file in path.iterdir() if file.is_file() and file.name.partition("_")[0] in SPLITS]
    return Source(
        layout="karsl_mmap",
        path=str(path),
        schema=Schema.preset("karsl"),
        classes=classes,
        signers=sorted({f"{signer:02d}" for _, signer, _ in clips}),
        stream=lambda: _stream(parts),
        key=listing_key(path, files, classes),
        num_recordings=len(clips),
    )


def _open_part(path: Path, split: str) -> _Part:
    """Map one split and check shape, table and labels against each other."""
    file = path / f"{split}_X.mmap"
    keypoints = Schema.preset("karsl")
    shape = [int(size) for size in _array(path / f"{split}_X_shape.npy")]
    if len(shape) != 3 or shape[1:] != [keypoints.num_keypoints, keypoints.num_features]:
        raise DataError(f"{path / f'{split}_X_shape.npy'} says {shape}, expected [frames, 184, 4]")
    expected, found = 4 * shape[0] * shape[1] * shape[2], file.stat().st_size
    if found != expected:
        raise DataError(f"{file} has {found} bytes, its shape file says {expected}: it is truncated or of another set")
    clips = _clips(path / f"{split}_X_map_samples_lens.npy")
    total = sum(frames for _, _, frames in clips)
    if total != shape[0]:
        raise DataError(f"{path / f'{split}_X_map_samples_lens.npy'} counts {total} frames, {file} has {shape[0]}")
    labels = _array(path / f"{split}_y.npz")
    if labels.tolist() != [word - 1 for word, _, _ in clips]:
        raise DataError(f"{path / f'{split}_y.npz'} does not have the labels of its table of lengths")
    if not clips:
        return _Part(split, np.zeros((0, shape[1], shape[2]), np.float32), file, clips)
    return _Part(split, np.memmap(file, np.float32, "r", shape=tuple(shape)), file, clips)


def _clips(file: Path) -> list[tuple[int, int, int]]:
    """The table of lengths as a flat list in the order of the clips; signers keep the table's order."""
    table = load_table(file)
    try:
        return [
            (int(word), int(signer), int(frames))
            for word in sorted(table)
            for signer, lengths in table[word].items()
            for frames in lengths
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{file} is no table sign -> signer -> list of lengths ({error})") from None


def _array(file: Path) -> NDArray[np.int64]:
    """An integer array from a .npy file, or `arr_0` of a .npz file."""
    try:
        content = np.load(file, allow_pickle=False)
        values = content["arr_0"] if file.suffix == ".npz" else content
        return np.asarray(values, np.int64)
    except FileNotFoundError:
        raise DataError(f"{file} is missing") from None
    except Exception as error:  # numpy raises what zip, zlib and its own parser raise
        raise DataError(f"{file} cannot be read ({error})") from None


def _stream(parts: list[_Part]) -> Iterator[Recording | BadSample]:
    for part in parts:
        start, position, before = 0, 0, (0, 0)
        for word, signer, num_frames in part.clips:
            position = position + 1 if (word, signer) == before else 1
            before = (word, signer)
            name = f"{signer:02d}_{word:04d}_{part.split}_{position:03d}"
            frames = np.array(part.frames[start : start + num_frames])
            start += num_frames
            where = f"{part.file}, sign {word}, signer {signer:02d}, clip {position}"
            yield Recording(frames, word, f"{signer:02d}", f"{signer:02d}", name, part.split, where)
