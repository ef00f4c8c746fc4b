import numpy as np
import pytest
import torch

from tests.toy import ToyTask, toy_settings
from trainer.engine.cursor import Cursor
from trainer.engine.source import PlannedSource, chunk_length, cut_batch
from trainer.engine.step import Mailbox
from trainer.engine.world import World


def flat(steps):
    return [
        (step.epoch, step.batch, step.ends_epoch, step.num_samples, step.weight, step.counts, len(step.micro))
        for step in steps
    ]


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (1, 2), (3, 4)])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_steps_made_together_are_those_made_one_by_one(rank, size, accumulation, tmp_path):
    settings = toy_settings(tmp_path, accumulation=accumulation, num_samples=51)
    source = PlannedSource(ToyTask(settings), settings, World(rank, size))
    single = [source.steps(0, range(number, number + 1))[0] for number in range(7)]
    together = source.steps(0, range(7))
    assert flat(single) == flat(together)
    for left, right in zip(single, together, strict=True):
        for one, other in zip(left.micro, right.micro, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_walk_goes_on_from_the_middle_of_an_epoch(tmp_path):
    settings = toy_settings(tmp_path)
    source = PlannedSource(ToyTask(settings), settings, World())
    whole = [step for chunk in source.walk(Cursor(), 3) for step in chunk]
    rest = [step for chunk in source.walk(Cursor(epoch=1, batch=4), 3) for step in chunk]
    assert flat(whole)[11:] == flat(rest)
    for left, right in zip(whole[11:], rest, strict=True):
        assert torch.equal(left.micro[0]["x"], right.micro[0]["x"])


def test_large_steps_are_made_one_at_a_time(tmp_path):
    settings = toy_settings(tmp_path)
    (step,) = PlannedSource(ToyTask(settings), settings, World()).steps(0, range(1))
    assert chunk_length(step) == 64
    step.micro[0]["x"] = torch.zeros(100_000)
    assert chunk_length(step) == 1


def test_a_batch_is_cut_into_views():
    batch = {"x": torch.arange(6)}
    parts = list(cut_batch(batch, [1, 3, 2]))
    assert [part["x"].tolist() for part in parts] == [[0], [1, 2, 3], [4, 5]]
    assert parts[1]["x"].data_ptr() == batch["x"].data_ptr() + 8


def test_a_late_mailbox_brings_the_step_before():
    late, at_once = Mailbox(is_late=True), Mailbox(is_late=False)
    norms = [torch.tensor(value) for value in (1.0, float("nan"), 3.0)]
    assert at_once.post(0, None, norms[1], None).is_finite is False
    assert late.post(0, None, norms[0], torch.tensor([0.0, 1.0])) is None
    first = late.post(1, None, norms[1], None)
    assert (first.step, first.norm, first.flags, first.is_finite) == (0, 1.0, [0.0, 1.0], True)
    second = late.collect()
    assert second.step == 1
    assert not second.is_finite
    assert late.collect() is None
    assert np.isnan(second.norm)
