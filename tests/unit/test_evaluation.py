"""Sums of a pass: a table with a row for each sample comes out the same for any batches and any number of ranks."""

import pytest
import torch

from tests.toy import ToyData, ToyTask, fork_ranks, toy_settings, wait_for
from trainer.engine.clock import Clock
from trainer.engine.evaluate import add, sum_over
from trainer.engine.setup import assemble, build_parts
from trainer.engine.stop import StopRequests
from trainer.engine.task import Pass, Placed
from trainer.engine.world import join_world
from trainer.telemetry.bus import Bus

SIZE = 21


def rows_of(_, batch):
    """What is worked out of each sample alone, and a count."""
    rows = torch.stack([batch["x"][:, 0].exp(), batch["label"].float() + 1.0], 1)
    return {"rows": Placed(rows, batch["index"], SIZE), "count": torch.tensor(len(rows))}


def sums(folder, world_size, batch_size):
    """The sums of one pass as every rank has them."""

    def run(rank):
        settings = toy_settings(folder)
        world, task = join_world(settings), ToyTask(settings)
        parts = build_parts(task, settings, world)
        job = assemble(task, settings, world, parts, Bus(), None, None, Clock(), StopRequests())
        found = sum_over(job, Pass("val", ToyData(SIZE, 1, 0.0), batch_size=batch_size, evaluate=rows_of))
        torch.save(found, folder / f"{rank}.pt")
        world.leave()

    assert wait_for(fork_ranks(run, world_size)) == [0] * world_size
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 1), (1, 64), (2, 5), (4, 5)])
def test_a_table_is_equal_to_the_bit_for_any_batches_and_ranks(world_size, batch_size, tmp_path):
    """The first of four ranks has 6 of the 21 rows, the others 5: in the second batch they have a placeholder."""
    data = ToyData(SIZE, 1, 0.0)
    expected = rows_of(None, data.take(torch.arange(SIZE).numpy(), 0))["rows"].values.double()
    for found in sums(tmp_path, world_size, batch_size):
        assert torch.equal(found["rows"], expected)
        assert found["count"].item() == SIZE


def part(values, index, size=4):
    return Placed(torch.tensor(values), torch.tensor(index), size)


def test_rows_are_put_where_they_belong_and_counts_are_added():
    totals = {}
    add(totals, "table", part([[1.0, 2.0], [3.0, 4.0]], [2, 0]), 1.0)
    add(totals, "count", torch.tensor(2), 1.0)
    add(totals, "table", part([[5.0, 6.0]], [3]), 1.0)
    add(totals, "count", torch.tensor(1), 1.0)
    assert totals["table"].tolist() == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0], [5.0, 6.0]]
    assert totals["count"].item() == 3


@pytest.mark.parametrize("placeholder", [part([[9.0, 9.0]], [0]), torch.tensor([9.0, 9.0])])
def test_a_placeholder_gives_a_sum_its_shape_and_nothing_else(placeholder):
    totals = {}
    add(totals, "table", placeholder, 0.0)
    add(totals, "table", placeholder, 0.0)
    assert totals["table"].shape == ((4, 2) if isinstance(placeholder, Placed) else (2,))
    assert not totals["table"].any()


def test_what_a_task_gave_is_left_as_it_was():
    given, totals = torch.ones(3), {}
    add(totals, "sum", given, 1.0)
    add(totals, "sum", given, 1.0)
    assert given.tolist() == [1.0] * 3
    assert totals["sum"].tolist() == [2.0] * 3
