"""Where settings come from, and in which order: defaults < YAML file or preset < environment < command line.

    file     optim: {lr: 1e-3}             a path, or the name of a preset that a task ships
    environ  TRAINER__OPTIM__LR=1e-3       two underscores go one section down; USE_CPU=1 is `device: cpu`
    command  --set optim.lr=1e-3, --lr 1e-3

Values travel as texts and get their type from the settings class, so `01` stays a signer's name and `off` a word.
Everything wrong is collected: a SettingsError has one line for each problem, with the setting and where it stood.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import yaml
from pydantic import ValidationError

from trainer.config.files import ConfigFile, find_config, parse_yaml, to_value
from trainer.config.hierarchy import HierarchySettings
from trainer.config.names import Leaf, leaves, nearest, sections
from trainer.config.names import flags as short_forms
from trainer.config.settings import CommonSettings
from trainer.config.signs import SignsSettings
from trainer.config.translation import TranslationSettings
from trainer.errors import SettingsError

TASK_SETTINGS: dict[str, type[CommonSettings]] = {
    "signs": SignsSettings,
    "translation": TranslationSettings,
    "hierarchy": HierarchySettings,
}
DEFAULT_TASK = "signs"
PREFIX = "TRAINER__"
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
"""User and password in a URL, which no error may repeat."""
_FLOAT_SPELLING = re.compile(r"[0-9]+(\.[0-9]*)?e\+?[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Loaded:
    """The settings of a start, and for every setting (dotted name) the place its value came from."""

    settings: CommonSettings
    source_of: dict[str, str]


@dataclass(frozen=True)
class _Given:
    """A value somebody gave, and where it stood."""

    name: str
    value: Any
    where: str


def load_settings(
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    task: str | None = None,
    settings_class: type[CommonSettings] | None = None,
    base: ConfigFile | None = None,
) -> Loaded:
    """Settings out of all sources.

    `overrides` are texts `optim.lr=1e-3`; `flags` maps short flags (or dotted names) to what stood behind them.
    A class given as `settings_class` takes the place of the task's own (`train(...)` has no task); `base` stands in
    for the defaults (the settings of a run that is to be evaluated). Raises SettingsError: unknown names with the
    nearest right one, bad values with the rule they break.
    """
    flags, environ = dict(flags or {}), environ or {}
    wanted = task or _wanted_task(flags, environ, overrides)
    file = find_config(config, [wanted] if wanted in TASK_SETTINGS else list(TASK_SETTINGS)) if config else None
    chosen = "" if settings_class else _choose_task(wanted, file or base)
    if task:
        flags["--task"] = task
    reader = _Reader(settings_class or TASK_SETTINGS[chosen])
    sources = [reader.file(base, with_lines=False), reader.file(file), reader.environment(environ)]
    return reader.build(reader.merge([*sources, reader.command(overrides, flags)]))


def _wanted_task(flags: Mapping[str, Any], environ: Mapping[str, str], overrides: Sequence[str]) -> str | None:
    """The task that command line or environment name; with it a preset's name has one meaning."""
    on_command = dict(text.partition("=")[::2] for text in overrides).get("task")
    return flags.get("--task") or flags.get("task") or on_command or environ.get(f"{PREFIX}TASK")


def _choose_task(wanted: str | None, file: ConfigFile | None) -> str:
    """The task by the usual order; it decides which settings there are, so it is looked up before all others."""
    task = wanted or (file and (_root_task(file) or file.task)) or DEFAULT_TASK
    if task not in TASK_SETTINGS:
        near = get_close_matches(task, TASK_SETTINGS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(TASK_SETTINGS)}"
        raise SettingsError(f"unknown task {task!r}{hint}")
    return task


def _root_task(file: ConfigFile) -> str | None:
    root = parse_yaml(file.text, file.label)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "task"), None)


