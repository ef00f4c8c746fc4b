"""Acceptance check 15: tokenizers are reproducible, lose no text, come back byte by byte, and are refused elsewhere."""

import subprocess
import sys

import pytest

from tests.translation_files import PAIRS, embedded
from trainer.errors import DataError, SettingsError
from trainer.tasks.translation.corpora import CORPORA
from trainer.tasks.translation.corpus import kinds, open_corpus, text_of, tokenizers_of
from trainer.tasks.translation.subwords import train_subwords
from trainer.tasks.translation.tokenizer import ListTokenizer, TokenizerPair, train_list
from trainer.tasks.translation.vocabulary import RESERVED, UNK

TEXTS = [text for pair in PAIRS for text in pair]
ODD = ["", " ", "two  blanks ", "日本語 and \t tab", "<eos> <pad> <unk>", "naïve façade", "e\u0301", "a\u0000b", "🙂"]


def trained(kind, texts=TEXTS, size=400):
    if kind in ("char", "word"):
        return train_list(texts, kind, vocab_size=size)
    return train_subwords(texts, kind, vocab_size=size)


@pytest.mark.parametrize("kind", ["char", "word", "bpe", "unigram"])
def test_15_training_twice_gives_the_same_bytes(kind):
    first, second = (TokenizerPair(trained(kind), trained(kind, TEXTS[::2])).to_bytes() for _ in range(2))
    assert first == second
    read = TokenizerPair.from_bytes(first)
    assert read.to_bytes() == first
    assert read.source.encode(TEXTS) == trained(kind).encode(TEXTS)


def test_15_another_process_gives_the_same_bytes():
    # Hash seeds differ between processes; nothing may depend on the order of a set.
    script = (
        "from tests.translation_files import PAIRS; from trainer.tasks.translation.tokenizer import TokenizerPair; "
        "from trainer.tasks.translation.subwords import train_subwords; "
        "texts = [text for pair in PAIRS for text in pair]; "
        "print(TokenizerPair(*(train_subwords(texts, kind, vocab_size=280) for kind in ('bpe', 'unigram'))).digest)"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": "."}
    said = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    here = TokenizerPair(*(trained(kind, size=280) for kind in ("bpe", "unigram")))
    assert said == f"{here.digest}\n"


@pytest.mark.parametrize("name", CORPORA)
def test_15_round_trip_on_embedded_corpora(name):
    settings = embedded(name, "tokenizer.min_count=1")
    text = text_of(settings)
    pair = tokenizers_of(settings, text)
    assert (pair.source.kind, pair.target.kind) == kinds(settings)
    for tokenizer, lines in ((pair.source, text.splits["train"].sources), (pair.target, text.splits["train"].targets)):
        ids = tokenizer.encode(lines)
        assert [tokenizer.decode(one) for one in ids] == lines
        assert min(map(min, ids)) > UNK


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_15_subwords_lose_no_text_and_read_no_reserved_token(kind):
    tokenizer = train_subwords(TEXTS, kind, vocab_size=300, form="none")
    for text, ids in zip(ODD, tokenizer.encode(ODD), strict=True):
        assert tokenizer.decode(ids) == text
        assert all(one > UNK for one in ids)
    assert tokenizer.tokens([0, 1, 2, 3]) == list(RESERVED)
    assert tokenizer.decode([1, *tokenizer.encode(["a small x"])[0], 2, 0]) == "a small x"


def test_normal_form_is_part_of_the_tokenizer():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    nfc, none = (train_list([composed], "char", vocab_size=50, form=form) for form in ("nfc", "none"))
    assert nfc.encode([decomposed]) == nfc.encode([composed])
    assert UNK in none.encode([decomposed])[0]
    assert TokenizerPair(nfc, nfc).digest != TokenizerPair(none, none).digest


def test_words_are_sorted_by_count_and_rare_ones_are_unknown():
    tokenizer = train_list(["b a b", "a c d c"], "word", vocab_size=7, min_count=2)
    assert tokenizer.vocabulary == ("a", "b", "c")
    assert tokenizer.encode(["a d <pad> b"]) == [[4, UNK, UNK, 5]]
    assert tokenizer.decode([1, 4, UNK, 5, 2, 0]) == "a <unk> b"
    assert train_list(["b a b", "a c d c"], "word", vocab_size=6, min_count=2).size == 6


def test_a_vocabulary_is_no_larger_than_the_text_supports():
    assert trained("bpe", size=30_000).size < 500
    assert trained("unigram", size=300).size == 300


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_without_room_for_bytes_is_refused(kind):
    with pytest.raises(SettingsError, match=f"vocab_size is 64, but {kind} needs 260 at least"):
        train_subwords(TEXTS, kind, vocab_size=64)


def test_no_frequent_word_is_an_error():
    with pytest.raises(DataError, match=r"no word occurs 2 times in the training text; lower tokenizer\.min_count"):
        train_list(["a b c"], "word", vocab_size=100, min_count=2)


def test_15_tokenizers_of_another_run_are_refused_by_both_digests(tmp_path):
    settings = embedded()
    corpus = open_corpus(settings)
    own = settings.tokenizer.digest
    assert own == corpus.tokenizers.digest
    file = tmp_path / "tokenizer.json"
    other = ListTokenizer("word", ("one", "two"))
    file.write_bytes(TokenizerPair(other, other).to_bytes())
    settings.tokenizer.path = str(file)
    with pytest.raises(
        DataError, match=f"made with the tokenizers {own}, these are {TokenizerPair(other, other).digest}"
    ):
        open_corpus(settings)
    file.write_bytes(corpus.tokenizers.to_bytes())
    assert open_corpus(settings).tokenizers.digest == own


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"format": 9}', b'{"format": 1, "source": {"kind": "word"}}', b"\xff"]
)
def test_a_damaged_tokenizer_file_is_one_line(tmp_path, content):
    settings = embedded()
    settings.tokenizer.path = str(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="cannot be read"):
        open_corpus(settings)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json") as caught:
        open_corpus(settings)
    assert "\n" not in str(caught.value)


def test_joint_tokenizers_are_one_and_saved_once():
    corpus = open_corpus(embedded("reverse", "tokenizer.joint=true"))
    assert corpus.tokenizers.source is corpus.tokenizers.target
    read = TokenizerPair.from_bytes(corpus.tokenizers.to_bytes())
    assert read.source is read.target
    with pytest.raises(
        SettingsError, match=r"tokenizer\.joint needs one kind for both sides, numbers has char and word"
    ):
        open_corpus(embedded("numbers", "tokenizer.joint=true"))
