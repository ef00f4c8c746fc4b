"""Accumulation, ragged batches and the number of processes never change the mathematics."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.toy import ToyTask, fork_ranks, toy_settings, train_toy, wait_for
from trainer.engine.clock import Clock
from trainer.engine.setup import assemble, build_parts
from trainer.engine.step import backward
from trainer.engine.stop import StopRequests
from trainer.engine.world import join_world
from trainer.telemetry.bus import Bus


def gradient(settings, step: int) -> Tensor:
    """The reduced gradient of one step of the first epoch, flat."""
    world = join_world(settings)
    task = ToyTask(settings)
    job = assemble(
        task, settings, world, build_parts(task, settings, world), Bus(), None, None, Clock(), StopRequests()
    )
    backward(job, job.source.steps(0, range(step, step + 1))[0])
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in job.model.parameters()])
    world.leave()
    return flat


def forked_gradient(settings, step: int, world_size: int, folder) -> Tensor:
    """The gradient as the first of several processes sees it."""

    def run(rank: int) -> None:
        flat = gradient(settings, step)
        if rank == 0:
            torch.save(flat, folder / "gradient.pt")

    assert wait_for(fork_ranks(run, world_size)) == [0] * world_size
    return torch.load(folder / "gradient.pt", weights_only=True)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("step", [0, 6])
def test_gradient_is_that_of_the_whole_batch(world_size, accumulation, step, tmp_path):
    # 51 samples in batches of 8: the last step has 3 samples, so one of 4 ranks has none
    values = {"num_samples": 51, "dropout": 0.0, "batch_size": 8}
    whole = forked_gradient(toy_settings(tmp_path, **values), step, 1, tmp_path)
    parts = forked_gradient(toy_settings(tmp_path, accumulation=accumulation, **values), step, world_size, tmp_path)
    assert whole.norm() > 0
    assert (whole - parts).norm() / whole.norm() <= 1e-6


def test_a_step_has_no_collective_of_its_own(tmp_path):
    """The gradient reduction lies in DDP; whatever else is reduced goes through `all_reduce` here."""

    def run(rank: int) -> None:
        calls = []
        all_reduce = dist.all_reduce
        dist.all_reduce = lambda *args, **kwargs: calls.append(1) or all_reduce(*args, **kwargs)
        quiet = {"telemetry__log_every": "never", "checkpoint__every": "never"}
        train_toy(toy_settings(tmp_path, num_epochs=10, passes={"val": "never"}, **quiet))
        # one log point at the end of each of ten epochs of seven steps, and the final pass
        assert len(calls) <= 10 + 3, len(calls)

    assert wait_for(fork_ranks(run, 2)) == [0, 0]
