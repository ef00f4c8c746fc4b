"""Check 18 and the rest of `trainer translate`: lines in, lines out, with any published checkpoint."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.translation_runs import train_here, translation_settings
from trainer.cli import main
from trainer.report.build import write_report
from trainer.tasks.translation.corpora import pairs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run that has learned a little, so that outputs differ from line to line."""
    folder = tmp_path_factory.mktemp("runs")
    values = {"max_steps": 60, "num_epochs": 20, "schedule__warmup": "20 steps", "model__d_model": 32}
    passes = {"val": "every 20 steps", "val_translate": "every 30 steps"}
    train_here(translation_settings(folder, passes=passes, checkpoint__keep_last=4, **values))
    return f"file://{folder}"


@pytest.fixture
def translate(store, monkeypatch, capsys):
    """The command with a text on stdin; exit code, stdout and stderr."""

    def call(text="", *arguments, run="run"):
        given = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given), isatty=lambda: False))
        code = main(["translate", run, "--store", store, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def sentences(number):
    """Sources of the corpus, of many lengths."""
    return [source for source, _ in pairs("en_de_numbers", 7, number)]


def lines_of(text):
    """As `wc -l` counts them: a newline ends a line and nothing else does."""
    return text.split("\n")[:-1]


def test_18_every_line_gives_a_line(translate):
    odd = ["", "forty two", "   ", "what\u2028is\x0bthis\x85\x0c", "\tone", "x" * 3000, "one\r", "", "üñ→😀", "zero"]
    text = "\n".join(odd)
    code, out, _ = translate(text)
    assert code == 0
    lines = lines_of(out)
    assert len(lines) == len(odd)
    assert [place for place, line in enumerate(odd) if not line.strip() and lines[place]] == []
    assert lines[1]
    assert lines[6] == lines_of(translate("one\n")[1])[0]
    assert translate(text + "\n")[1] == out  # whether the last line is ended or not
    assert translate("")[1] == ""
    assert translate("\n\n\n")[1] == "\n\n\n"


def test_18_alone_and_in_a_batch_of_64_a_sentence_reads_the_same(translate):
    texts = sentences(64)
    lines = lines_of(translate("\n".join(texts) + "\n", "--set", "decode.batch_size=64")[1])
    assert len(set(lines)) > 3
    alone = [lines_of(translate(text)[1])[0] for text in texts[::8]]
    assert alone == lines[::8]
    assert lines_of(translate("\n".join(texts[::-1]) + "\n")[1]) == lines[::-1]


def test_files_in_a_file_out(translate, tmp_path):
    texts = sentences(5)
    for name, part in (("a", texts[:2]), ("b", texts[2:])):
        (tmp_path / name).write_text("\n".join(part) + "\n")
    out = tmp_path / "out"
    code, said, _ = translate("", "--in", str(tmp_path / "a"), "--in", str(tmp_path / "b"), "--out", str(out))
    assert (code, said) == (0, "")
    assert out.read_text() == translate("\n".join(texts) + "\n")[1]
    assert "note: 1 of 1 lines were cut at data.max_source_len" in translate("one " * 200)[2]


def test_more_than_one_translation_and_their_scores(translate):
    code, out, _ = translate("forty two\n\n", "--nbest", "2")
    rows = [re.fullmatch(r"(\d+) \|\|\| (.*) \|\|\| (-?[\d.]+)", line).groups() for line in lines_of(out)]
    assert code == 0
    assert [row[0] for row in rows] == ["0", "0", "1"]
    assert float(rows[0][2]) > float(rows[1][2])
    assert rows[0][1] != rows[1][1]
    score, _, text = lines_of(translate("forty two\n", "--scores")[1])[0].partition("\t")
    assert (text, float(score)) == (rows[0][1], float(rows[0][2]))
    said = [json.loads(line) for line in lines_of(translate("forty two\n\n", "--nbest", "2", "--json")[1])]
    assert [one["source"] for one in said] == ["forty two", ""]
    assert [one["text"] for one in said[0]["nbest"]] == [rows[0][1], rows[1][1]]
    assert said[1]["text"] == ""
    assert json.loads(translate("\tone \n", "--json")[1])["source"] == "\tone "


def test_any_checkpoint_will_do_and_none_needs_the_corpus(translate, store, capsys, monkeypatch):
    def gone(*_):
        raise AssertionError("the corpus was opened")

    monkeypatch.setattr("trainer.tasks.translation.task.open_corpus", gone)
    text = "\n".join(sentences(12)) + "\n"
    best, latest = translate(text)[1], translate(text, "--checkpoint", "latest")[1]
    assert latest == translate(text, "--checkpoint", "60")[1]
    assert translate(text, "--checkpoint", "52")[1] != latest
    assert main(["checkpoints", "average", "run", "--store", store, "--last", "3", "--name", "mean"]) == 0
    capsys.readouterr()
    code, mean, _ = translate(text, run="mean")
    assert code == 0
    assert len(lines_of(mean)) == 12
    folder = Path(store.removeprefix("file://"), "run")
    monkeypatch.chdir(folder)
    assert translate(text, run=str(folder))[1] == best


def test_words_can_be_drawn(translate):
    def drawn(*arguments):
        return translate("forty two\nnine\n", "--temperature", "2", *arguments)[1]

    assert drawn() == drawn()
    assert drawn() != drawn("--seed", "7")
    assert translate("forty two\n", "--top-k", "1")[1] == translate("forty two\n", "--set", "decode.beam_size=1")[1]


@pytest.mark.parametrize(
    ("text", "arguments", "code", "says"),
    [
        (b"one\n\xff\n", (), 3, "stdin, line 2 is no UTF-8 (byte 1)"),
        ("one", ("--in", "nowhere"), 3, "nowhere cannot be read"),
        ("one", ("--nbest", "9"), 2, "--nbest 9 needs as many hypotheses, decode.beam_size is 2"),
        ("one", ("--nbest", "2", "--top-k", "3"), 2, "--nbest belongs to the search"),
        ("one", ("--checkpoint", "7"), 4, "has no checkpoint '7'"),
        ("one", ("--set", "model.d_model=64"), 4, "does not fit the model of these settings"),
        ("one", ("--set", "tokenizer.digest=0123456789abcdef"), 3, "0123456789abcdef"),
    ],
)
def test_what_cannot_be_translated_is_one_line(translate, text, arguments, code, says):
    found, out, err = translate(text, *arguments)
    assert (found, out) == (code, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_the_report_shows_translations_and_how_they_changed(store, tmp_path):
    from trainer.checkpoint.stores import open_store

    page = Path(write_report(open_store(store), "run", tmp_path)[0]).read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    for title in ("Translations", "Worst translations", "How translations changed", "Attention"):
        assert title in titles
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" in page
