"""Copies a run with one checkpoint between stores, and marks a checkpoint to be kept for good.

A copy brings everything a run is but its other checkpoints: record, attempts, ledger, report, export. Data come first
and the manifest last, so a copy that was cut short is no checkpoint and can be repeated. Every byte is verified.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.manifest import MANIFEST_FILE, FolderName
from trainer.checkpoint.restore import (
    BEST_HINT,
    LATEST_HINT,
    Rejected,
    folder_names,
    read_hint,
    read_manifest_or_raise,
    verify_files,
)
from trainer.checkpoint.run import CHECKPOINTS, OWNER_LOCK, RUN_FILE
from trainer.checkpoint.store import Store
from trainer.errors import RunError

_CHUNK_BYTES = 4 << 20


def find_checkpoint(store: Store, run: str, which: str) -> FolderName:
    """The folder that `latest`, `best`, a step or a name means. Raises RunError."""
    names = [name for name in folder_names(store, run) if read_manifest_or_raise(store, run, name)]
    if which == "best":
        found = [name for name in names if name == read_hint(store, run, BEST_HINT)]
    elif which == "latest":
        found = names
    else:
        step = int(which) if which.isdecimal() else None
        found = [name for name in names if str(name) == which or name.step == step]
    if not found:
        known = ", ".join(str(name) for name in names[-5:]) or "none"
        raise RunError(f"run {run} in {store.url} has no checkpoint {which!r}; the newest are: {known}")
    return found[-1]


def copy_run(source: Store, target: Store, run: str, which: str) -> FolderName:
    """Copy a run with one checkpoint; what is there already is left as it is. Raises RunError."""
    name = find_checkpoint(source, run, which)
    _check_target(source, target, run)
    manifest = read_manifest_or_raise(source, run, name)
    assert manifest is not None, "find_checkpoint gives checkpoints only"
    folder = f"{run}/{CHECKPOINTS}{name}/"
    with tempfile.TemporaryDirectory(prefix="trainer-copy-") as scratch:
        try:
            paths = verify_files(source, run, name, manifest, Path(scratch))
        except Rejected as error:
            raise RunError(f"checkpoint {name} of run {run} in {source.url} is damaged: {error}") from error
        for file, path in paths.items():
            target.put(folder + file, _chunks(path))
    for key in _record_keys(source, run, name):
        target.put(key, [source.get(key)])
    target.put(folder + MANIFEST_FILE, [manifest.to_bytes()])
    return name


def promote(store: Store, run: str, which: str) -> FolderName:
    """Make a checkpoint a milestone, which retention never removes. Raises RunError when its owner is alive.

    Of several checkpoints at one step (before and after a pass, weights alike) the newest is the one that stays.
    """
    if not store.claim(f"{run}/{OWNER_LOCK}"):
        raise RunError(f"run {run} in {store.url} is being trained; stop it first, or set checkpoint.milestones")
    name = find_checkpoint(store, run, str(find_checkpoint(store, run, which).step))
    manifest = read_manifest_or_raise(store, run, name)
    assert manifest is not None, "find_checkpoint gives checkpoints only"
    kept = replace(manifest, milestone=True)
    store.put(f"{run}/{CHECKPOINTS}{name}/{MANIFEST_FILE}", [kept.to_bytes()])
    return name


def _check_target(source: Store, target: Store, run: str) -> None:
    """A run of that name in the target must be the same run, and nobody may be training it."""
    ours, theirs = (get_json(store, f"{run}/{RUN_FILE}") or {} for store in (source, target))
    if theirs and theirs.get("digest") != ours.get("digest"):
        raise RunError(f"{target.url} has another run called {run} (its settings differ); move it away first")
    if not target.claim(f"{run}/{OWNER_LOCK}"):
        raise RunError(f"run {run} in {target.url} is being trained; stop it first")


def _record_keys(store: Store, run: str, name: FolderName) -> Iterator[str]:
    """Everything of a run beside its checkpoints; a hint only if it points to the one that is copied."""
    hints = {f"{run}/{hint}": hint for hint in (LATEST_HINT, BEST_HINT)}
    for entry in store.entries(f"{run}/"):
        if entry.key.startswith(f"{run}/{CHECKPOINTS}"):
            continue
        if entry.key not in hints or read_hint(store, run, hints[entry.key]) == name:
            yield entry.key


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
