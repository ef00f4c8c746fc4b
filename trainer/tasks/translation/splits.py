"""The text of a corpus: every split's pairs with their places, what was found while reading, and one digest.

embedded ───────────────────────────┐
files ─► lines ─► no empty sides ───┴─► given splits, or by the source's hash ─► overlap? ─► report, digest
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.translation import TranslationData
from trainer.data.keys import derive
from trainer.data.order import Permutation
from trainer.errors import DataError, SettingsError
from trainer.tasks.bad_samples import BadSample, BadSamples
from trainer.tasks.translation.corpora import BUCKETS, CORPORA, bucket, pairs
from trainer.tasks.translation.layout import GENERATE, SPLITS, Files, find_files
from trainer.tasks.translation.readers import read_pairs


@dataclass
class Split:
    """Pairs of one split in the order of their files."""

    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Line of each pair in its file."""
    files: list[tuple[int, str]] = field(default_factory=list)
    """Where each file's pairs begin, and its name."""
    num_empty: int = 0
    """Pairs left out because a side has no text."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.sources)

    def add(self, source: str, target: str, line: int, file: str) -> None:
        """Append a pair."""
        if not self.files or self.files[-1][1] != file:
            self.files.append((len(self), file))
        self.sources.append(source)
        self.targets.append(target)
        self.lines.append(line)

    def place(self, index: int) -> str:
        """File and line of a pair, for messages."""
        _, file = self.files[bisect_right(self.files, index, key=lambda entry: entry[0]) - 1]
        return f"{file}:{self.lines[index]}"

    def report(self) -> dict[str, int]:
        """What reading found."""
        hashes = np.fromiter(map(hash, zip(self.sources, self.targets, strict=True)), np.int64, len(self))
        return {"pairs": len(self), "empty": self.num_empty, "duplicates": len(self) - len(np.unique(hashes))}


@dataclass(frozen=True)
class Text:
    """A corpus before any tokenizer has seen it."""

    name: str
    """Where it comes from, for people."""
    splits: dict[str, Split]
    languages: tuple[str, str]
    bad: BadSamples
    """Lines left out because they are no pair."""
    num_shared: int
    """Training pairs whose source stands in validation or test, too; only where that is allowed."""

    @property
    def digest(self) -> str:
        """16 hex characters over all pairs: other text is another run."""
        found = hashlib.sha256()
        for split, content in self.splits.items():
            found.update(f"{split} {len(content)}\n".encode())
            for source, target in zip(content.sources, content.targets, strict=True):
                found.update(f"{source}\0{target}\n".encode())
        return found.hexdigest()[:16]

    def report(self) -> dict[str, Any]:
        """What reading found, by split; JSON-able."""
        return {split: content.report() for split, content in self.splits.items()} | {
            "bad_lines": len(self.bad.lines),
            "shared_sources": self.num_shared,
        }


def read_text(data: TranslationData, place: Path | None) -> Text:
    """All pairs; `place` is where the files of `data.path` lie on this machine.

    Raises DataError for what is missing, damaged, empty or overlaps, SettingsError for settings that contradict.
    """
    bad = BadSamples(data.bad_samples, data.bad_budget)
    if data.layout == "embedded":
        if place is not None:
            raise SettingsError(f"data.layout is embedded, which reads no files, but data.path is {place}: unset one")
        name, languages = str(data.corpus), CORPORA[data.corpus].languages
        splits = _embedded(data)
    elif place is None:
        raise DataError(f"data.path is not set: give a data folder (--data-dir), or generate pairs: {GENERATE}")
    else:
        files = find_files(data, place)
        name, languages = str(data.path), files.languages
        splits = {split: _read(files, split, bad) for split in files.splits}
    splits = _divided(splits, data)
    for split in ("train", "val"):
        if not len(splits.get(split, ())):
            raise DataError(f"{name}: no pair is left for {split}; see data.val_files, data.val_share")
    shared = _shared(splits, allowed=data.allow_overlap)
    if data.shuffle_targets:
        _deal_out(splits["train"], data.corpus_seed)
    return Text(name, {split: splits[split] for split in SPLITS if split in splits}, languages, bad, shared)


def _embedded(data: TranslationData) -> dict[str, Split]:
    """A generated corpus as one split; `_divided` makes three of it."""
    split = Split()
    for number, (source, target) in enumerate(pairs(data.corpus, data.corpus_seed, data.pairs), 1):
        split.add(source, target, number, data.corpus)
    return {"train": split}


def _read(files: Files, split: str, bad: BadSamples) -> Split:
    """All pairs of a split with text on both sides."""
    content = Split()
    for entry in files.splits[split]:
        for line in read_pairs(files.layout, entry, files.languages):
            if isinstance(line, BadSample):
                bad.add(line)
            elif line.source and line.target:
                content.add(line.source, line.target, line.number, str(entry[0]))
            else:
                content.num_empty += 1
    return content


def _divided(splits: dict[str, Split], data: TranslationData) -> dict[str, Split]:
    """Given splits as they are; without validation, hundredths of the training sources become it.

    Without validation and test, they become both.
    """
    if "val" in splits:
        return splits
    num_val, num_test = round(data.val_share * BUCKETS), round(data.test_share * BUCKETS)
    num_test = 0 if "test" in splits else num_test
    parts = {split: Split() for split in SPLITS if split not in splits or split == "train"}
    whole = splits["train"]
    parts["train"].num_empty = whole.num_empty
    starts = [start for start, _ in whole.files[1:]] + [len(whole)]
    for (start, file), stop in zip(whole.files, starts, strict=True):
        for index in range(start, stop):
            part = _part(bucket(whole.sources[index]), num_val, num_test)
            parts[part].add(whole.sources[index], whole.targets[index], whole.lines[index], file)
    return splits | {split: part for split, part in parts.items() if len(part)}


def _part(place: int, num_val: int, num_test: int) -> str:
    """The first buckets train, the last ones test, those before them validate."""
    if place < BUCKETS - num_val - num_test:
        return "train"
    return "val" if place < BUCKETS - num_test else "test"


def _shared(splits: dict[str, Split], *, allowed: bool) -> int:
    """Training pairs whose source is evaluated, too. Raises DataError unless that is allowed."""
    evaluated = {
        source: (split, index)
        for split in ("test", "val")
        if split in splits
        for index, source in enumerate(splits[split].sources)
    }
    found = [index for index, source in enumerate(splits["train"].sources) if source in evaluated]
    if found and not allowed:
        first = found[0]
        split, index = evaluated[splits["train"].sources[first]]
        raise DataError(
            f"{len(found):,} sources of train stand in val or test, too, e.g. {splits['train'].place(first)} and "
            f"{splits[split].place(index)}; remove them from one side, or set data.allow_overlap to true"
        )
    return len(found)


def _deal_out(split: Split, seed: int) -> None:
    """Give every source the target of another pair at random."""
    order = Permutation(len(split), derive(seed, "shuffle_targets")).slice(0, len(split))
    split.targets = [split.targets[index] for index in order.tolist()]


def texts_of(split: Split) -> Iterator[str]:
    """All sentences of both sides, for a joint vocabulary."""
    yield from split.sources
    yield from split.targets
