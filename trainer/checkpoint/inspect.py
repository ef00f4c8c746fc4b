"""What a person can ask of the checkpoints of a run, and do to them: list, verify, prune."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.attempts import seems_alive
from trainer.checkpoint.manifest import FolderName, Manifest
from trainer.checkpoint.restore import (
    BEST_HINT,
    LATEST_HINT,
    Rejected,
    folder_names,
    read_hint,
    read_manifest,
    verify_files,
)
from trainer.checkpoint.retention import choose, describe, list_folders, remove
from trainer.checkpoint.run import OWNER_LOCK
from trainer.checkpoint.store import Store
from trainer.errors import RunError


@dataclass(frozen=True)
class Listed:
    """One checkpoint folder; `problem` is None for a good one."""

    name: str
    step: int
    attempt: str
    epoch: int | None
    size_bytes: int | None
    created: str | None
    is_best: bool
    is_latest: bool
    milestone: bool
    problem: str | None
    is_damaged: bool
    """It was a checkpoint once; an unfinished folder never was."""


def list_checkpoints(store: Store, run: str) -> list[Listed]:
    """Every checkpoint of a run, oldest first, by its manifest alone (no file is read)."""
    return _listed(store, run, verify=False)


def verify_checkpoints(store: Store, run: str) -> list[Listed]:
    """The same after every byte of every file was checked against its digest."""
    return _listed(store, run, verify=True)


def prune_checkpoints(store: Store, run: str, keep_last: int, keep_best: bool = True) -> list[str]:
    """Remove old checkpoints of a run that nobody is training, as retention would; the names of what went.

    Raises RunError when its owner is alive.
    """
    names = [folder.name for folder in list_folders(store, run).values() if folder.has_manifest]
    if not names:
        return []
    with idle(store, run, "let its own retention do it"):
        hints = {read_hint(store, run, LATEST_HINT), read_hint(store, run, BEST_HINT) if keep_best else None}
        known = [describe(store, run, name) for name in names]
        doomed = choose(known, keep_last, keep_best, hints)
        for name in doomed:
            remove(store, run, name)
    return [str(name) for name in doomed]


@contextmanager
def idle(store: Store, run: str, instead: str) -> Iterator[None]:
    """Hold the run's lock, so that nobody begins to train it meanwhile. Raises RunError when somebody does already.

    `instead` says what to do other than to stop it.
    """
    if not store.claim(f"{run}/{OWNER_LOCK}"):
        raise RunError(f"run {run} in {store.url} is being trained; stop it first, or {instead}")
    if owner := seems_alive(store, run):
        raise RunError(f"run {run} in {store.url} seems to be trained ({owner}); stop it first, or {instead}")
    try:
        yield
    finally:
        store.release(f"{run}/{OWNER_LOCK}")


def _listed(store: Store, run: str, verify: bool) -> list[Listed]:
    latest, best = read_hint(store, run, LATEST_HINT), read_hint(store, run, BEST_HINT)
    found: list[Listed] = []
    for name in folder_names(store, run):
        manifest, problem, is_damaged = _examine(store, run, name, verify)
        found.append(
            Listed(
                name=str(name),
                step=name.step,
                attempt=name.attempt,
                epoch=manifest.epoch if manifest else None,
                size_bytes=manifest.size_bytes if manifest else None,
                created=manifest.created if manifest else None,
                is_best=name == best,
                is_latest=name == latest,
                milestone=bool(manifest and manifest.milestone),
                problem=problem,
                is_damaged=is_damaged,
            )
        )
    return found


def _examine(store: Store, run: str, name: FolderName, verify: bool) -> tuple[Manifest | None, str | None, bool]:
    """Its manifest, what is wrong with it, and whether that is damage."""
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(store, run, name)
        if manifest is None:
            return None, "has no manifest: unfinished, will be swept", False
        for file in manifest.files if verify else ():
            # one after the other: a checkpoint in an object store needs the space of its largest file here, no more
            with tempfile.TemporaryDirectory(prefix="trainer-verify-") as scratch:
                verify_files(store, run, name, manifest, Path(scratch), {file})
    except Rejected as error:
        return manifest, str(error), True
    return manifest, None, False
