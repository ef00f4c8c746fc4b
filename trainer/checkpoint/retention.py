"""Which checkpoints stay, and the removal of the others.

Kept are the last K steps, the best, milestones, what a hint points to, and what this attempt went on from. A removal
deletes the manifest first, so that the folder stops being a checkpoint before any of it is gone; what a crash in the
middle leaves is an orphan and is swept later.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from trainer.checkpoint import attempts as lives
from trainer.checkpoint.attempts import AttemptId, Attempts, host_of
from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import MANIFEST_FILE, FolderName, Manifest
from trainer.checkpoint.restore import BEST_HINT, LATEST_HINT, Rejected, read_hint, read_manifest
from trainer.checkpoint.run import CHECKPOINTS, Run
from trainer.checkpoint.store import Entry, Store

_LISTING_SECONDS = 3600.0
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


def choose(
    checkpoints: Sequence[Kept], keep_last: int, keep_best: bool, protected: Collection[FolderName | None]
) -> list[FolderName]:
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
    return [name for name in ordered if name not in keep and name not in protected]


class Retention:
    """Applies `choose` to a run. It lists the checkpoints once an hour and keeps count itself in between.

    So its cost does not grow with their number; only this attempt writes there, and another one that takes over ends
    this one.
    """

    def __init__(self, run: Run, keep_last: int, keep_best: bool) -> None:
        self._run = run
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._known: dict[FolderName, Kept] = {}
        self._listed_at: float | None = None

    def apply(self, published: Kept) -> list[str]:
        """Remove what is not kept, finish removals that were cut short; the names of what went.

        Raises SupersededError when a newer attempt owns the run, InfrastructureError.
        """
        run = self._run
        run.check_owner()
        point("before_retention")
        self._known[published.name] = published
        if self._listed_at is None or time.monotonic() - self._listed_at > _LISTING_SECONDS:
            self._list()
        known = [self._judged(kept) for kept in self._known.values()]
        doomed = choose(known, self._keep_last, self._keep_best, self._protected())
        for name in doomed:
            remove(run.store, run.name, name)
            del self._known[name]
        point("after_retention")
        return [str(name) for name in doomed]

    def _list(self) -> None:
        """Look at what is there, and sweep what nobody is writing."""
        folders = list_folders(self._run.store, self._run.name)
        sweep(self._run, folders)
        names = [folder.name for folder in folders.values() if folder.has_manifest]
        self._known = {name: self._known.get(name) or describe(self._run.store, self._run.name, name) for name in names}
        self._listed_at = time.monotonic()

    def _judged(self, kept: Kept) -> Kept:
        return replace(kept, is_good=kept.is_good and str(kept.name) not in self._run.rejected)

    def _protected(self) -> set[FolderName | None]:
        run = self._run
        hints = [LATEST_HINT, BEST_HINT] if self._keep_best else [LATEST_HINT]
        restored = FolderName.parse(run.restored_from) if run.restored_from else None
        return {restored, *(read_hint(run.store, run.name, hint) for hint in hints)}


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


def remove(store: Store, run: str, name: FolderName) -> None:
    """Remove a checkpoint: the manifest first, and only when that is durable the data."""
    folder = f"{run}/{CHECKPOINTS}{name}/"
    store.delete([folder + MANIFEST_FILE])
    point("mid_retention")
    store.delete([entry.key for entry in store.entries(folder)])


def sweep(run: Run, folders: dict[str, Folder] | None = None) -> list[str]:
    """Remove folders without manifest that nobody is writing, and other leftovers of the dead; names of what went.

    Runs where no publish of this attempt is under way.
    """
    if folders is None:
        folders = list_folders(run.store, run.name)
    writers = _Writers(run)
    orphans = [folder for folder in folders.values() if not folder.has_manifest]
    gone = [folder for folder in orphans if writers.is_dead(folder.name, max(e.modified for e in folder.entries))]
    for folder in gone:
        run.store.delete([entry.key for entry in folder.entries])
    run.store.sweep(run.key(""), writers.left)
    return [str(folder.name) for folder in gone]


class _Writers:
    """Which writers can no longer be at what they have begun."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._attempts: Attempts | None = None

    def is_dead(self, name: FolderName, modified: float) -> bool:
        """Of an unfinished checkpoint folder whose newest object is from `modified` (seconds since the epoch)."""
        run, writer = self._run, AttemptId(name.number, name.suffix)
        self._attempts = self._attempts or Attempts.read(run.store, run.name)
        if writer == run.id or writer in self._attempts.ended:
            return True
        if writer > run.id:
            return False
        if run.store.has_locks:
            is_gone = run.owns_lock and host_of(run.store, run.name, writer) == host_of(run.store, run.name, run.id)
        else:
            is_gone = lives.is_gone(run.store, run.name, writer)
        return is_gone or time.time() - modified > ORPHAN_SECONDS

    def left(self, entry: Entry) -> bool:
        """Of an unfinished put (key and time of its beginning)."""
        prefix = self._run.key(CHECKPOINTS)
        folder = entry.key.removeprefix(prefix).partition("/")[0] if entry.key.startswith(prefix) else ""
        name = FolderName.parse(folder)
        return self.is_dead(name, entry.modified) if name else time.time() - entry.modified > ORPHAN_SECONDS
