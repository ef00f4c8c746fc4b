"""What stands behind `trainer prepare`: any corpus, or a generated one, as clean parallel text; and pairs to look at.

    train.en train.de val.en val.de test.en test.de     one sentence a line, no empty sides, splits that do not overlap
    corpus.json                                         languages, pairs, size and SHA-256 of every file

trainer prepare --task translation data/multi30k data/clean --set data.source_lang=en --set data.target_lang=de
trainer prepare --task translation --synthetic data/numbers
trainer prepare --task translation data/clean --show 3
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config.translation import TranslationData, TranslationSettings
from trainer.errors import DataError, SettingsError
from trainer.tasks.folders import HashedFile, copy_files, record_of, whole_folder
from trainer.tasks.translation.header import HEADER, files_of, header_bytes, read_header
from trainer.tasks.translation.layout import SPLITS
from trainer.tasks.translation.show import show
from trainer.tasks.translation.splits import Text, read_text
from trainer.telemetry.counting import Count

SHOWN = "pairs"
"""What `shown` gives, as the key of `--json`."""
_COUNT_EVERY = 10_000


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus and what was left out on the way."""

    path: Path
    header: dict[str, Any]
    left_out: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """Names of all its files."""
        return files_of(self.path)

    def summary(self, where: str = "") -> str:
        """One line for people; `where` is the place it went to, if not its path."""
        pairs = self.header["pairs"]
        counts = ", ".join(f"{pairs[split]:,} {split}" for split in SPLITS if split in pairs)
        left_out = f", {len(self.left_out)} lines left out" if self.left_out else ""
        return f"{'-'.join(self.header['languages'])} pairs: {counts}{left_out} in {where or self.path}"


def prepare_data(
    data: TranslationData,
    target: str | Path,
    *,
    source: str | Path | None = None,
    synthetic: bool = False,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Count | None = None,
) -> Prepared:
    """Write the corpus in `source`, or a generated one, as text into the folder `target`.

    Raises SettingsError for a wrong combination, DataError as `read_text` does, InfrastructureError if the disk
    refuses; `target` is whole or untouched.
    """
    if dtype != "float32":
        raise SettingsError(f"--dtype {dtype} has no effect on text; leave it out")
    if source is not None and is_packed(Path(source), data):
        raise DataError(f"{source} is prepared already; train on it with --data-dir {source}, or give it to --to")
    place = None if synthetic or source is None else Path(source)
    update = {"layout": "embedded", "path": None} if synthetic else {"path": str(source)}
    text = read_text(data.model_copy(update=update), place)
    header = write_text(text, Path(target), overwrite=overwrite, progress=progress)
    return Prepared(Path(target), header, text.bad.lines)


def write_text(text: Text, target: Path, *, overwrite: bool, progress: Count | None = None) -> dict[str, Any]:
    """Every split as two files, and the header, which is returned. Errors are those of `whole_folder`."""
    total, done = sum(map(len, text.splits.values())), 0
    files: dict[str, Any] = {}
    with whole_folder(target, HEADER, overwrite=overwrite) as folder:
        for split, content in text.splits.items():
            for language, lines in zip(text.languages, (content.sources, content.targets), strict=True):
                name = f"{split}.{language}"
                files[name] = _write_lines(folder / name, lines)
            done += len(content)
            if progress is not None:
                progress(done, total)
        pairs = {split: len(content) for split, content in text.splits.items()}
        header = HashedFile(folder / HEADER)
        header.write(header_bytes(text.languages, pairs, files))
        header.close()
    return read_header(target)


def _write_lines(path: Path, lines: Sequence[str]) -> dict[str, Any]:
    """One text a line; the file's record for the header."""
    file = HashedFile(path)
    for start in range(0, len(lines), _COUNT_EVERY):
        file.write("".join(f"{line}\n" for line in lines[start : start + _COUNT_EVERY]).encode())
    return file.close()


def is_packed(path: Path, data: TranslationData) -> bool:
    """Whether `path` is a prepared corpus and the settings would read it as one."""
    return (path / HEADER).is_file() and data.layout in ("auto", "text")


def open_packed(path: Path) -> Prepared:
    """A prepared corpus as if it had just been made, its digests compared. Raises DataError."""
    header = read_header(path)
    for name, record in header["files"].items():
        if not (path / name).is_file():
            raise DataError(f"{path / name} is missing: prepare the corpus again")
        if record_of(path / name)["sha256"] != record["sha256"]:
            raise DataError(f"{path / name} is not what {HEADER} says: prepare the corpus again")
    return Prepared(path, header)


def copy_packed(source: Path, target: Path, overwrite: bool) -> Prepared:
    """The prepared corpus `source` at `target`. Raises DataError for a damaged one and for a target that is taken."""
    open_packed(source)
    return open_packed(copy_files(source, files_of(source), target, HEADER, overwrite=overwrite))


def shown(settings: TranslationSettings, folder: Path | None, wanted: Sequence[str], target: Path) -> list[str]:  # noqa: ARG001
    """`wanted[0]` pairs of the training split, one text a pair; nothing is written to `target`."""
    if len(wanted) != 1 or not wanted[0].isdecimal() or int(wanted[0]) < 1:
        raise SettingsError(f"--show takes the number of pairs, e.g. --show 3; got {' '.join(wanted)}")
    if folder is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"path": str(folder)})})
    return show(settings, int(wanted[0]))
