"""Reads `karsl-kps/<signer>-<split>/<sign:04>.npz`: one per signer, split and sign, one array a clip.

Keys are sorted, because the files hold them in directory order. Pickled arrays are refused. Files that other folders
have and one lacks are all named at once.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.signs.readers.source import Recording, Source, karsl_classes, karsl_session, listing_key
from trainer.tasks.signs.schema import Schema

_FOLDER = re.compile(r"(?P<signer>\d+)-(?P<split>train|val|test)")
_FILE = re.compile(r"(\d{4})\.npz")
SUBFOLDER = "karsl-kps"


def is_here(path: Path) -> bool:
    """Does `path` (or its `karsl-kps`) hold folders like `01-train`?"""
    return bool(_folders(path))


def open_source(path: Path, schema: Schema) -> Source:
    """The clips of all signers and splits, word by word. Raises DataError if there is no file."""
    del schema  # the layout has one
    folders = _folders(path)
    files = {(folder, int(_FILE.fullmatch(file.name)[1])): file for folder in folders for file in _npz(folder)}  # type: ignore[index]
    if not files:
        raise DataError(f"{path} has no <sign>.npz files")
    root = folders[0].parent
    words = sorted({word for _, word in files})
    classes = karsl_classes(root, words)
    return Source(
        layout="karsl_npz",
        path=str(path),
        schema=Schema.preset("karsl"),
        classes=classes,
        signers=sorted({folder.name.partition("-")[0] for folder in folders}),
        stream=lambda: _stream(folders, words, files),
        key=listing_key(root, files.values(), classes),
    )


def _folders(path: Path) -> list[Path]:
    root = path / SUBFOLDER if (path / SUBFOLDER).is_dir() else path
    if not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if _FOLDER.fullmatch(folder.name) and folder.is_dir())


def _npz(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _FILE.fullmatch(file.name))


def _stream(
    folders: list[Path], words: list[int], files: dict[tuple[Path, int], Path]
) -> Iterator[Recording | BadSample]:
    missing = [f"{folder.name}/{word:04d}.npz" for word in words for folder in folders if (folder, word) not in files]
    if missing:
        yield BadSample(str(folders[0].parent), f"lacks {len(missing)} files that others have: {', '.join(missing)}")
    for word in words:
        for folder in folders:
            if (folder, word) in files:
                yield from _clips(files[folder, word], word, folder.name)


def _clips(file: Path, word: int, folder: str) -> Iterator[Recording | BadSample]:
    signer, _, split = folder.partition("-")
    try:
        with np.load(file, allow_pickle=False) as archive:
            for key in sorted(archive.files):
                yield _clip(archive, key, file, word, signer, split)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        yield BadSample(str(file), f"cannot be read, it is truncated or no npz file ({error})")


def _clip(
    archive: np.lib.npyio.NpzFile, key: str, file: Path, word: int, signer: str, split: str
) -> Recording | BadSample:
    where = f"{file}, clip {key}"
    try:
        frames = archive[key]
    except ValueError as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise DataError(f"{where}: holds pickled objects, refused: they could run any code") from None
        return BadSample(where, f"cannot be read ({error})")
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        return BadSample(where, f"is damaged ({error})")
    if frames.dtype.kind not in "fiu":
        return BadSample(where, f"has values of type {frames.dtype}")
    return Recording(frames.astype(np.float32), word, signer, karsl_session(signer, key), key, split, where)
