"""Writes the packed form as a stream: frames are appended as they come, so any corpus needs constant memory.

Everything goes into a temporary folder beside the target; digests grow while bytes are written; after fsync one
rename makes the folder appear. Whatever interrupts it, the target is whole or not there.
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample, BadSamples
from trainer.tasks.folders import HashedFile, copy_files, whole_folder
from trainer.tasks.signs.packed import COLUMNS, FORMAT, FRAMES, HEADER, NAMES, SPLITS, VERSION, files_of, header_digest
from trainer.tasks.signs.profile import profile_of
from trainer.tasks.signs.readers.source import Recording, Source

Progress = Callable[[int, int | None], None]
"""Called with the recordings packed so far and their number, where it is known."""


class PackWriter:
    """Appends checked recordings of one source to a folder; `finish` writes columns and header."""

    def __init__(self, folder: Path, source: Source, dtype: str) -> None:
        self.folder, self.source, self.dtype = folder, source, np.dtype(dtype)
        self.frames = HashedFile(folder / FRAMES)
        self.names = HashedFile(folder / NAMES)
        self.columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        self.columns["offsets"].append(0)
        self.class_of = {info.word: i for i, info in enumerate(source.classes)}
        self.signer_of = {name: i for i, name in enumerate(source.signers)}
        self.sessions: dict[str, int] = {}
        self.profiles: dict[str, str] = {}

    def append(self, recording: Recording) -> BadSample | None:
        """Add one recording, or say why it cannot be used. Raises DataError where normalisations mix."""
        with np.errstate(over="ignore"):
            frames = np.ascontiguousarray(recording.frames, self.dtype)
        reason = self._fault(recording, frames) or self._note_profile(recording)
        if reason:
            return BadSample(recording.where or recording.name, reason)
        self.frames.write(frames.tobytes())
        self.names.write(f"{recording.name}\n".encode())
        session = self.sessions.setdefault(recording.session, len(self.sessions))
        self.columns["offsets"].append(self.columns["offsets"][-1] + len(frames))
        self.columns["label"].append(self.class_of[recording.word])
        self.columns["signer"].append(self.signer_of[recording.signer])
        self.columns["session"].append(session)
        self.columns["split"].append(SPLITS.index(recording.split))
        return None

    def finish(self, bad: BadSamples) -> None:
        """Write columns, then the header with the number of bad samples. Raises DataError if none was usable."""
        if not self.columns["label"]:
            raise DataError(f"{self.source.path} ({self.source.layout}) has no usable recording")
        files = {FRAMES: self.frames.close(), NAMES: self.names.close()}
        for name, values in self.columns.items():
            files[f"{name}.npy"] = self._write_column(f"{name}.npy", np.asarray(values, np.int64))
        header = {
            "format": FORMAT,
            "version": VERSION,
            "layout": self.source.layout,
            "normalisation": next(iter(self.profiles), "raw"),
            "dtype": self.dtype.name,
            "num_frames": self.columns["offsets"][-1],
            "num_recordings": len(self.columns["label"]),
            "schema": self.source.schema.to_json(),
            "classes": [asdict(info) for info in self.source.classes],
            "signers": self.source.signers,
            "sessions": list(self.sessions),
            "options": self.source.options,
            "files": files,
        }
        if bad.lines:
            header["left_out"] = {"skipped": bad.num_skipped, "tolerated": bad.num_tolerated}
        header["digest"] = header_digest(header)
        file = HashedFile(self.folder / HEADER)
        file.write(json.dumps(header, indent=1, ensure_ascii=False).encode())
        file.close()

    def close(self) -> None:
        """Let go of the files, finished or not."""
        self.frames.file.close()
        self.names.file.close()

    def _fault(self, recording: Recording, frames: NDArray[Any]) -> str:
        """Why a recording cannot be used; empty if it can. `frames` are already in the packed dtype."""
        shape = (self.source.schema.num_keypoints, self.source.schema.num_features)
        if frames.ndim != 3 or frames.shape[1:] != shape:
            return f"has shape {list(frames.shape)}, expected [frames, {shape[0]}, {shape[1]}]"
        if len(frames) == 0:
            return "has no frames"
        if not np.isfinite(frames).all():
            if np.isfinite(recording.frames).all():
                return f"has values beyond {self.dtype.name}; pack it as float32"
            return f"has NaN or infinite values, first in frame {_first_bad_frame(frames)}"
        if recording.word not in self.class_of:
            return f"has the unknown word id {recording.word}"
        if recording.signer not in self.signer_of:
            return f"has the unknown signer {recording.signer!r}"
        if recording.split not in SPLITS:
            return f"has the unknown split {recording.split!r}; there are train, val, test"
        if "\n" in recording.name:
            return "has a line break in its name"
        return ""

    def _note_profile(self, recording: Recording) -> str:
        """Remember which normalisation the recording has on disk. Why it cannot be used, or empty.

        Raises DataError if another recording had another one.
        """
        profile = profile_of(recording.frames, self.source.schema)
        if profile == "unknown" and self.source.layout != "open":
            return "is neither raw nor normalised: x and y are far outside of the picture"
        profile = profile.replace("unknown", "raw")  # units of the user's own, pixels for example
        if profile:
            self.profiles.setdefault(profile, recording.where or recording.name)
        if len(self.profiles) > 1:
            parts = " but ".join(f"{where} is {name}" for name, where in self.profiles.items())
            raise DataError(f"{parts}: raw and normalised recordings cannot be mixed; extract them the same way")
        return ""

    def _write_column(self, name: str, values: NDArray[np.int64]) -> dict[str, Any]:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        file = HashedFile(self.folder / name)
        file.write(buffer.getvalue())
        return file.close()


def pack(
    source: Source,
    target: str | Path,
    *,
    dtype: str = "float32",
    bad: BadSamples | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Path:
    """Stream `source` into the packed folder `target` and return its path.

    Raises DataError for bad samples as `bad` says (default: at the first), for a target that exists, and for mixed
    normalisations; InfrastructureError if the disk refuses. In every case nothing half-written is left.
    """
    target = Path(target)
    bad = bad or BadSamples()
    with whole_folder(target, HEADER, overwrite=overwrite) as folder:
        writer = PackWriter(folder, source, dtype)
        try:
            for num_seen, item in enumerate(source.stream(), start=1):
                fault = item if isinstance(item, BadSample) else writer.append(item)
                if fault is not None:
                    bad.add(fault)
                if progress is not None:
                    progress(num_seen, source.num_recordings)
            writer.finish(bad)
        finally:
            writer.close()
    return target


def copy(source: Path, target: Path, *, overwrite: bool = False) -> Path:
    """Copy the packed folder `source` to `target` and return it; errors and promise are those of `pack`."""
    return copy_files(source, files_of(source), target, HEADER, overwrite=overwrite)


def _first_bad_frame(frames: NDArray[Any]) -> int:
    return int(np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2)))[0])