class _Reader:
    """Reads every source into `_Given`s for one settings class and collects what is wrong with them."""

    def __init__(self, settings: type[CommonSettings]) -> None:
        self.settings = settings
        self.leaves = leaves(self.settings)
        self.mappings = [name for name, leaf in self.leaves.items() if leaf.kind == "mapping"]
        self.sections = sections(self.settings)
        self.problems: list[str] = []

    def file(self, file: ConfigFile | None, *, with_lines: bool = True) -> list[_Given]:
        """Everything in a YAML file, with its line."""
        node = parse_yaml(file.text, file.label) if file else None
        return list(self._nodes(node, "", file.label, with_lines=with_lines)) if file and node else []

    def environment(self, environ: Mapping[str, str]) -> list[_Given]:
        """`TRAINER__A__B` variables, and USE_CPU of the plain trainer unless the device is said."""
        names = {key: key.removeprefix(PREFIX).lower().replace("__", ".") for key in environ if key.startswith(PREFIX)}
        found = [given for key, name in sorted(names.items()) for given in self._text(name, environ[key], key)]
        if environ.get("USE_CPU") == "1" and "device" not in names.values():
            found.append(_Given("device", "cpu", "USE_CPU"))
        return found

    def command(self, overrides: Sequence[str], flags: Mapping[str, Any]) -> list[_Given]:
        """`--set` texts and short flags, which are equals: the same setting twice must say the same."""
        found: list[_Given] = []
        for text in overrides:
            name, separator, value = text.partition("=")
            if separator:
                found += self._text(name.strip(), value.strip(), f"--set {name.strip()}")
            else:
                self.problems.append(f"--set {text}: write --set NAME=VALUE, e.g. --set optim.lr=1e-3")
        own = {flag: leaf.name for flag, leaf in short_forms(self.settings).items()}
        for key, value in flags.items():
            name = own.get(key, key)
            leaf = self.leaves.get(name)
            if leaf is None:
                self.problems.append(f"{key} is no option of this task ({self.settings.__name__})")
                continue
            where = key if key in own else leaf.flag or "command line"
            found += self._text(name, value, where) if isinstance(value, str) else [_Given(name, value, where)]
        return found

    def merge(self, sources: Sequence[Sequence[_Given]]) -> dict[str, _Given]:
        """Later sources win; within one source a setting has one value."""
        merged: dict[str, _Given] = {}
        for source in sources:
            own: dict[str, _Given] = {}
            for given in source:
                other = own.setdefault(given.name, given)
                if other.value != given.value:
                    both = f"{other.value!r} ({other.where}) and {given.value!r} ({given.where})"
                    self.problems.append(f"{given.name} is given twice: {both}; keep one")
            merged.update(own)
        return merged

    def build(self, given: Mapping[str, _Given]) -> Loaded:
        """Validate what was given and note the source of every setting."""
        tree: dict[str, Any] = {}
        for one in given.values():
            mapping = self._mapping(one.name)
            *path, last = [*mapping.split("."), one.name[len(mapping) + 1 :]] if mapping else one.name.split(".")
            section = tree
            for part in path:
                section = section.setdefault(part, {})
            section[last] = self._typed(one)
        try:
            settings = self.settings.model_validate(tree)
        except ValidationError as error:
            self.problems += [_problem(detail, given) for detail in error.errors(include_url=False)]
        if self.problems:
            raise SettingsError("\n".join(dict.fromkeys(self.problems)))
        return Loaded(settings, dict.fromkeys(self.leaves, "default") | {one.name: one.where for one in given.values()})

    def _text(self, name: str, text: str, where: str) -> Iterator[_Given]:
        """A value typed on a command line or in the environment."""
        leaf = self._leaf(name)
        if leaf is None and not self._is_group(name):
            self._unknown(name, where)
        elif leaf is None or text.startswith("["):
            node = parse_yaml(text, where)
            yield from self._nodes(node, name, where, with_lines=False) if node else ()
        elif leaf.nullable and text in ("null", "~"):
            yield _Given(name, None, where)
        else:
            yield _Given(name, re.findall(r"[^,\s]+", text) if leaf.kind == "list" else text, where)

    def _nodes(self, node: yaml.Node, name: str, label: str, *, with_lines: bool) -> Iterator[_Given]:
        """A YAML node and everything below it."""
        where = f"{label}:{node.start_mark.line + 1}" if with_lines else label
        at = f"{name or 'the settings'} ({where})"
        if self._leaf(name):
            yield _Given(name, to_value(node, at), where)
        elif not self._is_group(name):
            self._unknown(name, where)
        elif isinstance(node, yaml.MappingNode):
            for key, below in node.value:
                yield from self._nodes(below, f"{name}.{key.value}".lstrip("."), label, with_lines=with_lines)
        elif (value := to_value(node, at)) is not None:
            self.problems.append(f"{at} must be a group of names and values, got {value!r}")

    def _leaf(self, name: str) -> Leaf | None:
        """The leaf a value can be given to; an entry of a mapping counts as one of its own."""
        leaf = self.leaves.get(name)
        if leaf is None and (mapping := self._mapping(name)):
            return replace(self.leaves[mapping], name=name, kind="text", default=None)
        return leaf if leaf is None or leaf.kind != "mapping" else None

    def _mapping(self, name: str) -> str | None:
        """The mapping that this is an entry of; its keys are a user's own names (of columns), which may have dots."""
        return next((own for own in self.mappings if name.startswith(f"{own}.")), None)

    def _is_group(self, name: str) -> bool:
        return not name or name in self.sections or name in self.leaves

    def _unknown(self, name: str, where: str) -> None:
        near = nearest(name, self.settings)
        hint = f"did you mean {near!r}?" if near else "`trainer config` lists them all"
        self.problems.append(f"unknown setting {name!r} ({where}); {hint}")

    def _typed(self, given: _Given) -> Any:
        """Helm writes a million as 1e+06, which is whole all the same."""
        leaf = self._leaf(given.name)
        text = given.value
        if (
            leaf
            and leaf.whole
            and isinstance(text, str)
            and _FLOAT_SPELLING.fullmatch(text)
            and float(text).is_integer()
        ):
            return int(float(text))
        return given.value


def _problem(detail: Any, given: Mapping[str, _Given]) -> str:
    """One line for one error of pydantic: setting, rule, value, place."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if detail["type"] == "value_error" and not _standing(detail["loc"], given):
        return str(rule)
    value = detail["input"]
    got = "null" if value is None else (value or "empty") if isinstance(value, str) else repr(value)
    where = _standing(detail["loc"], given) or "default"
    return f"{name} is {_CREDENTIALS.sub('//***@', got)} ({where}): {rule}"


def _standing(loc: Sequence[Any], given: Mapping[str, _Given]) -> str | None:
    """Where the value at this place of the settings came from, if anybody gave it."""
    names = [part for part in loc if isinstance(part, str)]
    prefixes = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((given[name].where for name in prefixes if name in given), None)
