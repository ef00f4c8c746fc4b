"""YAML as texts with line numbers, and the search for a file or a preset by name.

Presets are files `tasks/<task>/presets/<name>.yaml` inside the package; they are read as data, so that the settings
need no task to be imported. No scalar is guessed into a number or a truth value (YAML would read the signer 01 as 1
and `off` as false): the settings class knows the types.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from trainer.errors import SettingsError


class TextLoader(yaml.BaseLoader):
    """Scalars stay text, but for null."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises ConstructorError for a key that is there twice; PyYAML takes the last one in silence."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ConstructorError(None, None, f"{twice[0]!r} is given twice; keep one", node.start_mark)
        return super().construct_mapping(node, deep)


TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(~|null|)$"), ["~", "n", ""])
TextLoader.add_constructor("tag:yaml.org,2002:null", lambda _loader, _node: None)


@dataclass(frozen=True)
class ConfigFile:
    """The text of a configuration, how to name it in messages, and the task whose preset it is."""

    text: str
    label: str
    task: str | None


def presets(task: str) -> list[str]:
    """Names of the presets that a task ships, sorted."""
    folder = _preset_folder(task)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def find_config(config: str, tasks: Sequence[str]) -> ConfigFile:
    """A preset of one of the tasks, or else a file. Raises SettingsError naming the presets there are."""
    for task in tasks:
        if config in presets(task):
            text = (_preset_folder(task) / f"{config}.yaml").read_text("utf-8")
            return ConfigFile(text, f"preset {config}", task)
    try:
        return ConfigFile(Path(config).read_text("utf-8"), config, None)
    except FileNotFoundError:
        known = ", ".join(dict.fromkeys(name for task in tasks for name in presets(task)))
        raise SettingsError(f"--config {config}: no such file, and no preset (there are: {known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {config} cannot be read: {error}") from None


def parse_yaml(text: str, where: str) -> yaml.Node | None:
    """The node tree of a YAML text, None for an empty one. Raises SettingsError with the line of a syntax error."""
    try:
        return yaml.compose(text, TextLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SettingsError(f"{where}{line} is no valid YAML: {problem}") from None


def to_value(node: yaml.Node, where: str) -> object:
    """Lists and mappings of texts out of a node. Raises SettingsError for a key that is there twice."""
    try:
        return TextLoader("").construct_document(node)
    except ConstructorError as error:
        raise SettingsError(f"{where}: {error.problem}") from None


def _preset_folder(task: str) -> Traversable:
    return package_files("trainer") / "tasks" / task / "presets"
