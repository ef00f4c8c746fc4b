"""The tasks there are, found by name; a task's package is imported only when it is asked for.

Every task package has a module `task` with `Settings` (its settings class) and `create(settings) -> Task`, a module
`export` with `export_model(...)`, and a module `pages` with `pages(...)` for the report.
"""

from importlib import import_module
from types import ModuleType

from trainer.errors import SettingsError

TASKS = ("signs",)


def load(task: str, part: str = "task") -> ModuleType:
    """The module `part` (task, export, pages) of a task. Raises SettingsError for an unknown task."""
    if task not in TASKS:
        raise SettingsError(f"task is {task!r}; there are: {', '.join(TASKS)}")
    return import_module(f"trainer.tasks.{task}.{part}")
