"""Which run a command means: a name in the store, a folder on disk, or the newest run there is."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.run import COMPLETE_FILE, RUN_FILE, RUN_NAME, check_name
from trainer.checkpoint.store import Store
from trainer.checkpoint.stores import open_store
from trainer.cli.options import SettingsArguments
from trainer.cli.output import will_note
from trainer.config.settings import CommonSettings
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


def store_of(settings: CommonSettings) -> Store:
    """The store of these settings; what it has to say to a person is said when the command ends."""
    store = open_store(settings.run.store, settings.s3)
    will_note(store.notices)
    return store


def the_store(given: SettingsArguments) -> Store:
    """The store of the command line, or else of the environment and the defaults."""
    return store_of(given.of_store().load().settings)


def all_runs(store: Store) -> list[FoundRun]:
    """Every run of a store, the newest last; what else lies there is passed over."""
    records = ((name, _record(store, name)) for name in store.folders("") if RUN_NAME.fullmatch(name))
    found = [FoundRun(store, name, record) for name, record in records if record]
    return sorted(found, key=lambda run: float(run.record.get("created_seconds", 0)))


def find_run(run: str | None, given: SettingsArguments) -> FoundRun:
    """The run that a person means. Raises SettingsError naming the nearest one."""
    if run and Path(run, RUN_FILE).is_file():
        folder = Path(run).resolve()
        return _named(open_store(f"file://{folder.parent}"), folder.name)
    if run:
        check_name(run)
    store = the_store(given)
    if run:
        return _named(store, run)
    runs = all_runs(store)
    if not runs:
        raise SettingsError(f"{store.url} holds no runs; --store says where they are, `trainer train` makes one")
    return runs[-1]


def _named(store: Store, name: str) -> FoundRun:
    record = _record(store, name)
    if record is None:
        near = get_close_matches(name, [run.name for run in all_runs(store)], 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "; `trainer checkpoints list` shows the runs there are"
        raise SettingsError(f"there is no run {name!r} in {store.url}{hint}")
    return FoundRun(store, name, record)


def _record(store: Store, name: str) -> dict[str, Any] | None:
    """The record of a run; None where there is none, or one that we have not written."""
    record = get_json(store, f"{name}/{RUN_FILE}")
    return record if record and "digest" in record else None
