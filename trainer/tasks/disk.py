"""What every writer of data folders needs: one process of the machine at a time, and a disk's refusal as one line."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import InfrastructureError


@contextmanager
def one_at_a_time(target: Path, *, waiting: Callable[[], None] | None = None, advice: str = "") -> Iterator[None]:
    """Hold a lock beside `target`, so that of several processes one makes it and the others wait and find it done.

    `waiting` is called when another process holds it. Raises InfrastructureError, which ends with `advice`, if the
    folder above cannot be written or knows no locks.
    """
    with disk_errors(target, advice):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = (target.parent / f".{target.name}.lock").open("w")
    with file:
        with disk_errors(target, advice):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_errors(target: Path, advice: str = "") -> Iterator[None]:
    """Turn what the disk says into an error of ours, which ends with `advice`; other errors pass through."""
    try:
        yield
    except OSError as error:
        end = f"; {advice}" if advice else ""
        raise InfrastructureError(f"cannot write {target}: {error.strerror or error}{end}") from error
