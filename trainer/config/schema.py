"""The settings as JSON Schema, for editors and for the chart's `config:` block.

Helm knows less than pydantic writes: `$defs` stand at the root, patterns are RE2, and the task is chosen by `if` and
`then` instead of a discriminator, because a discriminator with a default would refuse settings that leave it out.
"""

from typing import Any

from trainer.config.names import leaves
from trainer.config.sources import DEFAULT_TASK, TASK_SETTINGS


def schema(task: str | None = None) -> dict[str, Any]:
    """The schema of one task's settings, or of every task's, chosen by the value of `task`."""
    if task is not None:
        own: dict[str, Any] = _without_titles(TASK_SETTINGS[task].model_json_schema())
        return own
    definitions: dict[str, Any] = {}
    branches = []
    for name, settings in TASK_SETTINGS.items():
        own = schema(name)
        definitions |= own.pop("$defs")
        definitions[settings.__name__] = own
        chosen: dict[str, Any] = {"properties": {"task": {"const": name}}}
        if name != DEFAULT_TASK:
            chosen["required"] = ["task"]
        branches.append({"if": chosen, "then": {"$ref": f"#/$defs/{settings.__name__}"}})
    return {
        "type": "object",
        "properties": {"task": {"enum": list(TASK_SETTINGS)}},
        "allOf": branches,
        "$defs": definitions,
    }


def table(task: str) -> list[dict[str, Any]]:
    """Every setting of a task as one row: name, flag, default, whether it matters, description."""
    return [
        {"name": leaf.name, "flag": leaf.flag, "default": leaf.default, "matters": leaf.matters, "help": leaf.help}
        for leaf in leaves(TASK_SETTINGS[task]).values()
    ]


def _without_titles(node: Any) -> Any:
    """Pydantic gives every node a title that repeats its name; a property that is called `title` stays."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _without_titles(below) for name, below in value.items()}
        if key in ("properties", "$defs")
        else _without_titles(value)
        for key, value in node.items()
        if key != "title" or not isinstance(value, str)
    }
