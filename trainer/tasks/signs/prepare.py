"""What stands behind `trainer prepare`: pack any layout or a generated corpus, check the result, draw a word.

trainer prepare karsl-502 data/signs --dtype float16
trainer prepare --synthetic data/signs --words 502 --signers 3 --repetitions 50 --show 7
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config.signs import SignsData, SignsSettings
from trainer.errors import DataError, SettingsError
from trainer.tasks.bad_samples import BadSamples
from trainer.tasks.signs.pack import Progress, copy, pack
from trainer.tasks.signs.packed import DTYPES, HEADER, Recordings, files_of
from trainer.tasks.signs.readers.source import Source
from trainer.tasks.signs.recordings import GENERATE, corpus_of, source_of
from trainer.tasks.signs.show import show
from trainer.tasks.signs.synthetic import source as synthetic_source

SHOWN = "pictures"
"""What `shown` gives, as the key of `--json`."""


@dataclass(frozen=True)
class Prepared:
    """A packed folder and what was met on the way."""

    path: Path
    recordings: Recordings
    num_skipped: int = 0
    """Bad samples left out under the policy `skip`."""
    num_tolerated: int = 0
    """Known gaps of a public data set, left out under any policy."""
    left_out: list[str] = field(default_factory=list)
    """One line for each of them."""

    @property
    def files(self) -> list[str]:
        """Names of all its files."""
        return files_of(self.path)

    def summary(self, where: str = "") -> str:
        """One line for people; `where` is the place it went to, if not its path."""
        data = self.recordings
        left_out = f", {len(self.left_out)} left out" if self.left_out else ""
        return (
            f"{len(data):,} recordings, {len(data.classes):,} words, {len(data.signers)} signers, "
            f"{len(data.frames):,} frames of {data.schema.name} ({data.normalisation}, {data.frames.dtype.name})"
            f"{left_out} in {where or self.path}"
        )


def prepare_data(
    data: SignsData,
    target: str | Path,
    *,
    source: str | Path | None = None,
    synthetic: bool = False,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Pack the data set in `source`, or generated recordings if `synthetic`, into the folder `target`.

    The settings give layout, schema, policy for bad samples, and the generator's sizes. The result is read back with
    its digests. Raises SettingsError for a wrong combination, DataError for missing or bad data and for a `source`
    that is packed already, InfrastructureError if the disk refuses; `target` is whole or untouched.
    """
    if (source is None) != synthetic:
        raise SettingsError(f"prepare needs either a data folder or --synthetic, for example: {GENERATE}")
    if dtype not in DTYPES:
        raise SettingsError(f"dtype is {dtype!r}; there are: {', '.join(DTYPES)}")
    stream = _found(Path(source), data) if source is not None else synthetic_source(corpus_of(data))
    bad = BadSamples(data.bad_samples, data.bad_budget)
    folder = pack(stream, target, dtype=dtype, bad=bad, progress=progress, overwrite=overwrite)
    recordings = Recordings.open(folder, verify=True)
    return Prepared(folder, recordings, bad.num_skipped, bad.num_tolerated, bad.lines)


def is_packed(path: Path, data: SignsData) -> bool:
    """Whether the settings would read `path` as a packed folder."""
    return (path / HEADER).is_file() and data.layout in ("auto", "packed")


def open_packed(path: Path) -> Prepared:
    """A packed folder as if it had just been prepared, its digests compared. Raises DataError."""
    return Prepared(path, Recordings.open(path, verify=True))


def copy_packed(source: Path, target: Path, overwrite: bool) -> Prepared:
    """The packed folder `source` at `target`. Raises DataError for a damaged one and for a target that is taken."""
    Recordings.open(source, verify=True)
    return open_packed(copy(source, target, overwrite=overwrite))


def draw(
    recordings: Recordings,
    words: Sequence[int | str],
    folder: str | Path,
    *,
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw each word as a strip of stick figures into `folder`, and return the files."""
    files = []
    for word in words:
        files.append(show(recordings, word, Path(folder) / f"word-{_slug(str(word))}.png"))
        if note is not None:
            note(f"drew {files[-1]}")
    return files


def shown(settings: SignsSettings, folder: Path, wanted: Sequence[str], target: Path) -> list[str]:  # noqa: ARG001
    """Pictures of words, said by id or name, in `target`; their paths."""
    words = [int(word) if word.isdecimal() else word for word in wanted]
    return [str(file) for file in draw(Recordings.open(folder), words, target)]


def _found(path: Path, data: SignsData) -> Source:
    if is_packed(path, data):
        raise DataError(f"{path} is packed already; train on it with --data {path}, or put it into a store with --to")
    return source_of(data.model_copy(update={"path": str(path)}))


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)[:40]
