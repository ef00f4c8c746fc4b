"""Which run a command means: a name in the store, a folder on disk, or the newest run there is."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.run import COMPLETE_FILE, RUN_FILE
from trainer.checkpoint.store import Store
from trainer.checkpoint.stores import open_store
from trainer.config.sources import load_settings
from trainer.errors import SettingsError


@dataclass(frozen=True)
class FoundRun:
    """A run in a store and its record (`run.json`)."""

    store: Store
    name: str
    record: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        """Whether the run reached its length."""
        return get_json(self.store, f"{self.name}/{COMPLETE_FILE}") is not None


def the_store(url: str | None) -> Store:
    """The store of --store, or else of the environment and the defaults."""
    return open_store(url or load_settings(environ=os.environ).settings.run.store)


def all_runs(store: Store) -> list[FoundRun]:
    """Every run of a store, the newest last."""
    records = ((name, get_json(store, f"{name}/{RUN_FILE}")) for name in store.folders(""))
    found = [FoundRun(store, name, record) for name, record in records if record is not None]
    return sorted(found, key=lambda run: float(run.record.get("created_seconds", 0)))


def find_run(run: str | None, store_url: str | None) -> FoundRun:
    """The run that a person means. Raises SettingsError naming the nearest one."""
    if run and Path(run, RUN_FILE).is_file():
        folder = Path(run).resolve()
        return _named(open_store(f"file://{folder.parent}"), folder.name)
    store = the_store(store_url)
    if run:
        return _named(store, run)
    runs = all_runs(store)
    if not runs:
        raise SettingsError(f"{store.url} holds no runs; --store says where they are, `trainer train` makes one")
    return runs[-1]


def _named(store: Store, name: str) -> FoundRun:
    record = get_json(store, f"{name}/{RUN_FILE}")
    if record is None:
        near = get_close_matches(name, [run.name for run in all_runs(store)], 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "; `trainer checkpoints list` shows the runs there are"
        raise SettingsError(f"there is no run {name!r} in {store.url}{hint}")
    return FoundRun(store, name, record)
