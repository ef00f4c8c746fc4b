"""Acceptance check 6, and the data's part of 5: batches by tokens, shares of ranks, epochs of different length."""

from fractions import Fraction

import numpy as np
import pytest

from tests.translation_files import embedded
from trainer.config.expressions import Amount, Trigger
from trainer.config.lengths import in_epochs, in_steps
from trainer.data.plan import FixedPlan, micro_batches, share, split, steps_per_epoch
from trainer.engine.cursor import Cursor
from trainer.engine.evaluate import rank_parts
from trainer.engine.setup import run_length
from trainer.engine.source import PlannedSource
from trainer.engine.task import Pass
from trainer.engine.timeline import timeline
from trainer.engine.world import World
from trainer.tasks.translation.batching import TokenPlan, cut, fill_of
from trainer.tasks.translation.corpus import open_corpus
from trainer.tasks.translation.dataset import Tokens, TranslationPairs
from trainer.tasks.translation.task import create
from trainer.tasks.translation.vocabulary import PAD

LIMIT = 1000


class CorpusTask:
    """What a source asks of a task."""

    def __init__(self, settings):
        self.corpus, self.settings = open_corpus(settings), settings

    def train_data(self):
        return self.corpus.train

    def plan(self):
        return self.corpus.plan(self.settings)

    def counts(self, indices, epoch):
        return {"smoothed": float(self.corpus.train.target_tokens(indices))}


def lengths(num_pairs=12_000, seed=0):
    """Natural ones: 3 to 60 tokens, both sides alike."""
    random = np.random.default_rng(seed)
    source = np.clip(random.gamma(3.0, 6.0, num_pairs), 3, 60).astype(np.int64)
    return source, np.clip(source + random.integers(-4, 5, num_pairs), 3, 60)


def plan_of(num_pairs=12_000, *, max_tokens=LIMIT, pool=30, seed=5):
    return TokenPlan(*lengths(num_pairs), max_tokens=max_tokens, pool=pool, seed=seed)


def test_6_every_pair_once_and_no_batch_over_the_limit():
    plan, (source, target) = plan_of(), lengths()
    for epoch in range(2):
        batches = [plan.batch(epoch, step) for step in range(plan.num_steps(epoch))]
        assert sorted(np.concatenate(batches).tolist()) == list(range(12_000))
        assert max(len(one) * max(source[one].max(), target[one].max()) for one in batches) <= LIMIT
        assert np.mean([len(one) * max(source[one].max(), target[one].max()) for one in batches]) > 0.9 * LIMIT


def test_6_epochs_differ_and_a_plan_is_a_function_of_seed_and_epoch():
    plan, again, other = plan_of(), plan_of(), plan_of(seed=6)
    assert np.array_equal(plan.batch(3, 7), again.batch(3, 7))  # in any order of asking
    assert not np.array_equal(plan.batch(0, 7), plan.batch(1, 7))
    assert not np.array_equal(plan.batch(0, 7), other.batch(0, 7))
    orders = [plan.epoch(epoch).order[:20].tolist() for epoch in range(2)]
    assert orders[0] != orders[1]
    longest = [int(lengths()[1][plan.batch(0, step)].max()) for step in range(40)]
    assert longest != sorted(longest), "batches do not go from short to long"


def test_6_the_padding_share_is_small_and_is_what_batches_have():
    plan, (source, target) = plan_of(), lengths()
    fill = fill_of(plan, target)
    data = TranslationPairs(*(Tokens.of([[4] * (n - 1) for n in side.tolist()]) for side in (source, target)))
    labels = [data.take(plan.batch(0, step), 0)["labels"] for step in range(fill.num_steps)]
    padding = sum(int((one == PAD).sum()) for one in labels) / sum(one.numel() for one in labels)
    assert fill.padding_share == pytest.approx(padding, abs=1e-12)
    assert fill.padding_share < 0.05
    assert sum(fill.sizes.values()) == fill.num_steps
    assert fill_of(FixedPlan(12_000, 32, 0), target).padding_share > 0.4


def test_6_the_plan_and_its_batches_are_the_same_for_any_number_of_ranks(tmp_path):
    settings = embedded(
        "reverse", "data.max_tokens=700", "data.pool=3", "accumulation=2", f"run.store=file://{tmp_path}"
    )

    task = CorpusTask(settings)
    walks = {}
    for size in (1, 2, 4):
        ranks = [PlannedSource(task, settings, World(rank, size)).walk(Cursor(), 2) for rank in range(size)]
        steps = [[step for chunk in walk for step in chunk] for walk in ranks]
        walks[size] = [
            (step.epoch, step.batch, step.indices.tolist(), step.counts, step.ends_epoch) for step in steps[0]
        ]
        for micro in (micro for walk in steps for step in walk for micro in step.micro):
            own = task.corpus.train.target_lengths[micro["index"].numpy()]
            assert micro["labels"].shape == (len(own), own.max()), "padded to its own longest pair"
        for parts in zip(*steps, strict=True):
            seen = [i for one in parts if one.weight for micro in one.micro for i in micro["index"].tolist()]
            assert seen == parts[0].indices.tolist(), "the ranks' shares make up the batch"
            tokens = sum(int((micro["labels"] != PAD).sum()) for one in parts if one.weight for micro in one.micro)
            assert tokens == parts[0].counts["smoothed"]
    assert walks[1] == walks[2] == walks[4]


@pytest.mark.parametrize("num_parts", [2, 3, 4])
def test_5_shares_are_even_in_cost(num_parts):
    costs = np.sort(lengths(200)[0])
    parts = split(np.arange(200), num_parts, costs)
    assert np.array_equal(np.concatenate(parts), np.arange(200))
    sums = [int(costs[part].sum()) for part in parts]
    assert max(sums) - min(sums) <= costs.max()
    assert np.array_equal(share(np.arange(200), 1, num_parts, costs), parts[1])


