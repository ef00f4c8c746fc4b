"""Generated corpora: no download, no network, any size; pure functions of (name, seed, size).

    letters (copy, reverse, sort) · numbers (numbers, en_de_numbers) · a small grammar (phrases)

Sources are distinct. Which split a pair belongs to is said by its source alone (`bucket`), so splits are disjoint for
any size, and a pair stays where it is when the corpus grows.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.config.translation import CorpusName
from trainer.data.keys import bits, derive, uniform
from trainer.data.order import Permutation
from trainer.errors import DataError
from trainer.tasks.translation.numerals import LARGEST, english, german
from trainer.tasks.translation.phrases import phrase

Pair = tuple[str, str]
BUCKETS = 100
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHORTEST, _LONGEST = 3, 20
_BLOCK = 8192
"""Draws worked out at a time."""
_DRAWS_PER_PAIR = 20
"""Draws after which a corpus is taken to have no new pairs left."""


@dataclass(frozen=True)
class Corpus:
    """What is known of a generated corpus before it is made."""

    make: Callable[[int], Iterator[Pair]]
    """Endless (or complete) stream of pairs from a key; sources may repeat."""
    source_kind: Literal["char", "word"] = "word"
    target_kind: Literal["char", "word"] = "word"
    languages: tuple[str, str] = ("source", "target")


def pairs(name: CorpusName, seed: int, size: int) -> list[Pair]:
    """`size` pairs with distinct sources. Raises DataError when there are not so many."""
    found: dict[str, str] = {}
    for number, (source, target) in enumerate(CORPORA[name].make(derive(seed, name))):
        if len(found) == size or number >= _DRAWS_PER_PAIR * size:
            break
        found.setdefault(source, target)
    if len(found) < size:
        raise DataError(f"data.pairs is {size:,}, but the corpus {name} has no more than {len(found):,} or so")
    return list(found.items())


def bucket(source: str) -> int:
    """0 to 99, evenly: SHA-256 of the source text, mod 100."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest(), "big") % BUCKETS


def _letters(write: Callable[[list[str]], list[str]]) -> Callable[[int], Iterator[Pair]]:
    """Random letters, separated by blanks, and what `write` makes of them."""

    def make(key: int) -> Iterator[Pair]:
        start = 0
        while True:
            draws = uniform(key, np.arange(start, start + _BLOCK), 1 + _LONGEST)
            lengths = _SHORTEST + (draws[:, 0] * (_LONGEST - _SHORTEST + 1)).astype(np.int64)
            codes = (draws[:, 1:] * len(_LETTERS)).astype(np.int64)
            for length, row in zip(lengths.tolist(), codes.tolist(), strict=True):
                letters = [_LETTERS[code] for code in row[:length]]
                yield " ".join(letters), " ".join(write(letters))
            start += _BLOCK

    return make


def _numbers(read: Callable[[int], str], write: Callable[[int], str]) -> Callable[[int], Iterator[Pair]]:
    """Every number once, in random order."""

    def make(key: int) -> Iterator[Pair]:
        order = Permutation(LARGEST + 1, key)
        for start in range(0, LARGEST + 1, _BLOCK):
            for number in order.slice(start, start + _BLOCK).tolist():
                yield read(number), write(number)

    return make


def _phrases(key: int) -> Iterator[Pair]:
    """Sentences of the grammar, each out of one random word."""
    start = 0
    while True:
        for word in bits(key, np.arange(start, start + _BLOCK), 1)[:, 0].tolist():
            yield phrase(word)
        start += _BLOCK


CORPORA: dict[CorpusName, Corpus] = {
    "copy": Corpus(_letters(list)),
    "reverse": Corpus(_letters(lambda letters: letters[::-1])),
    "sort": Corpus(_letters(sorted)),
    "numbers": Corpus(_numbers(str, english), source_kind="char", languages=("digits", "en")),
    "en_de_numbers": Corpus(_numbers(english, german), languages=("en", "de")),
    "phrases": Corpus(_phrases, languages=("en", "es")),
}
