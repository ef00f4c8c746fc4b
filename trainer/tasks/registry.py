"""The tasks there are, found by name; a task's package is imported only when it is asked for.

Every task package has a module `task` with `Settings` (its settings class) and `create(settings) -> Task`, a module
`export` with `export_model(...)`, and a module `pages` with `pages(...)` for the report. `task` may also have `RULES`,
the warning signs to look for in place of the general ones.
"""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from trainer.errors import SettingsError
from trainer.telemetry.rules import Rule

TASKS = ("signs", "hierarchy")


def load(task: str, part: str = "task") -> ModuleType:
    """The module `part` (task, export, pages) of a task. Raises SettingsError for an unknown task."""
    if task not in TASKS:
        raise SettingsError(f"task is {task!r}; there are: {', '.join(TASKS)}")
    return import_module(f"trainer.tasks.{task}.{part}")


def rules_of(task: str) -> Sequence[Rule] | None:
    """The warning signs of a task; None where the general ones serve (a model from outside has no task)."""
    return getattr(load(task), "RULES", None) if task in TASKS else None
