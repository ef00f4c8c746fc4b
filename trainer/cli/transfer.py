"""Copies a run with one checkpoint between stores, and marks a checkpoint to be kept for good.

A copy brings everything a run is but its other checkpoints: record, attempts, ledger, report, export. Data come first
and the manifest last, so a copy that was cut short is no checkpoint and can be repeated. Every byte is verified.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.inspect import idle
from trainer.checkpoint.manifest import MANIFEST_FILE, FolderName, Manifest
from trainer.checkpoint.restore import (
    BEST_HINT,
    LATEST_HINT,
    Rejected,
    folder_names,
    read_hint,
    read_manifest_or_raise,
    verify_files,
)
from trainer.checkpoint.run import CHECKPOINTS, RUN_FILE, check_name
from trainer.checkpoint.store import Store, chunks_of
from trainer.errors import RunError, SettingsError


def find_checkpoint(store: Store, run: str, which: str) -> FolderName:
    """The folder that `latest`, `best`, a step or a name means. Raises RunError."""
    names = folder_names(store, run)
    if which == "best":
        best = read_hint(store, run, BEST_HINT)
        wanted = [name for name in names if name == best]
    elif which == "latest":
        wanted = names
    else:
        step = int(which) if which.isdecimal() else None
        wanted = [name for name in names if str(name) == which or name.step == step]
    for name in reversed(wanted):
        if read_manifest_or_raise(store, run, name):
            return name
    known = ", ".join(str(name) for name in names[-5:]) or "none"
    raise RunError(f"run {run} in {store.url} has no checkpoint {which!r}; the newest are: {known}")


def copy_run(source: Store, target: Store, run: str, which: str) -> FolderName:
    """Copy a run with one checkpoint; its other checkpoints in the target stay. Raises RunError, SettingsError.

    File after file, so the space needed here beside the target's own is that of the largest file.
    """
    check_name(run)
    name = find_checkpoint(source, run, which)
    manifest = read_manifest_or_raise(source, run, name)
    assert manifest is not None, "find_checkpoint gives checkpoints only"
    folder = f"{run}/{CHECKPOINTS}{name}/"
    records = list(_record_keys(source, run, name))
    _check_target(source, target, run, {*records, *(folder + file for file in manifest.files)})
    with idle(target, run, "copy it to another store"):
        _copy_data(source, target, run, name, manifest)
        for key in records:
            with tempfile.TemporaryDirectory(prefix="trainer-copy-") as scratch:
                target.put(key, chunks_of(source.fetch(key, Path(scratch, "record"))))
        target.put(folder + MANIFEST_FILE, [manifest.to_bytes()])
    return name


def promote(store: Store, run: str, which: str) -> FolderName:
    """Make a checkpoint a milestone, which retention never removes. Raises RunError when its owner is alive.

    Of several checkpoints at one step (before and after a pass, weights alike) the newest is the one that stays.
    """
    with idle(store, run, "set checkpoint.milestones"):
        name = find_checkpoint(store, run, str(find_checkpoint(store, run, which).step))
        manifest = read_manifest_or_raise(store, run, name)
        assert manifest is not None, "find_checkpoint gives checkpoints only"
        kept = replace(manifest, milestone=True)
        store.put(f"{run}/{CHECKPOINTS}{name}/{MANIFEST_FILE}", [kept.to_bytes()])
    return name


def _copy_data(source: Store, target: Store, run: str, name: FolderName, manifest: Manifest) -> None:
    """Copy the files of a checkpoint, every byte verified before it goes. Raises RunError and leaves none of them."""
    folder = f"{run}/{CHECKPOINTS}{name}/"
    is_new = not any(target.entries(folder + MANIFEST_FILE))
    for file in manifest.files:
        with tempfile.TemporaryDirectory(prefix="trainer-copy-") as scratch:
            try:
                path = verify_files(source, run, name, manifest, Path(scratch), {file})[file]
            except Rejected as error:
                if is_new:
                    target.delete(folder + file for file in manifest.files)
                raise RunError(f"checkpoint {name} of run {run} in {source.url} is damaged: {error}") from error
            target.put(folder + file, chunks_of(path))


def _check_target(source: Store, target: Store, run: str, copied: set[str]) -> None:
    """What has that name in the target must be the same run, or the rest of a copy that was cut short."""
    ours, theirs = (get_json(store, f"{run}/{RUN_FILE}") or {} for store in (source, target))
    if theirs and theirs.get("digest") != ours.get("digest"):
        raise RunError(f"{target.url} has another run called {run} (its settings differ); move it away first")
    foreign = None if theirs else next((e.key for e in target.entries(f"{run}/") if e.key not in copied), None)
    if foreign:
        raise SettingsError(
            f"{target.url}/{run} holds files that are no run ({foreign.removeprefix(run + '/')}, ...); move them away"
        )


def _record_keys(store: Store, run: str, name: FolderName) -> Iterator[str]:
    """Everything of a run beside its checkpoints; a hint only if it points to the one that is copied."""
    hints = {f"{run}/{hint}": hint for hint in (LATEST_HINT, BEST_HINT)}
    for entry in store.entries(f"{run}/"):
        if entry.key.startswith(f"{run}/{CHECKPOINTS}"):
            continue
        if entry.key not in hints or read_hint(store, run, hints[entry.key]) == name:
            yield entry.key
