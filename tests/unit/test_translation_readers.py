"""Acceptance check 17: corpora on disk in every layout, and everything that can be wrong with one."""

import json

import pytest

from tests.translation_files import PAIRS, multi30k, settings_of, write
from trainer.cli import main
from trainer.errors import DataError, SettingsError
from trainer.tasks.translation.corpus import open_corpus, text_of


def sizes(text):
    return {name: len(split) for name, split in text.splits.items()}


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_multi30k_folder(tmp_path, ending):
    text = text_of(settings_of(multi30k(tmp_path, ending)))
    assert sizes(text) == {"train": 40, "val": 10, "test": 20 - 10}
    assert text.languages == ("en", "de")
    assert (text.splits["train"].sources[7], text.splits["train"].targets[7]) == PAIRS[7]
    assert text.splits["val"].place(3) == f"{tmp_path}/val.en{ending}:4"


def test_the_other_direction_and_one_language_said(tmp_path):
    folder = multi30k(tmp_path)
    forward = text_of(settings_of(folder))
    back = text_of(settings_of(folder, "data.source_lang=de", "data.target_lang=null"))
    assert back.languages == ("de", "en")
    assert back.splits["train"].sources == forward.splits["train"].targets
    assert back.digest != forward.digest


@pytest.mark.parametrize("layout", ["tsv", "jsonl"])
def test_files_of_pairs_are_split_by_the_source(tmp_path, layout):
    lines = [
        "\t".join(pair) if layout == "tsv" else json.dumps(dict(zip(("en", "de"), pair, strict=True))) for pair in PAIRS
    ]
    file = write(tmp_path / f"corpus.{layout}", lines)
    text = text_of(settings_of(file, "data.val_share=0.2", "data.test_share=0.1"))
    assert sum(sizes(text).values()) == len(PAIRS)
    assert all(sizes(text).values())
    grown = write(tmp_path / f"grown.{layout}", lines[::-1])
    assert set(text_of(settings_of(grown, "data.val_share=0.2", "data.test_share=0.1")).splits["val"].sources) == set(
        text.splits["val"].sources
    )


def test_a_header_of_a_table_is_no_pair(tmp_path):
    pairs = ["\t".join(pair) for pair in PAIRS]
    shares = ("data.source_lang=en", "data.target_lang=de", "data.val_share=0.2")
    plain = text_of(settings_of(write(tmp_path / "plain.tsv", pairs), *shares))
    headed = text_of(settings_of(write(tmp_path / "headed.tsv", ["en\tde", *pairs, "en\tde"]), *shares))
    assert sum(sizes(headed).values()) == sum(sizes(plain).values()) + 1, "at the end the two words are a pair"


def test_files_said_by_name(tmp_path):
    multi30k(tmp_path)
    said = ["data.train_files=[train.en, train.de]", "data.val_files=[test_2016_flickr.en, test_2016_flickr.de]"]
    assert sizes(text_of(settings_of(tmp_path, *said))) == {"train": 40, "val": 10}


def test_several_files_of_a_split_are_joined(tmp_path):
    multi30k(tmp_path)
    write(tmp_path / "train_more.en", ["one more"])
    write(tmp_path / "train_more.de", ["noch eins"])
    split = text_of(settings_of(tmp_path)).splits["train"]
    assert len(split) == 41
    assert split.place(40) == f"{tmp_path}/train_more.en:1"


def test_what_reading_found(tmp_path):
    folder = multi30k(tmp_path)
    sources, targets = ([pair[side] for pair in PAIRS[:40]] for side in (0, 1))
    write(folder / "train.en", [*sources, "", "only here", sources[0], "word " * 100])
    write(folder / "train.de", [*targets, "", "", targets[0], "Wort"])
    corpus = open_corpus(settings_of(folder, "data.max_source_len=50"))
    found = corpus.report["train"]
    assert {name: found[name] for name in ("pairs", "empty", "duplicates", "over_limit", "ratio_outliers", "used")} == {
        "pairs": 42,
        "empty": 2,
        "duplicates": 1,
        "over_limit": 1,
        "ratio_outliers": 1,
        "used": 41,
    }


def test_unknown_characters_are_counted(tmp_path):
    folder = multi30k(tmp_path)
    write(folder / "val.en", ["a small ☃ sleeps"] * 10)
    corpus = open_corpus(settings_of(folder))
    assert corpus.report["val"]["unknown_tokens"]["source"] == 10
    with_bytes = open_corpus(settings_of(folder, "tokenizer.kind=bpe"))
    assert with_bytes.report["val"]["unknown_tokens"]["source"] == 0


def test_a_byte_order_mark_and_line_ends_are_no_text(tmp_path):
    folder = multi30k(tmp_path)
    (folder / "val.en").write_bytes("\ufeffhello there\r\n".encode() + b"you\r\n" * 9)
    split = text_of(settings_of(folder)).splits["val"]
    assert split.sources[:2] == ["hello there", "you"]


def unequal(folder):
    write(folder / "train.de", ["x"] * 39)


def empty_file(folder):
    write(folder / "val.en", [])
    write(folder / "val.de", [])


def no_text(folder):
    write(folder / "val.en", [""] * 10)


def invalid(folder):
    (folder / "train.de").write_bytes(b"".join(b"gut \xff\n" if number == 16 else b"gut\n" for number in range(40)))


