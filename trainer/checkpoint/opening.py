"""Which run a start belongs to, and its new attempt (design 7).

It is the named run; else the newest unfinished one of equal digest that nobody on this machine is training; else a new
one. Nothing is written before every refusal is ruled out.
"""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from trainer.checkpoint import attempts as lives
from trainer.checkpoint.attempts import AttemptId, Attempts, get_json, put_json
from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import FolderName, software, utc_now
from trainer.checkpoint.run import (
    CHECKPOINTS,
    COMPLETE_FILE,
    OWNER_LOCK,
    RUN_FILE,
    RUN_NAME,
    Emit,
    Resume,
    Run,
    check_name,
)
from trainer.checkpoint.store import Store, StoreConflict, StoreMissing
from trainer.config.digest import differences
from trainer.errors import InfrastructureError, RunError, SettingsError
from trainer.telemetry.events import Noted


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What a start brings along."""

    store: Store
    default_name: str
    task: str
    config: dict[str, Any]
    matters: dict[str, Any]
    digest: str
    length: dict[str, int | None]
    resume: Resume
    resume_with_changes: bool
    emit: Emit


def open_run(
    store: Store,
    *,
    name: str | None,
    default_name: str,
    task: str,
    config: dict[str, Any],
    matters: dict[str, Any],
    digest: str,
    resume: Resume,
    resume_with_changes: bool,
    max_dead_attempts: int,
    length: dict[str, int | None],
    events: Emit,
) -> Run:
    """The run this start belongs to, with a new attempt that owns it (none when the run is complete).

    `length` holds numbers that may grow (`num_epochs`, `max_steps`; None is no limit). Raises SettingsError for a
    name that cannot be used, RunError for a refused resume, InfrastructureError when the store cannot be read.
    """
    start = _Start(
        store=store, default_name=default_name, task=task, config=config, matters=matters, digest=digest,
        length=length, resume=resume, resume_with_changes=resume_with_changes, emit=events,
    )  # fmt: skip
    found = _named(start, name) if name is not None else _newest_unfinished(start)
    if found is None and resume == "required":
        raise RunError(f"run.resume is required, but {store.url} has no run to go on from{_called(name, digest)}")
    changed = _agreement(start, found) if found is not None else []
    made = _create(start, name) if found is None else None
    target = str(made["name"]) if made else str(found)
    attempts = Attempts.read(store, target)
    if made and attempts.begun:
        raise InfrastructureError(f"another process has made run {target} at the same moment; start again")
    run = Run(store, target, AttemptId.following(attempts.begun), digest, length, resume, made=made)
    run.is_complete = _covers(get_json(store, run.key(COMPLETE_FILE)), length)
    if run.is_complete:
        return run
    dead = lives.dead_in_a_row(store, target, attempts)
    if len(dead) >= max_dead_attempts:
        lives.check_dead_budget(store, target, dead, _publishers(store, target), max_dead_attempts)
    run.owns_lock = store.claim(run.key(OWNER_LOCK))
    if found is not None:
        _record_changes(start, run, changed)
        events(Noted(text=f"run {target} in {store.url} goes on, attempt {run.number}"))
    point("before_attempt")
    lives.begin(store, target, run.id, digest)
    point("after_attempt")
    return run


def _named(start: _Start, name: str) -> str | None:
    """The named run if there is one; None if the name is free."""
    check_name(name)
    if _read_record(start.store, name) is None:
        _check_free(start.store, name)
        return None
    if start.resume == "never":
        raise RunError(f"run {name} exists in {start.store.url} and run.resume is never; choose another run.name")
    return name


def _newest_unfinished(start: _Start) -> str | None:
    """The newest run of equal digest that is not complete and not being trained on this machine."""
    if start.resume == "never":
        return None
    candidates: list[tuple[float, str]] = []
    for name in start.store.folders(""):
        record = get_json(start.store, f"{name}/{RUN_FILE}") if RUN_NAME.fullmatch(name) else None
        if record and record.get("digest") == start.digest and record.get("task") == start.task:
            candidates.append((float(record.get("created_seconds", 0)), name))
    return next((name for _, name in sorted(candidates, reverse=True) if _claim_abandoned(start, name)), None)


def _claim_abandoned(start: _Start, name: str) -> bool:
    """Take the lock of a run that is neither complete nor being trained; False, and nothing is taken, for others."""
    store, lock = start.store, f"{name}/{OWNER_LOCK}"
    if _is_complete(store, name) or not store.claim(lock):
        return False
    owner = lives.seems_alive(store, name)
    if owner:
        start.emit(Noted(text=f"run {name} seems alive ({owner}); --run_name {name} takes it over"))
    # Asked again under the lock: its owner may have finished meanwhile.
    if owner or _is_complete(store, name):
        store.release(lock)
        return False
    return True


def _is_complete(store: Store, name: str) -> bool:
    return get_json(store, f"{name}/{COMPLETE_FILE}") is not None


def _create(start: _Start, name: str | None) -> dict[str, Any]:
    """Make a new run, and return its record; a default name that is taken gets a number."""
    # The lock comes first, so that a start without a name does not take the new run for an abandoned one.
    store = start.store
    if name is not None:
        store.claim(f"{name}/{OWNER_LOCK}")
        if record := _new_record(start, name):
            return record
        raise InfrastructureError(f"another process has just made run {name}; start again")
    for candidate in _numbered(start.default_name):
        if any(store.entries(f"{candidate}/")) or not store.claim(f"{candidate}/{OWNER_LOCK}"):
            continue
        if record := _new_record(start, candidate):
            return record
        store.release(f"{candidate}/{OWNER_LOCK}")
    raise AssertionError("there is always another number")


def _new_record(start: _Start, name: str) -> dict[str, Any] | None:
    """Write the record of a new run; None when another process was faster."""
    record = {
        "name": name,
        "format": 1,
        "task": start.task,
        "digest": start.digest,
        "matters": start.matters,
        "config": start.config,
        "created": utc_now(),
        "created_seconds": time.time(),
        "versions": software(),
        "changes": [],
        "made_by": secrets.token_hex(6),
    }
    try:
        put_json(start.store, f"{name}/{RUN_FILE}", record, only_new=True)
    except StoreConflict:
        return None
    return record


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _agreement(start: _Start, name: str) -> list[str]:
    """What differs between the settings of a run and those of this start.

    Refused unless that was asked for, or the run has nothing yet that the old settings made (no checkpoint).
    """
    record = _read_record(start.store, name)
    assert record is not None
    if record.get("task") != start.task:
        raise RunError(f"run {name} in {start.store.url} trains {record.get('task')}, not {start.task}; "
                       "choose another run.name")  # fmt: skip
    if record.get("digest") == start.digest:
        return []
    changed = differences(record.get("matters", {}), json.loads(json.dumps(start.matters)))
    if changed and not start.resume_with_changes and _publishers(start.store, name):
        raise RunError(
            f"run {name} in {start.store.url} was made with other settings: {'; '.join(changed)}. "
            "Choose another run.name, or go on with the new ones by --resume-with-changes"
        )
    return changed


def _record_changes(start: _Start, run: Run, changed: list[str]) -> None:
    """From here on the run has the settings of this start."""
    record = _read_record(start.store, run.name)
    assert record is not None
    if record["digest"] == start.digest:
        return
    history = [*record.get("changes", []), {"attempt": run.attempt, "at": utc_now(), "differences": changed}]
    updated = {**record, "digest": start.digest, "matters": start.matters, "config": start.config, "changes": history}
    put_json(start.store, run.key(RUN_FILE), updated)
    start.emit(Noted(text=f"run {run.name} goes on with changed settings: {'; '.join(changed)}"))


def _read_record(store: Store, name: str) -> dict[str, Any] | None:
    """The run's own record; None where there is none. Raises RunError for a damaged one."""
    key = f"{name}/{RUN_FILE}"
    try:
        record = json.loads(store.get(key))
    except StoreMissing:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or "digest" not in record:
        raise RunError(f"{store.url}/{key} is damaged or not ours; mend it or choose another run.name")
    return record