def test_5_a_batch_of_fewer_pairs_than_ranks_leaves_ranks_empty():
    parts = split(np.arange(2), 4, np.array([10, 10]))
    assert sorted(len(part) for part in parts) == [0, 0, 1, 1]
    assert split(np.arange(0), 4, np.array([], np.int64))[0].size == 0
    assert [len(part) for part in micro_batches(np.arange(2), 4, np.array([3, 9]))] == [1, 1]


def test_batches_are_filled_as_far_as_they_go():
    cells = np.array([5, 5, 5, 10, 10, 3, 20, 1])
    assert cut(cells, 20) == [3, 5, 6, 7, 8]
    random = np.random.default_rng(2)
    for _ in range(20):
        cells = random.integers(1, 40, 200)
        ends, start, greedy = cut(cells, 100), 0, []
        for stop in range(1, 201):
            if stop == 200 or (stop + 1 - start) * cells[start : stop + 1].max() > 100:
                greedy.append(stop)
                start = stop
        assert ends == greedy


def test_epochs_may_differ_in_steps_and_the_run_knows_them_all():
    plan = plan_of(3000, max_tokens=300, pool=7)
    steps = steps_per_epoch(plan, 8, None)
    assert steps == tuple(plan_of(3000, max_tokens=300, pool=7).num_steps(epoch) for epoch in range(8))
    assert len(set(steps)) > 1, "this test needs epochs that differ"
    assert steps_per_epoch(plan, 8, steps[0] + 1) == steps[:2]
    assert steps_per_epoch(FixedPlan(10, 3, 0), 5, None) == 4


def test_a_walk_over_uneven_epochs_is_as_long_as_the_run_and_ends_epochs_when_due(tmp_path):
    uneven = ("data.max_tokens=300", "data.pool=4", "num_epochs=4", "schedule.warmup=1 epochs")
    settings = embedded("reverse", *uneven, pairs=900)
    source = PlannedSource(CorpusTask(settings), settings, World())
    per_epoch = source.steps_per_epoch(settings.num_epochs, settings.max_steps)
    assert len(set(per_epoch)) > 1, "this test needs epochs that differ"
    steps = [step for chunk in source.walk(Cursor(), settings.num_epochs) for step in chunk]
    assert len(steps) == run_length(settings, per_epoch)
    ends = [number for number, step in enumerate(steps, 1) if step.ends_epoch]
    assert Trigger.parse("every 1 epochs").firings(len(steps), per_epoch) == ends
    passes = [line for line in timeline(create(settings), settings).lines if line.what == "pass val"]
    assert [(line.step, line.epoch) for line in passes] == list(zip(ends, (1.0, 2.0, 3.0, 4.0), strict=True))
    settings.max_steps = 50
    assert run_length(settings, source.steps_per_epoch(settings.num_epochs, settings.max_steps)) == 50


UNEVEN = (10, 12, 11)


@pytest.mark.parametrize(
    ("epochs", "steps"), [("0", 0), ("1", 10), ("2", 22), ("2.5", 27.5), ("3", 33), ("4", 44), ("0.5", 5)]
)
def test_known_answers_of_uneven_epochs(epochs, steps):
    assert in_steps(Fraction(epochs), UNEVEN) == Fraction(steps)
    assert in_epochs(Fraction(steps), UNEVEN) == Fraction(epochs)
    assert Amount.parse(f"{epochs} epochs").steps(33, UNEVEN) == Fraction(steps)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("every 1 epochs", [10, 22, 33]),
        ("every 0.5 epochs", [5, 10, 16, 22, 28, 33]),
        ("every 1 epochs from 0.5 epochs", [5, 16, 28]),
        ("every 1 epochs from 5 steps to 20 steps", [5, 16]),
        ("every 2 epochs and end", [22, 33]),
        ("at 1 epochs, 50%", [10, 17]),
        ("every 10 steps from 1 epochs", [10, 20, 30]),
        ("every 1/100 epochs to 0.3 epochs", [1, 2, 3]),
        ("never", []),
    ],
)
def test_moments_in_uneven_epochs(text, steps):
    assert Trigger.parse(text).firings(33, UNEVEN) == steps
    even = Trigger.parse(text).firings(30, 10)
    assert Trigger.parse(text).firings(30, (10, 10, 10)) == even, "equal lengths one by one say the same"


def test_evaluation_goes_from_short_to_long_and_every_pair_once():
    data = open_corpus(embedded("reverse", pairs=2000)).val
    a_pass = Pass("val", data, batch_size=7)
    whole = [part.tolist() for part in rank_parts(a_pass, 0, 1)]
    assert sorted(index for part in whole for index in part) == list(range(len(data)))
    widths = [int(data.cells[part].max()) for part in whole]
    assert widths == sorted(widths)
    for size in (2, 3):
        ranks = [[part.tolist() for part in rank_parts(a_pass, rank, size)] for rank in range(size)]
        assert len({len(parts) for parts in ranks}) == 1
        dealt = [part for parts in zip(*ranks, strict=True) for part in parts if part]
        assert dealt == whole, "batches are the same for any number of ranks"


def test_a_plan_keeps_8_bytes_a_pair_of_two_epochs():
    plan = TokenPlan(*lengths(200_000), max_tokens=5_000, pool=100, seed=1)
    made = plan.epoch(0)
    assert made.pairs.nbytes + made.bounds.nbytes + made.order.nbytes < 9 * 200_000
    plan.epoch(1), plan.epoch(2)
    assert len(plan._epochs) == 2
