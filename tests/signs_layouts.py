"""Writes a small generated corpus in each layout of KArSL, so that every reader is tested on the same clips."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.config.signs import SignsData
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.signs.readers import find_source
from trainer.tasks.signs.readers.source import Recording, Source
from trainer.tasks.signs.schema import Schema
from trainer.tasks.signs.synthetic import clip_name, record

Clips = dict[tuple[int, int, str], list[tuple[str, NDArray[np.float32]]]]
"""(word, signer, split) -> clips in the order of their names."""


def make_clips(words: list[int], num_signers: int = 2) -> Clips:
    """Two clips to train and one to test of every word and signer."""
    clips: Clips = {}
    for word in words:
        for signer in range(1, num_signers + 1):
            made = [(clip_name(word, signer, r), record(0, word, signer, r)) for r in range(3)]
            clips[word, signer, "train"], clips[word, signer, "test"] = sorted(made[:2]), made[2:]
    return clips


def write_npz(root: Path, clips: Clips) -> Path:
    """`karsl-kps/<signer>-<split>/<sign:04>.npz`, keys in the wrong order as in the originals."""
    for (word, signer, split), content in clips.items():
        folder = root / "karsl-kps" / f"{signer:02d}-{split}"
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: frames.astype(np.float64) for name, frames in reversed(content)}
        np.savez_compressed(folder / f"{word:04d}.npz", **arrays)
    return root


def write_mmap(root: Path, clips: Clips) -> Path:
    """The memory-mapped files of each split; values pass through float16 as in the originals."""
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        keys = sorted(key for key in clips if key[2] == split)
        parts = [frames for key in keys for _, frames in clips[key]]
        frames = np.concatenate(parts).astype(np.float16).astype(np.float32)
        frames.tofile(root / f"{split}_X.mmap")
        np.save(root / f"{split}_X_shape.npy", np.array(frames.shape))
        np.savez(root / f"{split}_y.npz", np.array([key[0] - 1 for key in keys for _ in clips[key]]))
        table: dict[int, dict[int, list[int]]] = {}
        for word, signer, _ in keys:
            table.setdefault(word, {})[signer] = [len(frames) for _, frames in clips[word, signer, split]]
        np.save(root / f"{split}_X_map_samples_lens.npy", np.array(table, dtype=object))
    return root


def write_labels(root: Path, num_words: int = 502) -> None:
    """A label file as the original: numbers first, a repeated English name, Arabic text."""
    english = [*range(31), *(f"word {n}" for n in range(32, 503))]
    arabic = [*range(31), *(f"كلمة {n}" for n in range(32, 503))]
    english[40] = english[41] = "thermometer"
    content = {"AR_WORDS": arabic[:num_words], "EN_WORDS": english[:num_words]}
    (root / "KARSL-502_Labels.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def source_at(path: Path, layout: str = "auto", preset: str = "karsl") -> Source:
    return find_source(path, layout, Schema.preset(preset))


def stream_of(path: Path, layout: str = "auto", preset: str = "karsl") -> list[Recording | BadSample]:
    return list(source_at(path, layout, preset).stream())


def data_settings(path: Path, **settings: object) -> SignsData:
    return SignsData(path=str(path), **settings)
