"""Which checkpoints stay, and the removal of the others.

Kept are the last K steps, the best, milestones, what a hint points to, and what this attempt went on from. A removal
deletes the manifest first, so that the folder stops being a checkpoint before any of it is gone; what a crash in the
middle leaves is an orphan and is swept later.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from trainer.checkpoint.attempts import AttemptId, Attempts, host_of
from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import MANIFEST_FILE, FolderName, Manifest
from trainer.checkpoint.restore import BEST_HINT, LATEST_HINT, Rejected, read_hint, read_manifest
from trainer.checkpoint.run import CHECKPOINTS, Run
from trainer.checkpoint.store import Entry, Store

ORPHAN_SECONDS = 24 * 3600.0
"""An unfinished folder of an attempt that may be alive elsewhere is left alone for a day."""


@dataclass(frozen=True)
class Kept:
    """What retention must know of one checkpoint; a damaged one has `is_good` False."""

    name: FolderName
    is_best: bool = False
    milestone: bool = False
    is_good: bool = True


@dataclass
class Folder:
    """One checkpoint folder as a listing shows it."""

    name: FolderName
    entries: list[Entry] = field(default_factory=list)

    @property
    def has_manifest(self) -> bool:
        """Whether it is a checkpoint."""
        return any(entry.key.endswith(f"/{MANIFEST_FILE}") for entry in self.entries)


def choose(checkpoints: Sequence[Kept], keep_last: int, keep_best: bool, protected: Collection[str]) -> list[str]:
    """Names of the checkpoints to remove, oldest first; a pure function.

    Of several checkpoints at one step only the newest counts among the last `keep_last`. Nothing goes, not even a
    damaged one, before there are good checkpoints at more than `keep_last` steps.
    """
    good = sorted((one for one in checkpoints if one.is_good), key=lambda one: one.name)
    newest_of_step = {one.name.step: one for one in good}
    last = sorted(newest_of_step)[-keep_last:]
    if len(newest_of_step) <= keep_last:
        return []
    keep = {newest_of_step[step].name for step in last}
    keep |= {one.name for one in newest_of_step.values() if one.milestone}
    best = [one.name for one in good if one.is_best]
    keep |= set(best[-1:]) if keep_best else set()
    ordered = sorted(one.name for one in checkpoints)
    return [str(name) for name in ordered if name not in keep and str(name) not in protected]


class Retention:
    """Applies `choose` to a run; remembers the manifests it has read, as they never change."""

    def __init__(self, run: Run, keep_last: int, keep_best: bool) -> None:
        self._run = run
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._known: dict[FolderName, Kept] = {}

    def apply(self) -> list[str]:
        """Remove what is not kept, finish removals that were cut short; the names of what went.

        Raises SupersededError when a newer attempt owns the run, InfrastructureError.
        """
        run = self._run
        run.check_owner()
        point("before_retention")
        folders = list_folders(run.store, run.name)
        checkpoints = [self._look_at(folder) for folder in folders.values() if folder.has_manifest]
        doomed = choose(checkpoints, self._keep_last, self._keep_best, self._protected())
        for name in doomed:
            remove(run.store, run.name, folders[name])
        sweep(run, folders)
        point("after_retention")
        return doomed

    def _look_at(self, folder: Folder) -> Kept:
        if folder.name not in self._known:
            self._known[folder.name] = describe(self._run.store, self._run.name, folder.name)
        kept = self._known[folder.name]
        is_good = kept.is_good and str(kept.name) not in self._run.rejected
        return Kept(kept.name, kept.is_best, kept.milestone, is_good)

    def _protected(self) -> set[str]:
        run = self._run
        hints = [LATEST_HINT, BEST_HINT] if self._keep_best else [LATEST_HINT]
        names = {str(read_hint(run.store, run.name, hint)) for hint in hints}
        return names | {run.restored_from or ""}


def describe(store: Store, run: str, name: FolderName) -> Kept:
    """What retention must know of a checkpoint."""
    try:
        manifest: Manifest | None = read_manifest(store, run, name)
    except Rejected:
        manifest = None
    if manifest is None:
        return Kept(name, is_good=False)
    return Kept(name, manifest.is_best, manifest.milestone)


def list_folders(store: Store, run: str) -> dict[str, Folder]:
    """Every checkpoint folder of a run with its objects, by name in order; one listing."""
    prefix = f"{run}/{CHECKPOINTS}"
    folders: dict[str, Folder] = {}
    for entry in store.entries(prefix):
        text = entry.key.removeprefix(prefix).partition("/")[0]
        if name := FolderName.parse(text):
            folders.setdefault(text, Folder(name)).entries.append(entry)
    return folders


def remove(store: Store, run: str, folder: Folder) -> None:
    """Remove a checkpoint: the manifest first, and only when that is durable the data."""
    manifest = f"{run}/{CHECKPOINTS}{folder.name}/{MANIFEST_FILE}"
    store.delete([manifest])
    point("mid_retention")
    store.delete([entry.key for entry in folder.entries if entry.key != manifest])


def sweep(run: Run, folders: dict[str, Folder] | None = None) -> list[str]:
    """Remove folders without manifest that nobody is writing, and temporary files of the dead; names of what went.

    Runs where no publish of this attempt is under way.
    """
    if folders is None:
        folders = list_folders(run.store, run.name)
    orphans = [folder for folder in folders.values() if not folder.has_manifest]
    attempts = Attempts.read(run.store, run.name) if orphans else None
    gone = [folder for folder in orphans if attempts and _is_dead(run, attempts, folder)]
    for folder in gone:
        run.store.delete([entry.key for entry in folder.entries])
    run.store.sweep(run.key(""))
    return [str(folder.name) for folder in gone]


def _is_dead(run: Run, attempts: Attempts, folder: Folder) -> bool:
    """Whether the writer of an unfinished folder can no longer be at it."""
    writer = AttemptId(folder.name.number, folder.name.suffix)
    if writer == run.id or writer in attempts.ended:
        return True
    if writer > run.id:
        return False
    if (
        run.store.has_locks
        and run.owns_lock
        and host_of(run.store, run.name, writer) == host_of(run.store, run.name, run.id)
    ):
        return True
    return time.time() - max(entry.modified for entry in folder.entries) > ORPHAN_SECONDS
