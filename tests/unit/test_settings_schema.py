"""The JSON Schema of the settings, within what Helm understands."""

import json
import re

import pytest
from pydantic import TypeAdapter

from trainer.config.schema import schema
from trainer.config.sources import load_settings
from trainer.config.texts import AmountText, CurveText, PatienceText, TriggerText


def nodes(node):
    yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from nodes(below)


@pytest.fixture(scope="module")
def everything():
    return schema()


def test_it_is_json_with_all_definitions_at_the_root(everything):
    assert json.loads(json.dumps(everything)) == everything
    holders = [node for node in nodes(everything) if isinstance(node, dict) and "$defs" in node]
    assert holders == [everything]
    references = {
        node["$ref"] for node in nodes(everything) if isinstance(node, dict) and isinstance(node.get("$ref"), str)
    }
    assert references == {f"#/$defs/{name}" for name in everything["$defs"]}


def test_it_has_no_discriminator_and_the_task_may_be_left_out(everything):
    assert not [node for node in nodes(everything) if isinstance(node, dict) and "discriminator" in node]
    assert everything["allOf"][0]["if"] == {"properties": {"task": {"const": "signs"}}}


def test_it_refuses_unknown_names_everywhere(everything):
    objects = [node for node in everything["$defs"].values() if node.get("type") == "object"]
    assert all(node["additionalProperties"] is False for node in objects)
    assert everything["$defs"]["SignsSettings"]["properties"]["batch_size"]["minimum"] == 1
    assert set(everything["$defs"]["OptimSettings"]["properties"]["name"]["enum"]) == {"adam", "adamw", "sgd"}


def test_patterns_stay_within_re2(everything):
    patterns = [
        node["pattern"] for node in nodes(everything) if isinstance(node, dict) and isinstance(node.get("pattern"), str)
    ]
    assert len(patterns) >= 5
    for pattern in patterns:
        assert not re.search(r"\(\?[=!<]|\\[1-9]|[*+?}]\+|\(\?>", pattern.replace(r"\+?", "")), pattern


def test_descriptions_are_those_of_the_settings(everything):
    assert "global batch" in everything["$defs"]["SignsSettings"]["properties"]["batch_size"]["description"]
    assert "title" not in everything["$defs"]["OptimSettings"]["properties"]["lr"]


TEXTS = {
    AmountText: (["5 %", "2.5 epochs", "500", "1 step", "1e3", "100/3 %"], ["5 parsecs", "-1", "x"]),
    TriggerText: (
        ["every 500 steps", "each: 2 epochs and end", "at 10%, 50%", "never", "every 5 from 10% to 3 epochs"],
        ["often", "every", "every 5 parsecs", "at"],
    ),
    CurveText: (["0 @ 0, 1 @ 10% linear", "0.5@0", "-1 @ 1 epoch, 2 @ 50% cosine"], ["1", "x @ 5", "1 @ 2 wobble"]),
    PatienceText: (["3 passes", "1 pass", "5 epochs", "10 %"], ["x passes", "soon"]),
}


@pytest.mark.parametrize("kind", TEXTS, ids=["amount", "trigger", "curve", "patience"])
def test_pattern_and_parser_agree(kind):
    adapter = TypeAdapter(kind)
    pattern = re.compile(adapter.json_schema()["pattern"])
    good, bad = TEXTS[kind]
    for text in good:
        assert adapter.validate_python(text) == text
        assert pattern.search(text), text
    for text in bad:
        assert not pattern.search(text), text
        with pytest.raises(ValueError):
            adapter.validate_python(text)


def test_a_bare_number_is_an_amount_of_steps():
    assert TypeAdapter(AmountText).validate_python(500) == "500"
    assert load_settings(overrides=["schedule.warmup=500"]).settings.schedule.warmup == "500"
