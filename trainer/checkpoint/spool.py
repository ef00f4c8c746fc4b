"""Checkpoints that the store does not take, kept on this machine until it does.

The spool is a file store of its own, so what lies there is as whole and as verified as in the store itself. It holds
the newest checkpoint, the newest best and the milestones that are not published yet, nothing else. What an attempt
leaves there when it dies is published by the next start on the same machine, unless another has gone on without it.
"""

import getpass
import hashlib
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from trainer.checkpoint.attempts import AttemptId
from trainer.checkpoint.commit import Content, commit
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.manifest import FolderName, Manifest
from trainer.checkpoint.restore import Rejected, folder_names, read_manifest, verify_files
from trainer.checkpoint.retention import list_folders, remove
from trainer.checkpoint.run import Run
from trainer.checkpoint.store import Store, chunks_of
from trainer.errors import InfrastructureError


def spool_folder(setting: str, store: Store) -> Path | None:
    """The folder of `checkpoint.spool` for a store; None for `off` and for a store that is a disk itself."""
    if setting == "off" or store.has_locks:
        return None
    top = Path(tempfile.gettempdir(), f"trainer-spool-{_user()}") if setting == "auto" else Path(setting).expanduser()
    return top / hashlib.sha256(store.url.encode()).hexdigest()[:12]


class Spool:
    """What waits on this machine for the store of a run; used by the publishing thread, `keep` by any."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self._run = run
        self._store = FileStore(folder)
        self._lock = threading.Lock()

    def keep(self, content: Content) -> None:
        """Write a checkpoint here and let go of those that nobody needs any more. Raises InfrastructureError."""
        with self._lock:
            if content.name not in self.waiting():
                self._make_folder()
                commit(self._store, self._run.name, content)
            self._drop_superseded()

    def waiting(self) -> list[FolderName]:
        """The checkpoints here, oldest first."""
        return list(self._whole())

    def content(self, name: FolderName) -> Content:
        """A checkpoint from here, every byte verified. Raises Rejected when it is damaged."""
        manifest = read_manifest(self._store, self._run.name, name)
        if manifest is None:
            raise Rejected("its manifest is gone", "manifest")
        paths = verify_files(self._store, self._run.name, name, manifest, self.folder)
        return Content(
            name=name, epoch=manifest.epoch, sequence=manifest.sequence, cursor=manifest.cursor,
            world_size=manifest.world_size, created=manifest.created, begun=time.perf_counter(),
            is_best=manifest.is_best, milestone=manifest.milestone,
            files=lambda: [(file, chunks_of(path)) for file, path in paths.items()],
        )  # fmt: skip

    def drop(self, name: FolderName) -> None:
        """Remove a checkpoint from here; a disk that refuses is no reason to fail."""
        with suppress(InfrastructureError):
            remove(self._store, self._run.name, name)

    def publish_left_behind(self) -> list[FolderName]:
        """What an earlier attempt on this machine could not publish goes into the store now; the names.

        Raises InfrastructureError, and then it stays where it is.
        """
        done: list[FolderName] = []
        for name in self._left_behind():
            with suppress(Rejected):
                commit(self._run.store, self._run.name, self.content(name))
                done.append(name)
            self.drop(name)
        return done

    def _left_behind(self) -> list[FolderName]:
        """What an earlier attempt left here and the store lacks, oldest first; all the rest is removed.

        Only where no later attempt has published: then these are still the run's newest words.
        """
        names = folder_names(self._store, self._run.name)
        there = list_folders(self._run.store, self._run.name).values() if names else []
        published = [folder.name for folder in there if folder.has_manifest]
        last_writer = max((_writer(name) for name in published), default=AttemptId(0, ""))
        whole = self._whole()
        wanted = [
            name
            for name, manifest in whole.items()
            if _writer(name) >= last_writer
            and name not in published
            and (manifest.is_best or manifest.milestone or not published or name > published[-1])
        ]
        for name in names:
            if name not in wanted:
                self.drop(name)
        return wanted

    def _make_folder(self) -> None:
        """Weights are nobody else's business on a shared machine."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InfrastructureError(
                f"cannot make {self.folder}: {error.strerror}; choose another checkpoint.spool"
            ) from error

    def _drop_superseded(self) -> None:
        whole = self._whole()
        best = [name for name, manifest in whole.items() if manifest.is_best]
        keep = {*list(whole)[-1:], *best[-1:], *(name for name, manifest in whole.items() if manifest.milestone)}
        for name in whole:
            if name not in keep:
                self.drop(name)

    def _whole(self) -> dict[FolderName, Manifest]:
        """The checkpoints here, oldest first."""
        found = {}
        for name in folder_names(self._store, self._run.name):
            with suppress(Rejected):
                found[name] = read_manifest(self._store, self._run.name, name)
        return {name: manifest for name, manifest in found.items() if manifest}


def _writer(name: FolderName) -> AttemptId:
    return AttemptId(name.number, name.suffix)


def _user() -> str:
    """For the name of a folder that several users of a machine must not share; a pod's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "trainer"