def overlap(folder):
    lines = (folder / "val.en").read_text().splitlines()
    write(folder / "val.en", [*lines[:4], PAIRS[11][0], *lines[5:]])


def no_partner(folder):
    (folder / "val.de").unlink()


def damaged(folder):
    whole = write(folder / "train.en.gz", [source for source, _ in PAIRS[:40]]).read_bytes()
    (folder / "train.en").unlink()
    (folder / "train.en.gz").write_bytes(whole[:-20])


def long_line(folder):
    lines = (folder / "train.en").read_text().splitlines()
    write(folder / "train.en", [*lines[:8], "word " * 10_000, *lines[9:]])


BAD = [
    (unequal, [], "train.en has 40 lines, {folder}/train.de 39: line n of one belongs to line n of the other"),
    (empty_file, [], "{folder}/val.en is empty"),
    (no_text, [], "{folder}: no pair is left for val"),
    (invalid, [], "{folder}/train.de:17: is no valid UTF-8 (byte 0xff at position 5)"),
    (overlap, [], "1 sources of train stand in val or test, too, e.g. {folder}/train.en:12 and {folder}/val.en:5"),
    (no_partner, [], "{folder}/val.de is missing: its other side is {folder}/val.en"),
    (damaged, [], "{folder}/train.en.gz cannot be read, it is damaged"),
    (
        long_line,
        ["data.long_pairs=fail"],
        "{folder}/train.en:9: the source has 10,001 tokens, data.max_source_len is 128",
    ),
    (
        long_line,
        ["data.long_pairs=truncate", "data.max_tokens=100"],
        "{folder}/train.en:9 takes 128 cells, data.max_tok",
    ),
    (None, ["data.target_lang=fr"], "data.target_lang is fr, but {folder} has files of: de, en"),
    (None, ["data.layout=tsv"], "{folder} has nothing to train on: no train*.tsv"),
    (None, ["data.max_source_len=2"], "every pair is over data.max_source_len"),
    (None, ["data.train_files=[nope.en, train.de]"], "data.train_files: {folder}/nope.en does not exist"),
]


@pytest.mark.parametrize(("spoil", "overrides", "message"), BAD)
def test_17_bad_input_is_one_line_with_its_place(tmp_path, spoil, overrides, message):
    folder = multi30k(tmp_path)
    if spoil:
        spoil(folder)
    with pytest.raises(DataError) as caught:
        open_corpus(settings_of(folder, *overrides))
    assert message.format(folder=folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.source_lang=null", "data.target_lang=null"], "has files of the languages de, en: say which"),
        (["data.train_files=[train.en]"], "one file holds pairs only as tsv or jsonl"),
        (["data.train_files=[a, b, c]"], "does not exist"),
        (["data.layout=embedded"], "data.layout is embedded, which reads no files"),
    ],
)
def test_settings_that_contradict_the_files(tmp_path, overrides, message):
    with pytest.raises((SettingsError, DataError), match=message):
        open_corpus(settings_of(multi30k(tmp_path), *overrides))


def test_17_bad_lines_may_be_left_out_within_a_budget(tmp_path):
    folder = multi30k(tmp_path)
    invalid(folder)
    text = text_of(settings_of(folder, "data.bad_samples=skip"))
    assert len(text.splits["train"]) == 39
    assert text.bad.lines == [f"{folder}/train.de:17: is no valid UTF-8 (byte 0xff at position 5)"]
    (folder / "train.de").write_bytes(b"\xff\n" * 40)
    with pytest.raises(DataError, match=r"train\.de:3: .*; this is bad sample 3, data\.bad_budget is 2"):
        text_of(settings_of(folder, "data.bad_samples=skip", "data.bad_budget=2"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"en": "x"}', "is no object with 'en' and 'de'"),
        ("[1, 2]", "is no object with 'en' and 'de'"),
        ('{"en": "x", "de": 5}', "has a 'en' or 'de' that is no text"),
        ("{", "is no JSON"),
    ],
)
def test_17_lines_that_are_no_pair(tmp_path, line, reason):
    good = [json.dumps({"en": source, "de": target}) for source, target in PAIRS]
    with pytest.raises(DataError, match=reason) as caught:
        text_of(settings_of(write(tmp_path / "c.jsonl", [*good, line])))
    assert f"c.jsonl:{len(PAIRS) + 1}" in str(caught.value)
    with pytest.raises(DataError, match=r"c\.tsv:2: has no tab"):
        text_of(settings_of(write(tmp_path / "c.tsv", ["a\tb", "no tab here"])))


def test_overlap_may_be_allowed_and_is_counted(tmp_path):
    folder = multi30k(tmp_path)
    overlap(folder)
    assert text_of(settings_of(folder, "data.allow_overlap=true")).report()["shared_sources"] == 1


def test_17_commands_end_with_3_and_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = multi30k(tmp_path / "text")
    unequal(folder)
    said = ["--task", "translation", "--data-dir", str(folder), "--source_lang", "en", "--target_lang", "de"]
    assert main(["train", *said]) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "train.en has 40 lines" in line
    assert main(["train", "--task", "translation"]) == 3
    assert "data.layout=embedded" in capsys.readouterr().err
    assert main(["train", "--task", "translation", "--data-dir", "nowhere"]) == 3
    assert "data.path: nowhere does not exist" in capsys.readouterr().err
