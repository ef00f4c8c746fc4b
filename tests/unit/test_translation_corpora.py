"""Generated corpora: known pairs, counts over the whole range, splits that do not depend on the size."""

import hashlib

import numpy as np
import pytest

from trainer.errors import DataError
from trainer.tasks.translation.corpora import CORPORA, Corpus, bucket, pairs
from trainer.tasks.translation.numerals import LARGEST, english, german
from trainer.tasks.translation.phrases import stems

KNOWN = [
    (0, "zero", "null"),
    (1, "one", "eins"),
    (42, "forty two", "zwei und vierzig"),
    (101, "one hundred one", "ein hundert eins"),
    (1000, "one thousand", "ein tausend"),
    (4217, "four thousand two hundred seventeen", "vier tausend zwei hundert siebzehn"),
    (21001, "twenty one thousand one", "ein und zwanzig tausend eins"),
    (101_000, "one hundred one thousand", "ein hundert ein tausend"),
    (
        999_999,
        "nine hundred ninety nine thousand nine hundred ninety nine",
        "neun hundert neun und neunzig tausend neun hundert neun und neunzig",
    ),
]


@pytest.mark.parametrize(("number", "source", "target"), KNOWN)
def test_known_numbers(number, source, target):
    assert (english(number), german(number)) == (source, target)


@pytest.mark.parametrize(("read", "mean", "longest", "num_words"), [(english, 8.019, 9, 30), (german, 9.459, 11, 32)])
def test_words_of_all_numbers(read, mean, longest, num_words):
    # A thousand thousands times a thousand rests: each part alone says all lengths but those of the joints.
    below = np.array([len(read(number).split()) for number in range(1000)])
    above = np.array([0, *(len(read(number * 1000).split()) for number in range(1, 1000))])
    below[0] = 0
    lengths = above[:, None] + below
    lengths[0, 0] = 1
    assert lengths.mean() == pytest.approx(mean, abs=5e-4)
    assert lengths.max() == longest
    assert (
        len({word for number in [*range(1000), *range(1000, 10**6, 1000)] for word in read(number).split()})
        == num_words
    )
    some = np.random.default_rng(0).integers(0, LARGEST, 500)
    assert [len(read(number).split()) for number in some.tolist()] == lengths[some // 1000, some % 1000].tolist()


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_a_function_of_name_seed_and_size(name):
    large, again, small, other = pairs(name, 3, 400), pairs(name, 3, 400), pairs(name, 3, 150), pairs(name, 4, 400)
    assert large == again
    assert large[:150] == small
    assert large != other
    assert len({source for source, _ in large}) == 400
    assert all(source and target for source, target in large)


@pytest.mark.parametrize("name", ["copy", "reverse", "sort"])
def test_letters(name):
    write = {"copy": list, "reverse": lambda letters: letters[::-1], "sort": sorted}[name]
    found = pairs(name, 0, 2000)
    lengths = [len(source.split()) for source, _ in found]
    assert (min(lengths), max(lengths)) == (3, 20)
    assert {letter for source, _ in found for letter in source.split()} == set("abcdefghijklmnopqrstuvwxyz")
    assert all(target.split() == write(source.split()) for source, target in found)


def test_the_grammar_agrees_and_has_words_enough():
    english_stems, spanish_stems = stems()
    assert min(len(english_stems), len(spanish_stems)) >= 60
    found = dict(pairs("phrases", 0, 5000))
    assert any(" casa roja" in target for source, target in found.items() if "red house" in source)
    assert any(" libro rojo" in target for source, target in found.items() if "red book" in source)
    assert not any("a apple" in source or " a old " in f" {source}" for source in found)
    assert len(set(found.values())) < len(found), "several sources have one translation"


def test_a_pair_stays_in_its_split_and_splits_have_their_shares():
    sources = [source for source, _ in pairs("en_de_numbers", 0, 20_000)]
    buckets = np.array([bucket(source) for source in sources])
    assert abs((buckets < 90).mean() - 0.9) < 0.01
    assert (
        bucket("forty two") == int(hashlib.sha256(b"forty two").hexdigest(), 16) % 100 == 52
    )  # a change of this moves the pairs of every run between the splits


def test_a_corpus_that_is_too_small_says_so(monkeypatch):
    monkeypatch.setitem(CORPORA, "copy", Corpus(lambda key: iter([("a", "b"), ("c", "d")] * 50)))
    with pytest.raises(DataError, match=r"data\.pairs is 3, but the corpus copy has no more than 2"):
        pairs("copy", 0, 3)
