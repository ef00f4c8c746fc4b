"""values.schema.json out of four sources, so that nothing is said twice.

    values.schema.yaml (beside this file)   types, patterns, enums
    values.yaml                             descriptions, and which names must not be null
    the trainer's presets                   what `preset` may be
    the trainer's settings                  `config`

Helm 3 before 3.18 knows draft 07 only, later ones and Helm 4 know it, too. `$ref` into `#/$defs` is a JSON pointer and
works in all of them.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from charts.tools.values_docs import CHART, Value, values
from trainer.config.files import presets
from trainer.config.schema import schema as settings_schema
from trainer.config.sources import TASK_SETTINGS

SOURCE = Path(__file__).with_name("values.schema.yaml")
OUTPUT = CHART / "values.schema.json"
NO_PRESET = "none"


def values_schema() -> dict[str, Any]:
    """The whole schema of the chart's values."""
    rules: dict[str, Any] = yaml.safe_load(SOURCE.read_text("utf-8"))
    config = _draft_07(settings_schema())
    names = {name for task in TASK_SETTINGS for name in presets(task)}
    rules["$defs"] |= config.pop("$defs")
    rules["properties"]["config"] = config
    rules["properties"]["preset"] = {"enum": [*sorted(names), NO_PRESET]}
    _close(rules)
    for value in values():
        _describe(rules, value)
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart trainer"} | rules


def text() -> str:
    """The file's content."""
    return json.dumps(values_schema(), indent=1, ensure_ascii=False) + "\n"


def _draft_07(node: Any) -> Any:
    """Tuples as draft 07 has them, and without the trainer's own keywords."""
    if isinstance(node, list):
        return [_draft_07(item) for item in node]
    if not isinstance(node, dict):
        return node
    new = {key: _draft_07(value) for key, value in node.items() if key not in ("flag", "matters")}
    if isinstance(new.get("prefixItems"), list):
        new |= {"items": new.pop("prefixItems"), "additionalItems": False}
    return new


def _close(rules: dict[str, Any]) -> None:
    """Objects of ours take no names beyond theirs."""
    if "properties" in rules:
        rules.setdefault("additionalProperties", False)
        for name, below in rules["properties"].items():
            if name != "config":
                _close(below)


def _describe(rules: dict[str, Any], value: Value) -> None:
    """Put a value's comment beside its rules, and refuse null where its default says something.

    A group set to null, or a value that has no empty form, would end in a template's nil pointer or a bad object.
    """
    parts = value.path
    here = rules
    for part in parts[:-1]:
        _require(here, part)
        here = here["properties"][part]
    own = here["properties"][parts[-1]]
    if "$ref" in own:
        # what stands beside a reference is not read in draft 07
        own = here["properties"][parts[-1]] = {"allOf": [own]}
    own["description"] = value.text
    if not isinstance(value.default, dict | list) and value.default not in (None, ""):
        _require(here, parts[-1])


def _require(rules: dict[str, Any], name: str) -> None:
    required = rules.setdefault("required", [])
    if name not in required:
        required.append(name)
