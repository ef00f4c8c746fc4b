"""Runs in a folder of this machine, or of a volume that is mounted here: the `file://` store.

An object is written to a temporary file beside its place, synced, moved there, and the folder is synced: after `put`
returns it survives a power cut, and before that nobody sees it. The store's own files (temporary ones, locks) have
names that begin with `.~` and are never listed. A writer holds a lock on its temporary file, so `sweep` can tell what
the dead left from what the living are writing.
"""

import errno
import fcntl
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.checkpoint.store import Chunk, Entry, StoreConflict, StoreMissing
from trainer.errors import InfrastructureError

_OWN = ".~"
_TEMPORARY = ".~tmp-"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
_ADVICE = {
    errno.ENOSPC: "free space there or choose another run.store",
    errno.EDQUOT: "free space there or choose another run.store",
    errno.EFBIG: "raise the limit of file sizes or choose another run.store",
    errno.EROFS: "mount it writable or choose another run.store",
    errno.EACCES: "give this user the right or choose another run.store",
    errno.EPERM: "give this user the right or choose another run.store",
}

_claims: dict[str, int] = {}
"""Locks this process holds: path of the lock file -> descriptor."""


class FileStore:
    """A store in the folder `path`, which is made when the first object is written."""

    has_locks = True

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.url = f"file://{self.path}"
        self.notices: deque[str] = deque()

    def put(self, key: str, chunks: Iterable[Chunk], *, only_new: bool = False) -> None:
        """Write an object from its chunks in order, durable on return; atomic for readers.

        Raises StoreConflict when `only_new` and the key exists.
        """
        target = self._path(key)
        with _medium("write", target):
            _make_folder(target.parent)
            temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}-{target.name}"[:200])
            descriptor = _create_locked(temporary)
            try:
                for chunk in chunks:
                    _write_whole(descriptor, chunk)
                os.fsync(descriptor)
                _move(temporary, target, only_new)
            finally:
                os.close(descriptor)
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)

    def get(self, key: str) -> bytes:
        """The whole object. Raises StoreMissing."""
        path = self._path(key)
        with _medium("read", path), _missing(key):
            return path.read_bytes()

    def fetch(self, key: str, path: Path) -> Path:
        """The store's own file; `path` is not used. Raises StoreMissing."""
        del path
        own = self._path(key)
        with _medium("read", own), _missing(key), own.open("rb"):
            return own

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key starts with `prefix`, sorted by key."""
        found: list[Entry] = []
        top = str(self.path / prefix.rpartition("/")[0])
        with _medium("list", top):
            for folder, below, names in os.walk(top, onerror=_raise_unless_gone):
                base = f"{folder}/".removeprefix(f"{self.path}/")
                below[:] = [name for name in below if f"{base}{name}/".startswith(prefix[: len(base + name) + 1])]
                for name in names:
                    key = f"{base}{name}"
                    if key.startswith(prefix) and not name.startswith(_OWN):
                        with suppress(FileNotFoundError):
                            status = os.stat(os.path.join(folder, name))
                            found.append(Entry(key, status.st_size, status.st_mtime))
        return iter(sorted(found, key=lambda entry: entry.key))

    def folders(self, prefix: str, after: str = "") -> list[str]:
        """Names directly below `prefix` that hold objects and are greater than `after`, sorted."""
        top = self.path / prefix
        with _medium("list", top):
            try:
                names = [entry.name for entry in os.scandir(top) if entry.name > after and entry.is_dir()]
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(name for name in names if _holds_objects(top / name))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects in the order given, durable on return; folders that get empty go, too."""
        touched: set[Path] = set()
        for key in keys:
            path = self._path(key)
            with _medium("delete", path), suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                touched.add(path.parent)
        for folder in sorted(touched, key=lambda path: len(path.parts), reverse=True):
            with _medium("delete", folder), suppress(FileNotFoundError):
                _sync_folder(folder)
                self._drop_empty(folder)

    def claim(self, key: str) -> bool:
        """Take a lock that ends with this process; False when another living process holds it."""
        path = self._lock_path(key)
        if str(path) in _claims:
            return True
        with _medium("lock", path):
            _make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(descriptor):
                os.close(descriptor)
                return False
        _claims[str(path)] = descriptor
        return True

    def release(self, key: str) -> None:
        """Let go of a lock that `claim` took; no error without one."""
        descriptor = _claims.pop(str(self._lock_path(key)), None)
        if descriptor is not None:
            os.close(descriptor)

    def sweep(self, prefix: str, is_dead: Callable[[Entry], bool]) -> None:
        """Remove temporary files of dead writers below `prefix`; their locks tell, so `is_dead` is not asked."""
        del is_dead
        top = self.path / prefix
        with _medium("sweep", top):
            for folder, _, names in os.walk(top, topdown=False, onerror=_raise_unless_gone):
                left = [name for name in names if name.startswith(_TEMPORARY)]
                for name in left:
                    _remove_unless_locked(Path(folder, name))
                if left:  # any other empty folder may be one that a living writer has just made
                    self._drop_empty(Path(folder))

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        assert not any(part in ("", ".", "..") or part.startswith(_OWN) for part in parts), key
        return self.path.joinpath(*parts)

    def _lock_path(self, key: str) -> Path:
        place = self._path(key)
        return place.with_name(f"{_OWN}lock-{place.name}")

    def _drop_empty(self, folder: Path) -> None:
        with suppress(OSError):  # not empty: the usual way to end
            while folder != self.path:
                folder.rmdir()
                folder = folder.parent


@contextmanager
def _medium(verb: str, path: Path | str) -> Iterator[None]:
    """Turn errors of the operating system into the one-line error of a user."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check the disk or volume of run.store")
        raise InfrastructureError(f"cannot {verb} {path}: {error.strerror or error}; {advice}") from error


@contextmanager
def _missing(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise StoreMissing(key) from error


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _holds_objects(folder: Path) -> bool:
    return any(not name.startswith(_OWN) for _, _, names in os.walk(folder) for name in names)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents; every new name is synced into the folder above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        _sync_folder(folder.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _create_locked(path: Path) -> int:
    """A new file under this writer's lock; made again if a sweep took it in between."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock without waiting; True as well where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _remove_unless_locked(path: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if _lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def _write_whole(descriptor: int, chunk: Chunk) -> None:
    """Write all bytes (one call writes 2 GiB at most); the call releases the GIL."""
    view = memoryview(chunk).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


def _move(temporary: Path, target: Path, only_new: bool) -> None:
    """Give the finished file its name; with `only_new` by a hard link, which fails where the name is taken."""
    if not only_new:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise StoreConflict(target.name) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise StoreConflict(target.name) from error
        os.replace(temporary, target)


def _forget_claims() -> None:
    """In a forked child: let go of inherited locks, else a worker would keep a dead trainer's run locked."""
    for descriptor in _claims.values():
        os.close(descriptor)
    _claims.clear()


os.register_at_fork(after_in_child=_forget_claims)
