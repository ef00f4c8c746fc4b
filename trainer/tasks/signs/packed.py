"""The packed form of recordings: one folder of memory-mapped arrays that every layout is brought into once.

    header.json     layout, schema, normalisation, dtype, classes, signers, sessions; size and SHA-256 of every file
    frames.bin      float16 or float32 [total_frames, K, F], C order, all recordings after each other
    offsets.npy     int64 [N + 1], first frame of each recording and the end of the last
    label.npy signer.npy session.npy split.npy     int64 [N]: positions in the header's lists
    names.txt       one recording's name per line

The contract: a folder with a header that fits its files is whole, because the writer (`pack.py`) renames it into place
last. `Recordings` never copies frames; a selection shares the map of the set it came from.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.folders import record_of
from trainer.tasks.signs.schema import Schema

FORMAT = "signs-packed"
VERSION = 1
HEADER = "header.json"
FRAMES = "frames.bin"
NAMES = "names.txt"
COLUMNS = ("offsets", "label", "signer", "session", "split")
SPLITS = ("", "train", "val", "test")
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class ClassInfo:
    """One word: its number in the source (from 1), its English name, and its name in the language's own script."""

    word: int
    name: str
    native: str = ""


@dataclass(frozen=True)
class Recordings:
    """Packed recordings, opened read-only; `[N]` columns have one entry per recording.

    Recording i is `frames[starts[i] : starts[i] + lengths[i]]`; after `select` the recordings need not be adjacent.
    """

    path: Path
    schema: Schema
    layout: str
    normalisation: str
    """`raw` or `legacy`: what was found on disk when the set was packed."""
    digest: str
    """Digest of the header, which holds the digest of every file."""
    classes: list[ClassInfo]
    signers: list[str]
    sessions: list[str]
    names: list[str]
    given_split: list[str]
    """`train`, `val`, `test` or empty: the split that the source came with."""
    frames: NDArray[Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    label: NDArray[np.int64]
    """Class ids 0..C-1, positions in `classes`."""
    signer: NDArray[np.int64]
    session: NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)
    """Bad samples that packing left out, `skipped` and `tolerated` ones; empty without any."""

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.label)

    def clip(self, index: int) -> NDArray[np.float32]:
        """Frames `[n, K, F]` of one recording as float32, copied."""
        start = int(self.starts[index])
        return np.array(self.frames[start : start + int(self.lengths[index])], np.float32)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> "Recordings":
        """Open a packed folder; sizes are always checked, digests if `verify`.

        Raises DataError naming the file that is missing, damaged, or does not fit the header.
        """
        path = Path(folder)
        header = read_header(path)
        check_sizes(path, header)
        if verify:
            check_digests(path, header)
        return _assemble(path, header)

    def select(self, words: range | None = None, signers: Sequence[str] = ()) -> "Recordings":
        """Recordings of these word ids (from 1) and signers, with class ids contiguous again.

        The classes are all words of the range that the set has, whichever signers are left. Raises DataError for a
        word outside the set, for an unknown signer, or when nothing is left.
        """
        kept_classes = self._classes_of(words)
        kept_signers = self.signer_ids(signers) if signers else list(range(len(self.signers)))
        new_label = np.full(len(self.classes), -1, np.int64)
        new_label[kept_classes] = np.arange(len(kept_classes))
        new_signer = np.full(len(self.signers), -1, np.int64)
        new_signer[kept_signers] = np.arange(len(kept_signers))
        rows = np.flatnonzero((new_label[self.label] >= 0) & (new_signer[self.signer] >= 0))
        if not len(rows):
            raise DataError(f"{self.path}: no recording of the chosen words by signers {', '.join(signers)}")
        return replace(
            self._take(rows),
            classes=[self.classes[i] for i in kept_classes],
            signers=[self.signers[i] for i in kept_signers],
            label=new_label[self.label[rows]],
            signer=new_signer[self.signer[rows]],
        )

    def signer_ids(self, wanted: Sequence[str]) -> list[int]:
        """Positions of signers by name (`3` finds `03`), in the set's order. Raises DataError for an unknown one."""
        known = {name: i for i, name in enumerate(self.signers)}
        known.update({str(int(name)): i for name, i in list(known.items()) if name.isdecimal()})
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise DataError(f"{self.path} has no signer {', '.join(unknown)}; there are: {', '.join(self.signers)}")
        return sorted({known[name] for name in wanted})

    def _take(self, rows: NDArray[np.int64]) -> "Recordings":
        return replace(
            self,
            names=[self.names[i] for i in rows],
            given_split=[self.given_split[i] for i in rows],
            starts=self.starts[rows],
            lengths=self.lengths[rows],
            session=self.session[rows],
        )

    def _classes_of(self, words: range | None) -> list[int]:
        if words is None:
            return list(range(len(self.classes)))
        known = [info.word for info in self.classes]
        if len(words) == 0 or words[0] < min(known) or words[-1] > max(known):
            asked = f"{words.start} to {words.stop - 1}"
            raise DataError(f"{self.path} has words {min(known)} to {max(known)}, asked for {asked}: change the range")
        return [i for i, word in enumerate(known) if word in words]


