"""The tasks there are, found by name; a task's package is imported only when it is asked for.

Every task package has a module `task` with `Settings` (its settings class) and `create(settings) -> Task`, a module
`export` with `export_model(...)`, and a module `pages` with `pages(...)` for the report. It may have a module `rules`
with `rules()`, the warning signs to look for in place of the general ones.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from trainer.errors import SettingsError
from trainer.telemetry.rules import Rule
from trainer.telemetry.warnings import general_rules

TASKS = ("signs", "translation", "hierarchy")


def load(task: str, part: str = "task") -> ModuleType:
    """The module `part` (task, export, pages) of a task. Raises SettingsError for an unknown task."""
    if task not in TASKS:
        raise SettingsError(f"task is {task!r}; there are: {', '.join(TASKS)}")
    return import_module(f"trainer.tasks.{task}.{part}")


def rules(task: str) -> list[Rule]:
    """The warning rules of a task that has a module `rules` with `rules()`; else, and for no task, the general ones."""
    if task not in TASKS or find_spec(f"trainer.tasks.{task}.rules") is None:
        return general_rules()
    own: list[Rule] = load(task, "rules").rules()
    return own
