"""Report pages of translation from hand-made facts: what is shown, and what is left out."""

from typing import Any

import pytest

from trainer.report.draw import Pencil
from trainer.tasks.page import Picture, RunFacts, Table, Text
from trainer.tasks.translation.pages import MAX_MOMENTS, pages


def sample(place: int, output: str, bleu: float) -> dict[str, Any]:
    return {"source": f"source {place}", "reference": f"reference {place}", "output": output, "bleu": bleu}


def walk(name: str, step: int, is_final: bool = False, **detail: Any) -> dict[str, Any]:
    samples = [sample(place, f"output {place} at {step}", step / 10) for place in range(5)]
    return {
        "event": "PassDone",
        "name": name,
        "step": step,
        "is_final": is_final,
        "num_samples": 500,
        "metrics": {"bleu": 12.345, "chrf": 40.0, "bleu_to_10": 20.0, "bleu_to_20": 10.0, "bleu_longer": None},
        "detail": {"samples": samples, **detail},
    }


WHOLE = {
    "worst": [sample(9, "wrong", 1.0)],
    "signatures": {"bleu": "nrefs:1"},
    "attention": [
        {"source": ["a", "$b", "<eos>"], "output": ["c", "<eos>"], "weights": [[0.5, 0.5, 0], [0, 0.1, 0.9]]}
    ],
}


def facts(walks: list[dict[str, Any]]) -> RunFacts:
    return RunFacts(walks, {}, {}, "val/nll", {one["name"]: one for one in walks})


@pytest.fixture(scope="module")
def sections() -> dict[str, list[Any]]:
    walks = [walk("val_translate", 10 * number) for number in range(1, 10)]
    found = pages(facts([*walks, walk("test_translate", 95, is_final=True, **WHOLE)]), Pencil())
    return {section.title: list(section.parts) for section in found.sections}


def test_every_section_has_its_place(sections: dict[str, list[Any]]) -> None:
    names = ["Translations", "Worst translations", "BLEU by length", "How translations changed", "Attention"]
    assert list(sections) == names


def test_scores_stand_with_their_signatures(sections: dict[str, list[Any]]) -> None:
    text, table, _ = sections["Translations"]
    assert isinstance(text, Text)
    assert "Pass test_translate, 500 sentences. BLEU 12.35 (nrefs:1); chrF 40.00" in text.text
    assert table.rows[1] == ["source 1", "reference 1", "output 1 at 95", "9.5"]


def test_five_sentences_are_followed_over_the_run(sections: dict[str, list[Any]]) -> None:
    (table,) = sections["How translations changed"]
    assert isinstance(table, Table)
    assert len(table.rows) == 5 * (1 + MAX_MOMENTS)
    assert table.rows[0] == ["source 0", "reference", "reference 0", ""]
    assert [row[1] for row in table.rows[1 : 1 + MAX_MOMENTS]] == ["10", "30", "40", "60", "70", "90"]
    assert all(table.rows[place][1] == "reference" for place in table.marked)


def test_pictures_say_in_words_what_they_show(sections: dict[str, list[Any]]) -> None:
    for title, words in (("Attention", "a $b <eos> → c <eos>"), ("BLEU by length", "by the length of the source")):
        (picture,) = sections[title]
        assert isinstance(picture, Picture)
        assert words in picture.alt


def test_outputs_that_differ_from_the_reference_stand_out() -> None:
    one = walk("val_translate", 10)
    one["detail"]["samples"][2]["output"] = "reference 2"
    (_, table, _) = pages(facts([one]), Pencil()).sections[0].parts
    assert table.marked == {0, 1, 3, 4}


def test_before_the_first_walk_there_is_nothing_and_after_one_no_history() -> None:
    assert pages(facts([]), Pencil()).sections == []
    titles = [section.title for section in pages(facts([walk("val_translate", 10)]), Pencil()).sections]
    assert titles == ["Translations", "BLEU by length"]
