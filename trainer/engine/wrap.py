"""The module that DDP wraps: forward is the task's loss, already weighed and divided, plus the carrier of flags.

    batch ─► task.loss(model, batch) ─► sum over terms of term * scale ─► + carrier * flags ─► backward

The carrier is a parameter of zeros that no optimizer sees. Adding `carrier * flags` to the loss changes no number,
but makes the reduced gradient of the carrier the mean of all ranks' flags: agreement without a collective.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.data.dataset import Batch
from trainer.engine.stop import CODES
from trainer.engine.task import Loss, Task
from trainer.engine.world import World


class StepModule(nn.Module):
    """Loss of one micro-batch as a module."""

    def __init__(self, task: Task, model: nn.Module, carries_flags: bool) -> None:
        super().__init__()
        self.model = model
        self._task = task
        self.carrier = nn.Parameter(torch.zeros(len(CODES))) if carries_flags else None

    def forward(self, batch: Batch, scales: dict[str, float], flags: Tensor | None) -> tuple[Tensor, Loss]:
        """The scalar to go backward from, and what the task gave."""
        loss = self._task.loss(self.model, batch)
        weighed = [term * scales[name] for name, term in loss.terms.items()]
        total = weighed[0] if len(weighed) == 1 else torch.stack(weighed).sum()
        if self.carrier is not None and flags is not None:
            total = total + (self.carrier * flags).sum()
        return total, loss


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether results depend on which samples meet in a forward pass (BatchNorm with running statistics)."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def wrap(task: Task, model: nn.Module, world: World) -> StepModule | DistributedDataParallel:
    """The module to call for a micro-batch; under several ranks all start from the first one's weights."""
    if world.size > 1 and world.device.type == "cuda" and has_batch_statistics(model):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    module = StepModule(task, model, carries_flags=world.size > 1).to(world.device)
    if world.size == 1:
        return module
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(
        module,
        device_ids=devices,
        gradient_as_bucket_view=True,
        # Running statistics differ by rank; the first rank's are the ones that are evaluated and published.
        forward_sync_buffers=has_batch_statistics(model),
        find_unused_parameters=bool(getattr(task, "has_unused_parameters", False)),
    )


def buffers_kept(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the buffers, to put back after a throw-away forward."""
    return {name: copy.deepcopy(buffer) for name, buffer in model.named_buffers()}


def put_back(model: nn.Module, kept: dict[str, Tensor]) -> None:
    """Undo what a throw-away forward did to the buffers."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
