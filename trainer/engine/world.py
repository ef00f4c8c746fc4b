"""Ranks: found in the environment that torchrun sets, one process without it; and the few collectives we use.

None of them runs in every step: gradients are reduced by DDP, everything else at log points, passes and the end.
"""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config.settings import CommonSettings
from trainer.errors import InfrastructureError, SettingsError

_SLOWEST = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """This process among the others, and its device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    owns_group: bool = False
    """Whether we made the process group (then we also leave it)."""

    @property
    def is_first(self) -> bool:
        """Rank 0 alone talks to the store and to listeners."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, in place; float64 or integers keep counts exact."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share(self, value: Any) -> Any:
        """The first rank's plain value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast(self, tensor: Tensor) -> None:
        """The first rank's tensor on every rank, in place."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def wait_for_all(self) -> None:
        """Return when every rank has arrived."""
        if self.size > 1:
            dist.barrier()

    def wait_for_slowest(self) -> None:
        """Return when every rank has arrived, however much later: after downloads, which have time limits of their own.

        Needs a group of its own, because the time limit of a collective belongs to its group.
        """
        if self.size > 1:
            group = dist.new_group(backend="gloo", timeout=_SLOWEST)
            never_destroy(group)
            dist.barrier(group)

    def leave(self) -> None:
        """Close the process group if we made it."""
        if self.owns_group and dist.is_initialized():
            dist.destroy_process_group()


def join_world(settings: CommonSettings, environ: Mapping[str, str] = os.environ) -> World:
    """Read the rank environment, choose the device, make the process group.

    Raises SettingsError for a device that is not there, InfrastructureError when the others cannot be reached.
    """
    size = int(environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(environ.get("LOCAL_RANK", "0")), int(environ.get("LOCAL_WORLD_SIZE", "1"))
    device = choose_device(settings.device, local_rank, size)
    set_threads(settings.threads, local_size)
    if size == 1:
        return World(device=device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=settings.process_timeout_seconds))
    except (RuntimeError, ValueError) as error:
        where = f"{environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}"
        raise InfrastructureError(f"cannot join the {size} processes at {where}: {error}") from error
    never_destroy(dist.group.WORLD)
    return World(dist.get_rank(), size, local_rank, local_size, device, owns_group=True)


def never_destroy(group: object) -> None:
    """Leak a reference to a process group, so that its destructor never runs.

    Gloo's destructor (torch 2.13) joins a thread that may be waiting for the interpreter's lock, which the thread that
    destroys it holds: the process hangs for ever, in one of a few dozen exits, whoever drops the last reference.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error of a collective says that another process is gone or silent."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    marks = ("gloo", "Connection closed by peer", "Timed out waiting", "Connection reset by peer", "NCCL")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def choose_device(name: str, local_rank: int = 0, size: int = 1) -> torch.device:
    """The device for `auto`, cpu, cuda or mps; `USE_CPU=1` in the environment makes `auto` the CPU."""
    if name == "auto":
        if os.environ.get("USE_CPU") == "1":
            return torch.device("cpu")
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cpu" if found == "mps" and size > 1 else found
    if name == "mps" and size > 1:
        raise SettingsError("device mps works in one process only; use device cpu for several")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is cuda but torch finds no GPU; use device auto or cpu")
    if name == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise SettingsError(f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} here")
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(name)


def set_threads(threads: int | None, local_size: int) -> None:
    """CPU threads of this process: as set, by OMP_NUM_THREADS, or the cores divided by the local processes."""
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ and local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
