"""The logs of all pods of a job, each line with the pod it is from; with `follow` across restarts and new pods.

A container's log is there once it has started. The one before it in the same pod is read first (`previous`); the log
of a pod that was deleted is gone, unless it was being followed.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

from trainer.errors import InfrastructureError, TrainerError
from trainer.kube.cluster import Cluster, Object
from trainer.kube.pods import container_status, has_started, read_pod
from trainer.kube.refusals import NotFoundError
from trainer.kube.status import is_over

POLL_SECONDS = 1.0
DRAIN_SECONDS = 10.0
"""For the last lines of the pods of a job that is over."""

Write = Callable[[str], None]
Life = tuple[str, int]
"""One life of a container: uid of its pod, restarts before it."""


@dataclass(frozen=True)
class _Copier:
    """Writes what logs say, a line at a time, whichever thread it comes from."""

    cluster: Cluster
    tail: int | None
    write: Write
    lock: threading.Lock = field(default_factory=threading.Lock)

    def copy(self, pod: Object, *, previous: bool = False, follow: bool = False, goes_on: bool = False) -> None:
        """One container's log; one that is no longer there is no reason to leave out the others."""
        name, replica = pod["metadata"]["name"], read_pod(pod).replica
        tail = 0 if goes_on else self.tail
        try:
            stream = self.cluster.log(name, previous=previous, follow=follow, tail=tail)
            with closing(stream), self.cluster.asking("get", "pods/log", name):
                for line in _lines(stream.stream(amt=None)):
                    self._say(f"[{replica}] {line}")
        except TrainerError as error:
            self._say(f"[{replica}] -- this log ends here: {error}")

    def _say(self, line: str) -> None:
        with self.lock:
            self.write(line)


def print_logs(cluster: Cluster, job: str, *, follow: bool, tail: int | None, write: Write) -> int:
    """Write the logs there are and give their number; with `follow` go on until the job is over."""
    copier = _Copier(cluster, tail, write)
    seen: dict[Life, threading.Thread | None] = {}
    while True:
        for pod in cluster.pods(job):
            if has_started(pod):
                _begin(copier, pod, seen, follow=follow)
        if not follow or _is_over(cluster, job):
            break
        threading.Event().wait(POLL_SECONDS)
    _drain(seen.values())
    return len(seen)


def _begin(copier: _Copier, pod: Object, seen: dict[Life, threading.Thread | None], *, follow: bool) -> None:
    """Write, or begin to follow, those lives of a pod's container that are new."""
    status = container_status(pod)
    restarts = status.get("restartCount", 0)
    life, before = (pod["metadata"]["uid"], restarts), (pod["metadata"]["uid"], restarts - 1)
    if restarts and before not in seen:
        seen[before] = None
        copier.copy(pod, previous=True)
    thread = seen.get(life)
    is_cut = thread is not None and not thread.is_alive() and "running" in status["state"]
    if life in seen and not is_cut:
        return
    if follow:
        how = {"follow": True, "goes_on": is_cut}
        seen[life] = thread = threading.Thread(target=copier.copy, args=(pod,), kwargs=how, daemon=True)
        thread.start()
    else:
        seen[life] = None
        copier.copy(pod)


def _lines(chunks: Iterable[bytes]) -> Iterable[str]:
    """Whole lines out of pieces; bytes that are no text are shown as such."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", "backslashreplace") for line in whole)
    if rest:
        yield rest.decode("utf-8", "backslashreplace")


def _is_over(cluster: Cluster, job: str) -> bool:
    """Whether nothing more will come; a moment without the API server is no end."""
    try:
        return is_over(cluster.job(job))
    except NotFoundError:
        return True
    except InfrastructureError:
        return False


def _drain(threads: Iterable[threading.Thread | None]) -> None:
    end = time.monotonic() + DRAIN_SECONDS
    for thread in threads:
        if thread is not None:
            thread.join(max(0.0, end - time.monotonic()))
