"""What stands behind `trainer prepare`: pack any layout or a generated corpus, check the result, draw a word.

trainer prepare karsl-502 data/signs --dtype float16
trainer prepare --synthetic data/signs --words 502 --signers 3 --repetitions 50 --show 7
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config.signs import SignsData
from trainer.errors import DataError, SettingsError
from trainer.tasks.signs.pack import BadSamples, Progress, pack
from trainer.tasks.signs.packed import DTYPES, HEADER, Recordings
from trainer.tasks.signs.readers.source import Source
from trainer.tasks.signs.recordings import GENERATE, corpus_of, source_of
from trainer.tasks.signs.show import show
from trainer.tasks.signs.synthetic import source as synthetic_source


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

    def summary(self) -> str:
        """One line for people."""
        data = self.recordings
        left_out = f", {len(self.left_out)} left out" if self.left_out else ""
        return (
            f"{len(data):,} recordings, {len(data.classes):,} words, {len(data.signers)} signers, "
            f"{len(data.frames):,} frames of {data.schema.name} ({data.normalisation}, {data.frames.dtype.name})"
            f"{left_out} in {self.path}"
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


def _found(path: Path, data: SignsData) -> Source:
    if (path / HEADER).is_file() and data.layout in ("auto", "packed"):
        raise DataError(f"{path} is packed already; train on it with --data {path}")
    return source_of(data.model_copy(update={"path": str(path)}))


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)[:40]
