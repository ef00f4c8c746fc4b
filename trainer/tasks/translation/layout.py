"""Which files make up a corpus: by the names of Multi30k, or as the settings say.

    train.en train.de   val.en.gz val.de.gz   test_2016.en test_2016.de      parallel text, a language as the ending
    train.tsv val.tsv   or   corpus.jsonl                                    a pair on every line

`valid` and `dev` count as `val`. Several files of a split are joined in the order of their names.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.config.translation import TranslationData
from trainer.errors import DataError, SettingsError
from trainer.tasks.translation.header import HEADER, languages_of

GENERATE = "trainer train --task translation --set data.layout=embedded"
"""The command that a missing folder's error names."""
SPLITS = ("train", "val", "test")
Layout = Literal["text", "tsv", "jsonl"]
Entries = dict[str, list[tuple[Path, ...]]]
_PREFIXES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
_NAME = re.compile(r"(?P<prefix>[a-z]+)(?P<rest>.*)\.(?P<ending>[^.]+?)", re.IGNORECASE)
_PAIR_ENDINGS = ("tsv", "jsonl")


@dataclass(frozen=True)
class Files:
    """The files of a corpus: of every split one or more entries, each a pair of parallel files or one file of pairs."""

    layout: Layout
    splits: Entries
    languages: tuple[str, str]


def find_files(data: TranslationData, place: Path) -> Files:
    """The files at `place` (a folder or one file). Raises DataError or SettingsError saying what is missing."""
    if not place.exists():
        raise DataError(f"data.path: {place} does not exist; to train on generated pairs: {GENERATE}")
    named = {"train": data.train_files, "val": data.val_files, "test": data.test_files}
    if any(named.values()):
        return _as_named(data, place, named)
    if place.is_file():
        return _as_named(data, place.parent, {"train": [place.name]})
    known = _by_stem(place)
    layout = _layout(data, place, {ending for endings in known.values() for ending in endings})
    splits: Entries
    if layout != "text":
        splits = {split: [(known[stem][layout],) for stem in stems] for split, stems in _stems(known, {layout}).items()}
        return Files(layout, _with_train(splits, place, f"train*.{layout}"), _keys(data))
    source, target = _languages(data, place, {ending for endings in known.values() for ending in endings})
    splits = {
        split: [_partners(known[stem], source, target, place / stem) for stem in stems]
        for split, stems in _stems(known, {source, target}).items()
    }
    return Files("text", _with_train(splits, place, f"train*.{source} and train*.{target}"), (source, target))


def _as_named(data: TranslationData, folder: Path, named: dict[str, list[str]]) -> Files:
    """The files that the settings (or a path to one file) name."""
    splits: Entries = {}
    for split, names in named.items():
        paths = tuple(folder / name for name in names)
        for path in paths:
            if not path.is_file():
                raise DataError(f"data.{split}_files: {path} does not exist")
        if len(paths) > 2:
            raise SettingsError(f"data.{split}_files takes a source and a target file, or one file of pairs")
        if paths:
            splits[split] = [paths]
    counts = {len(paths) for (paths,) in splits.values()}
    if "train" not in splits or len(counts) > 1:
        raise SettingsError(
            "data.train_files, val_files and test_files must all be two parallel files, or one of pairs"
        )
    (first, *_) = splits["train"][0]
    if counts == {2}:
        endings = tuple(_ending(path) for path in splits["train"][0])
        return Files("text", splits, (data.source_lang or endings[0], data.target_lang or endings[1]))
    layout = data.layout if data.layout != "auto" else _ending(first)
    if layout not in _PAIR_ENDINGS:
        raise SettingsError(f"{first}: one file holds pairs only as tsv or jsonl; set data.layout to what it is")
    return Files("tsv" if layout == "tsv" else "jsonl", splits, _keys(data))


def _by_stem(folder: Path) -> dict[str, dict[str, Path]]:
    """Files of splits by stem (`test_2016`) and ending (`en`); a plain file goes before its gzip twin."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir(), reverse=True):
        match = _NAME.fullmatch(path.name.removesuffix(".gz"))
        if match and match["prefix"].lower() in _PREFIXES and path.is_file():
            found[match["prefix"] + match["rest"]][match["ending"]] = path
    return found


def _stems(known: dict[str, dict[str, Path]], endings: set[str]) -> dict[str, list[str]]:
    """The stems of every split that have any of these endings, in order."""
    stems: dict[str, list[str]] = defaultdict(list)
    for stem in sorted(known):
        if endings & known[stem].keys():
            prefix = re.match("[a-z]+", stem, re.IGNORECASE)
            assert prefix is not None, "stems begin with the name of a split"
            stems[_PREFIXES[prefix[0].lower()]].append(stem)
    return stems


def _layout(data: TranslationData, folder: Path, endings: set[str]) -> Layout:
    """As set, or by the endings there are."""
    if data.layout in ("text", "tsv", "jsonl"):
        return data.layout
    found: list[Layout] = [layout for layout in ("tsv", "jsonl") if layout in endings]
    if endings - set(_PAIR_ENDINGS):
        found.append("text")
    if len(found) > 1:
        raise SettingsError(f"{folder} holds {' and '.join(found)} files; set data.layout to one of them")
    if not found:
        raise DataError(f"{folder} holds no train*.<language>, train*.tsv or train*.jsonl; see data.train_files")
    return found[0]


def _languages(data: TranslationData, folder: Path, endings: set[str]) -> tuple[str, str]:
    """Source and target; one of them may be left out where there are two."""
    there = sorted(endings - set(_PAIR_ENDINGS))
    for name, language in (("source_lang", data.source_lang), ("target_lang", data.target_lang)):
        if language is not None and language not in there:
            raise DataError(f"data.{name} is {language}, but {folder} has files of: {', '.join(there) or 'none'}")
    source, target = data.source_lang, data.target_lang
    if (source, target) == (None, None) and (folder / HEADER).is_file():
        return languages_of(folder)
    if (source, target) == (None, None) or (len(there) != 2 and None in (source, target)):
        raise SettingsError(
            f"{folder} has files of the languages {', '.join(there)}: say which is translated into which, e.g. "
            f"--source_lang {there[0]} --target_lang {there[-1]}"
        )
    return source or next(one for one in there if one != target), target or next(one for one in there if one != source)


def _partners(endings: dict[str, Path], source: str, target: str, stem: Path) -> tuple[Path, Path]:
    """Both files of a stem."""
    for language in (source, target):
        if language not in endings:
            raise DataError(f"{stem}.{language} is missing: its other side is {', '.join(map(str, endings.values()))}")
    return endings[source], endings[target]


def _with_train(splits: Entries, folder: Path, wanted: str) -> Entries:
    if "train" not in splits:
        raise DataError(f"{folder} has nothing to train on: no {wanted}")
    return {split: splits[split] for split in SPLITS if split in splits}


def _keys(data: TranslationData) -> tuple[str, str]:
    """Keys of JSON lines, and names of the sides in messages."""
    return data.source_lang or "source", data.target_lang or "target"


def _ending(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2]