def _check_free(store: Store, name: str) -> None:
    """Refuse a folder (or file) of that name that is no run. Raises SettingsError."""
    first = next(store.entries(name), None)
    if first is not None and first.key == name:
        raise SettingsError(f"{store.url}/{name} is a file; choose another run.name or move it away")
    first = next(store.entries(f"{name}/"), None)
    if first is not None:
        raise SettingsError(
            f"{store.url}/{name} holds files that are no run ({first.key.removeprefix(name + '/')}, ...); "
            "choose another run.name or move them away"
        )


def _covers(complete: dict[str, Any] | None, length: dict[str, int | None]) -> bool:
    """Whether a run was completed at this length or a greater one (None is no limit)."""
    if complete is None or not isinstance(complete.get("length"), dict):
        return False
    reached = complete["length"]
    for name, wanted in length.items():
        if name not in reached:
            return False
        if reached[name] is not None and (wanted is None or wanted > reached[name]):
            return False
    return True


def _publishers(store: Store, run: str) -> set[str]:
    """The attempts whose checkpoints are there."""
    found: set[str] = set()
    prefix = f"{run}/{CHECKPOINTS}"
    for entry in store.entries(prefix):
        folder, _, file = entry.key.removeprefix(prefix).partition("/")
        name = FolderName.parse(folder)
        if name and file == "MANIFEST.json":
            found.add(name.attempt)
    return found


def _called(name: str | None, digest: str) -> str:
    return f" called {name}" if name is not None else f" with settings of digest {digest} (set run.name)"
