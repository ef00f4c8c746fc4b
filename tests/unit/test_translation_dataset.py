"""Encoded pairs as batches, prepared corpora, and the digests of both."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.translation_files import PAIRS, embedded, multi30k, settings_of, write
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.state import HostBuffers, State
from trainer.cli import main, packing
from trainer.errors import DataError
from trainer.tasks import remote
from trainer.tasks.translation.batching import fill_of
from trainer.tasks.translation.corpus import open_corpus, text_of
from trainer.tasks.translation.dataset import Tokens, TranslationPairs
from trainer.tasks.translation.remarks import remarks
from trainer.tasks.translation.tokenizer import FILE, TokenizerPair
from trainer.tasks.translation.vocabulary import BOS, EOS, PAD

SOURCE, TARGET = [[4, 5], [6], [7, 8, 9]], [[4], [5, 6, 7], []]


def made():
    return TranslationPairs(Tokens.of(SOURCE), Tokens.of(TARGET))


def test_a_batch_is_what_the_contract_says():
    batch = made().take(np.array([1, 0]), 0)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "source_ids": [[6, EOS, PAD], [4, 5, EOS]],
        "decoder_ids": [[BOS, 5, 6, 7], [BOS, 4, EOS, PAD]],
        "labels": [[5, 6, 7, EOS], [4, EOS, PAD, PAD]],
        "index": [1, 0],
    }
    assert all(value.dtype == torch.int64 for value in batch.values())


def test_batches_agree_with_a_loop_over_sentences():
    random = np.random.default_rng(1)
    source, target = ([random.integers(4, 50, n).tolist() for n in random.integers(0, 20, 64)] for _ in range(2))
    data = TranslationPairs(Tokens.of(source), Tokens.of(target))
    rows = random.permutation(64)[:17]
    batch = data.take(rows, 0)
    for place, row in enumerate(rows.tolist()):
        for name, ids in (
            ("source_ids", [*source[row], EOS]),
            ("decoder_ids", [BOS, *target[row], EOS]),
            ("labels", [*target[row], EOS]),
        ):
            width = batch[name].shape[1]
            assert batch[name][place].tolist() == (ids + [PAD] * (width - len(ids)))[:width]
    assert int((batch["labels"] != PAD).sum()) == data.target_tokens(rows)
    assert data.costs(rows).tolist() == [max(len(source[r]), len(target[r])) + 1 for r in rows.tolist()]


def test_every_part_is_padded_to_its_own_longest():
    long, short = made().take_parts([np.array([1]), np.array([0, 2])], 0)
    assert long["labels"].shape == (1, 4)
    assert short["labels"].shape == (2, 2)


def test_a_selection_shares_the_tokens_and_keeps_the_texts():
    corpus = open_corpus(embedded())
    some = corpus.val.select(np.array([3, 1]))
    assert some.source.flat is corpus.val.source.flat
    assert some.texts == [corpus.val.texts[3], corpus.val.texts[1]]
    assert torch.equal(some.take(np.array([0]), 0)["labels"], corpus.val.take(np.array([3]), 0)["labels"])


@pytest.mark.parametrize(("policy", "used"), [("drop", 39), ("truncate", 40)])
def test_long_pairs_of_training_and_of_evaluation(tmp_path, policy, used):
    folder = multi30k(tmp_path)
    for split in ("train", "val"):
        lines = (folder / f"{split}.en").read_text().splitlines()
        write(folder / f"{split}.en", [f"{split} " * 300, *lines[1:]])
    corpus = open_corpus(settings_of(folder, f"data.long_pairs={policy}", "data.max_source_len=12"))
    assert (len(corpus.train), corpus.report["train"]["over_limit"], corpus.report["train"]["used"]) == (used, 1, used)
    assert (len(corpus.val), corpus.report["val"]["over_limit"]) == (10, 1)
    assert corpus.val.source_lengths.max() == 12
    batch = corpus.val.take(np.array([0]), 0)
    assert batch["source_ids"][0, -1] == EOS


def test_other_text_is_another_run(tmp_path):
    folder = multi30k(tmp_path)
    settings = settings_of(folder)
    first = open_corpus(settings).digest
    assert settings.data.digest == first
    assert open_corpus(settings).digest == first
    write(folder / "train.de", [target for _, target in PAIRS[:39]] + ["anders"])
    with pytest.raises(DataError, match=f"has the digest [0-9a-f]+, data.digest is {first}: other data"):
        open_corpus(settings)


def test_the_tokenizers_see_training_text_only(tmp_path):
    folder = multi30k(tmp_path)
    before = open_corpus(settings_of(folder)).tokenizers.digest
    write(folder / "val.de", ["ganz andere Worte hier"] * 10)
    assert open_corpus(settings_of(folder)).tokenizers.digest == before


def test_shuffled_targets_are_the_same_targets_dealt_out():
    plain, dealt = text_of(embedded()), text_of(embedded("en_de_numbers", "data.shuffle_targets=true"))
    assert dealt.splits["train"].sources == plain.splits["train"].sources
    assert sorted(dealt.splits["train"].targets) == sorted(plain.splits["train"].targets)
    same = sum(a == b for a, b in zip(dealt.splits["train"].targets, plain.splits["train"].targets, strict=True))
    assert same < 10
    assert dealt.splits["val"].targets == plain.splits["val"].targets


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(*words):
    return main(["prepare", "--task", "translation", *words])


def test_prepare_generates_text_that_trains_without_further_words(place, capsys):
    assert prepare("--synthetic", "numbers", "--set", "data.pairs=500") == 0
    assert "en-de pairs: 444 train, 24 val, 32 test in numbers" in capsys.readouterr().out
    settings = settings_of("numbers", "data.source_lang=null", "data.target_lang=null")
    assert text_of(settings).splits["train"].sources == text_of(embedded(pairs=500)).splits["train"].sources
    assert prepare("numbers", "--check") == 0
    assert "every file is what the header says" in capsys.readouterr().out
    with open("numbers/val.de", "a") as file:
        file.write("mehr\n")
    assert prepare("numbers", "--check") == 3
    assert "numbers/val.de is not what corpus.json says" in capsys.readouterr().err


def test_prepare_cleans_a_folder(place, capsys):
    folder = multi30k(place / "raw", ".gz")
    lines = [source for source, _ in PAIRS[:40]]
    write(folder / "train.en.gz", ["", *lines[1:]])
    assert prepare("raw", "clean", "--set", "data.source_lang=en", "--set", "data.target_lang=de") == 0
    assert (place / "clean/train.en").read_text().splitlines() == lines[1:]
    assert prepare("clean", "again") == 3
    assert "clean is prepared already" in capsys.readouterr().err


def test_prepare_shows_pairs_as_text_tokens_ids_and_back(place, capsys):
    assert prepare("--set", "data.layout=embedded", "--set", "data.pairs=300", "--show", "2") == 0
    blocks = capsys.readouterr().out.split("pair ")[1:]
    assert len(blocks) == 2
    rows = {line[2:18].strip(): line[18:] for line in blocks[0].splitlines()[1:5]}
    assert rows["decoded"] == rows["source"]
    assert rows["tokens"].replace(" <pad>", "") == f"{rows['source']} <eos>"
    assert len(rows["ids"].split()) == len(rows["tokens"].split())
    assert prepare("--set", "data.layout=embedded", "--show", "two") == 2


def test_a_corpus_in_a_store_is_pushed_fetched_and_read(place, monkeypatch, capsys):
    store = FileStore(place / "bucket")
    for module in (packing, remote):
        monkeypatch.setattr(module, "open_store", lambda url, s3: store)
    monkeypatch.setenv("TRAINER__CACHE", str(place / "cache"))
    multi30k(place / "raw")
    languages = ["--set", "data.source_lang=en", "--set", "data.target_lang=de"]
    assert prepare("raw", "--to", "s3://bucket/corpus", *languages) == 0
    assert "en-de pairs: 40 train, 10 val, 10 test" in capsys.readouterr().out
    here = text_of(settings_of("raw"))
    there = text_of(
        settings_of("s3://bucket/corpus", "data.source_lang=null", "data.target_lang=null", f"cache={place}/c")
    )
    assert there.digest == here.digest
    assert there.splits["train"].place(0).startswith(f"{place}/c/")


def test_tokenizers_lie_beside_the_weights_of_every_checkpoint(place):
    tokenizers = open_corpus(embedded()).tokenizers
    state = State({"model": {"w": torch.ones(3)}}, {"cursor": {}}, files={FILE: tokenizers.to_bytes()})
    written = {name: b"".join(map(bytes, chunks)) for name, chunks in HostBuffers().copy(state).files()}
    assert TokenizerPair.from_bytes(written[FILE]).digest == tokenizers.digest
    assert set(written) == {"model.safetensors", FILE, "state.json"}


def test_what_is_odd_about_a_corpus_is_said_once(tmp_path):
    folder = multi30k(tmp_path)
    write(folder / "train.en", ["", *[source for source, _ in PAIRS[1:39]], "word " * 300])
    write(folder / "val.en", ["☃"] * 10)
    settings = settings_of(folder, "data.batch_by=sentences", "tokenizer.vocab_size=500")
    corpus = open_corpus(settings)
    fill = fill_of(corpus.plan(settings), corpus.train.target_lengths)
    train, val, test, vocabulary = remarks(corpus.report, fill, settings)
    assert train == (
        "train: of 39 pairs 1 with an empty side left out; 1 with one side over three times as long as the other; "
        "1 dropped, being over data.max_source_len or max_target_len"
    )
    assert val.startswith("val: of 10 pairs ")
    assert "100.00% of the source tokens unknown" in val
    assert test.startswith("test: of 10 pairs ")
    assert vocabulary.startswith("the vocabularies have ")
    assert remarks(corpus.report, replace(fill, padding_share=0.3), settings)[3].startswith("30% of the target cells")