def header_digest(header: Mapping[str, Any]) -> str:
    """32 hex characters of SHA-256 over the header without its own digest."""
    body = {key: value for key, value in header.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def read_header(path: Path) -> dict[str, Any]:
    """The header of a packed folder. Raises DataError if it is missing, damaged or of another version."""
    file = path / HEADER
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file} is missing: {path} is no packed data set") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{file} is not the header of a packed data set")
    if header.get("version") != VERSION:
        raise DataError(f"{file} is of version {header.get('version')}, this program reads {VERSION}: pack again")
    if header.get("digest") != header_digest(header):
        raise DataError(f"{file} was changed after packing: pack again")
    return header


def files_of(path: Path) -> list[str]:
    """Names of all files of a packed folder. Raises DataError as `read_header`."""
    return [HEADER, *read_header(path)["files"]]


def check_sizes(path: Path, header: Mapping[str, Any]) -> None:
    """Compare every file's size with the header. Raises DataError naming the first that differs."""
    for name, record in header["files"].items():
        file = path / name
        size_bytes = file.stat().st_size if file.is_file() else -1
        if size_bytes < 0:
            raise DataError(f"{file} is missing: pack again")
        if size_bytes != record["size_bytes"]:
            raise DataError(f"{file} has {size_bytes} bytes, its header says {record['size_bytes']}: pack again")


def check_digests(path: Path, header: Mapping[str, Any]) -> None:
    """Read every file and compare its SHA-256 with the header. Raises DataError naming the first that differs."""
    for name, record in header["files"].items():
        if record_of(path / name)["sha256"] != record["sha256"]:
            raise DataError(f"{path / name} does not have the digest of its header, so it is damaged: pack again")


def _assemble(path: Path, header: Mapping[str, Any]) -> Recordings:
    """Map the arrays and check that they fit each other."""
    try:
        schema = Schema.from_json(header["schema"])
        classes = [ClassInfo(**info) for info in header["classes"]]
        signers, sessions = list(header["signers"]), list(header["sessions"])
        columns = {name: np.load(path / f"{name}.npy", allow_pickle=False) for name in COLUMNS}
        names = (path / NAMES).read_text(encoding="utf-8").split("\n")[:-1]
        shape = (int(header["num_frames"]), schema.num_keypoints, schema.num_features)
        _check_columns(columns, len(names), shape[0])
        _check_range(columns, {"label": len(classes), "signer": len(signers), "session": len(sessions)})
        frames = np.memmap(path / FRAMES, dtype=np.dtype(header["dtype"]), mode="r", shape=shape)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{path / HEADER} does not fit its files ({error}): pack again") from None
    offsets = columns["offsets"]
    return Recordings(
        path=path,
        schema=schema,
        layout=header["layout"],
        normalisation=header["normalisation"],
        digest=header["digest"],
        classes=classes,
        signers=signers,
        sessions=sessions,
        names=names,
        given_split=[SPLITS[i] for i in columns["split"]],
        frames=frames,
        starts=offsets[:-1],
        lengths=np.diff(offsets),
        label=columns["label"],
        signer=columns["signer"],
        session=columns["session"],
        left_out=header.get("left_out", {}),
    )


def _check_columns(columns: Mapping[str, NDArray[np.int64]], num_recordings: int, num_frames: int) -> None:
    offsets = columns["offsets"]
    if len(offsets) != num_recordings + 1 or offsets[0] != 0 or offsets[-1] != num_frames:
        raise ValueError("offsets.npy does not cover the frames")
    if num_recordings < 1 or np.any(np.diff(offsets) < 1):
        raise ValueError("there is an empty recording")
    for name, column in columns.items():
        if column.dtype != np.int64 or (name != "offsets" and len(column) != num_recordings):
            raise ValueError(f"{name}.npy has {len(column)} entries of {column.dtype}")


def _check_range(columns: Mapping[str, NDArray[np.int64]], limits: Mapping[str, int]) -> None:
    for name, limit in {**limits, "split": len(SPLITS)}.items():
        if columns[name].min() < 0 or columns[name].max() >= limit:
            raise ValueError(f"{name}.npy has entries outside 0 to {limit - 1}")
