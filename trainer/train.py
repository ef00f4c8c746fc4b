"""The plain door: `python -m trainer.train --selected_signs_to 502 --num_epochs 50`, and the function `train`.

    from trainer.train import train
    path = train(model, loss, optimizer, scheduler, train_dl, val_dl, num_epochs=50)

`train` takes any model and any loaders of (input, target) pairs through the same engine as every task: checkpoints,
exact resume, metrics and stopping included. What has no argument (store, run name, precision, clipping) comes from
the same settings, environment (`TRAINER__RUN__STORE=...`) and defaults as everywhere.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

if __package__ in (None, ""):  # python trainer/train.py: the package lies in the folder above, not in this one
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config.plain import PlainSettings
from trainer.config.sources import load_settings
from trainer.engine.foreign import ForeignSchedule, ForeignTask, LoaderSource, Pairs, fingerprint, num_classes_of
from trainer.engine.setup import Parts
from trainer.engine.world import World, choose_device
from trainer.engine.wrap import StepModule
from trainer.run import train_task

DEVICE: torch.device | None = None
"""Default device of `train`: CUDA if there is one, unless USE_CPU=1."""


def train(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    train_dl: Pairs,
    val_dl: Pairs,
    num_epochs: int,
    device: torch.device | str | None = DEVICE,
    rank: int = -1,
    train_sampler: Any = None,
) -> str | None:
    """Train a model with loaders of (input, target) pairs; returns the path of the best weights on the first rank.

    `rank` -1 is one process; from 0 on the caller's process group, DDP wrapper and sampler are used as they are, and
    ranks above 0 return None. `scheduler` (or None) steps once an epoch, with the validation loss if it takes one.
    A loss that returns a mean is multiplied by its number of samples. The file holds tensors only:
    `torch.load(path, weights_only=True)["model"]`.

    Raises the errors of `trainer.errors`. A run that is told to stop raises Stopped after its checkpoint is
    published; the same call goes on from there.
    """
    chosen = torch.device(device) if device is not None else choose_device("auto")
    world = World(device=chosen) if rank < 0 else joined_world(rank, chosen)
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    inner.to(chosen)
    flags = {"num_epochs": num_epochs, "fingerprint": fingerprint(inner, optimizer, scheduler)}
    settings = load_settings(environ=os.environ, flags=flags, settings_class=PlainSettings).settings
    task = ForeignTask(inner, loss, val_dl, world, settings.seed, num_classes_of(inner))
    parts = Parts(
        model=inner,
        optimizer=optimizer,
        schedule=ForeignSchedule(scheduler),
        source=LoaderSource(train_dl, train_sampler, world, settings.seed),
        module=StepModule(task, model, carries_flags=False),
    )
    finished = train_task(task, settings, world, parts)
    return finished.paths.get("weights")


def joined_world(rank: int, device: torch.device) -> World:
    """The world of a caller who has made the process group; without LOCAL_RANK all its processes are on this node."""
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return World(dist.get_rank(), dist.get_world_size(), local_rank, device=device)


def main() -> NoReturn:
    """The command line of the plain trainer; the same as `trainer train`."""
    from trainer.cli import run_process

    run_process(["train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
