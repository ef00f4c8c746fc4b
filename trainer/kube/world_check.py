"""Is the world as this start needs it? Looked at before anything is trained, in seconds and without torch.

    check_machine(...)       what the container may use against what the settings ask for
    check_store(...)         the first node only: everything that training asks of the store
    wait_for_meeting(...)    the other nodes: name and port of the place to meet, for a bounded time

What cannot work is an error with the code that tells a cluster whether a retry helps; what may hurt is a line in the
log.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoint.probe import probe, verdict
from trainer.checkpoint.store import Store
from trainer.checkpoint.stores import open_store
from trainer.config.settings import CommonSettings
from trainer.errors import DataError, InfrastructureError, PreflightError, StoreRefusedError
from trainer.kube.limits import Limits, gibibytes
from trainer.kube.topology import Topology

Say = Callable[[str], None]

PROCESS_BYTES = 330 << 20
"""Memory of a rank of torch 2.13 on the CPU before it has any data (measured)."""
TORCHRUN_BYTES = 220 << 20
GPU_SHM_BYTES = 128 << 20
"""What NCCL may want of /dev/shm for each process; the 64 MiB that a container gets by itself are too few."""
EARLIEST_WALL = 1_767_225_600
"""2026-01-01: a clock before this was never set, and certificates and signatures fail by it."""
STORE_SECONDS = 120.0
"""A store that is away at the start is waited for this long; a pod that ends is made anew without any pause."""
KNOCK_SECONDS = 3.0
SAY_SECONDS = 10.0


def check_machine(settings: CommonSettings, limits: Limits, num_processes: int) -> list[str]:
    """Warnings, one line each. Raises PreflightError for GPUs that are not there, DataError for missing data."""
    _check_gpus(settings, limits, num_processes)
    path = getattr(getattr(settings, "data", None), "path", None)
    if path and "://" not in path and not Path(path).exists():
        raise DataError(f"data.path: {path} does not exist here; is the data volume mounted in every pod?")
    return [*_doubts(settings, limits, num_processes)]


def check_store(settings: CommonSettings, say: Say, limit_seconds: float = STORE_SECONDS) -> None:
    """Try the store; wait a while for one that is away. Raises StoreRefusedError or InfrastructureError."""
    store = open_store(settings.run.store, settings.s3)

    def problem() -> str:
        error = verdict(store.url, probe(store, settings.s3))
        if isinstance(error, StoreRefusedError):
            raise error
        return str(error) if error else ""

    waited = wait_until(problem, limit_seconds, say, pause_seconds=2.0)
    _tell(store, waited, say)


def wait_for_meeting(topology: Topology, limit_seconds: float, say: Say) -> socket.socket | None:
    """Wait for the node where all meet, unless this is it; the open connection, whose end is the end of that torchrun.

    Raises InfrastructureError after `limit_seconds`.
    """
    if topology.meets_here(socket.gethostname()):
        return None
    lines: list[socket.socket] = []
    waited = wait_until(lambda: knock(topology.host, topology.port, lines), limit_seconds, say)
    say(f"{topology.host}:{topology.port} answers after {waited:.1f} s")
    return lines[0]


def wait_until(problem: Callable[[], str], limit_seconds: float, say: Say, *, pause_seconds: float = 0.25) -> float:
    """Ask again until there is no problem any more; seconds waited. The first is said at once, then every 10 s."""
    begun = time.monotonic()
    next_word = 0.0
    while text := problem():
        waited = time.monotonic() - begun
        if waited >= limit_seconds:
            raise InfrastructureError(f"{text}; gave up after {waited:.0f} s")
        if waited >= next_word:
            say(f"waiting, {waited:.0f} of at most {limit_seconds:.0f} s: {text}")
            next_word = waited + SAY_SECONDS
        threading.Event().wait(min(pause_seconds, limit_seconds - waited))
    return time.monotonic() - begun


def knock(host: str, port: int, lines: list[socket.socket]) -> str:
    """What keeps us from a port, in words; empty when it opens, and the connection is added to `lines`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"no address for {host} ({error.strerror or error}): its pod is not Ready, or DNS is blocked"
    last = ""
    for family, kind, protocol, _, address in found:
        line = socket.socket(family, kind, protocol)
        line.settimeout(KNOCK_SECONDS)
        try:
            line.connect(address)
        except TimeoutError:
            last = f"no answer from {host}:{port}: a NetworkPolicy may close it, or its node is gone"
        except OSError as error:
            last = f"{host}:{port} refuses ({error.strerror or error}): torchrun does not listen there yet"
        else:
            keep_alive(line)
            lines.append(line)
            return ""
        line.close()
    return last


def keep_alive(line: socket.socket) -> None:
    """Let the kernel ask every few seconds whether the other machine is still there."""
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _check_gpus(settings: CommonSettings, limits: Limits, num_processes: int) -> None:
    wants = settings.device == "cuda" or (settings.device == "auto" and limits.gpus > 0)
    if wants and limits.gpus < num_processes:
        raise PreflightError(
            f"device is {settings.device} and nprocPerNode makes {num_processes} processes, but this container sees "
            f"{limits.gpus or 'no'} GPUs: give it nvidia.com/gpu: {num_processes}, or lower nprocPerNode"
        )


def _doubts(settings: CommonSettings, limits: Limits, num_processes: int) -> Iterator[str]:
    """What will work, but perhaps badly."""
    on_gpu = limits.gpus > 0 and settings.device in ("auto", "cuda")
    if on_gpu and limits.gpus > num_processes:
        yield f"{limits.gpus} GPUs for {num_processes} processes: the others idle; set nprocPerNode to {limits.gpus}"
    if on_gpu and num_processes > 1 and limits.shm_bytes < (needed := GPU_SHM_BYTES * num_processes):
        have, want = gibibytes(limits.shm_bytes), gibibytes(needed)
        yield f"/dev/shm has {have}, {num_processes} GPU processes may need {want}: mount an emptyDir of medium Memory"
    least = PROCESS_BYTES * num_processes + (TORCHRUN_BYTES if num_processes > 1 else 0)
    if limits.memory_bytes and limits.memory_bytes < least:
        have, want = gibibytes(limits.memory_bytes), gibibytes(least)
        yield f"the memory limit is {have}, and starting alone takes about {want}: raise resources.limits.memory"
    threads = num_processes * (settings.threads or 1)
    if threads > limits.whole_cpus:
        what = f"{num_processes} processes" + (f" of {settings.threads} threads" if settings.threads else "")
        yield f"{what} on {limits.cpus:g} CPUs wait for each other: raise resources.limits.cpu or lower their number"
    now = time.time()
    if now < EARLIEST_WALL:
        yield f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}: set it, or signatures will be refused"


def _tell(store: Store, waited: float, say: Say) -> None:
    while store.notices:
        say(store.notices.popleft())
    if waited > 1:
        say(f"{store.url} answers after {waited:.1f} s")
