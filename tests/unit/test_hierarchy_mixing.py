"""Checks 11 to 15: every row once an epoch, mixing and its partners, masks after mixing, and the block map.

Negative controls rebuild what linnaeus was seen to do and must fail the same bounds.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.hierarchy_rows import constant, training_rows
from trainer.config.hierarchy import Combination, HierarchyAugment, HierarchySettings, MixSettings
from trainer.data.keys import uniform
from trainer.data.plan import FixedPlan, share
from trainer.data.prefetch import Prefetcher
from trainer.engine.cursor import Cursor
from trainer.engine.source import PlannedSource, StepBatch
from trainer.engine.world import World
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.dataset import TrainingRows
from trainer.tasks.hierarchy.mixing import partners
from trainer.tasks.hierarchy.order import PairPlan, paired
from trainer.tasks.hierarchy.task import create
from trainer.tasks.hierarchy.toys import toy


def twos(size: int) -> np.ndarray:
    """Labels of groups of two."""
    return np.stack([np.arange(size) // 2, np.arange(size) // 4], 1)


def rare_classes() -> np.ndarray:
    """T1's labels with one finest class of 1 row, one of 2, one of 3; the others' rows lose theirs."""
    labels = toy("t1", 0).table.labels[:600].copy()
    for cls, kept in ((0, 1), (1, 2), (2, 3)):
        labels[np.flatnonzero(labels[:, 0] == cls)[kept:], 0] = -1
    return labels


@pytest.mark.parametrize("order", ["shuffle", "pairs"])
def test_11_every_row_trains_once_an_epoch_and_orders_differ(order: str) -> None:
    labels = rare_classes()
    plan = FixedPlan(600, 64, 1) if order == "shuffle" else PairPlan(labels, 64, 1, constant(0))
    epochs = [np.concatenate([plan.batch(epoch, step) for step in range(10)]) for epoch in range(12)]
    assert all(np.array_equal(np.sort(rows), np.arange(600)) for rows in epochs)
    assert len({rows.tobytes() for rows in epochs}) == 12


def walked(settings: HierarchySettings) -> list[StepBatch]:
    """All steps of a run, made as far ahead as the settings say."""
    source = PlannedSource(create(settings), settings, World())
    chunks = Prefetcher(source.walk(Cursor(), settings.num_epochs), settings.prefetch)
    return [step for chunk in chunks for step in chunk]


def test_11_any_number_of_steps_ahead_gives_the_same_12_epochs_of_every_row() -> None:
    """Of T1's 600 rows, 3 have no label at any level."""
    mixed = {"mix": {"probability": "1 @ 0, 0.2 @ 100%"}, "mask": {"all": "0.3 @ 0"}, "data": {"layout": "t1"}}
    runs = [
        walked(HierarchySettings(num_epochs=12, batch_size=64, accumulation=2, prefetch=ahead, **mixed))
        for ahead in (0, 1, 4)
    ]
    rows = np.concatenate([part["index"].numpy() for step in runs[0] for part in step.micro])
    assert len(runs[0]) == 120
    assert np.array_equal(np.sort(rows.reshape(12, 597), 1), np.tile(np.arange(597), (12, 1)))
    for steps in zip(*runs, strict=True):
        for parts in zip(*(step.micro for step in steps), strict=True):
            for name, values in parts[0].items():
                assert all(torch.equal(values, other[name]) for other in parts[1:]), name


@pytest.mark.parametrize("num_workers", [1, 4])
def test_11_batches_are_the_same_in_any_number_of_threads(num_workers: int) -> None:
    def batch(rows: TrainingRows, step: int) -> dict[str, torch.Tensor]:
        return rows.take(rows.plan.batch(3, step), 3)

    def made() -> TrainingRows:
        return training_rows(rare_classes(), mix=0.5, mask_all=0.3, mask_partial=0.3)

    inline, threaded = made(), made()
    with ThreadPoolExecutor(num_workers) as pool:
        found = list(pool.map(lambda step: batch(threaded, step), range(10)))
    for step, one in enumerate(found):
        for name, values in batch(inline, step).items():
            assert torch.equal(values, one[name]), name


def test_11_pairs_stand_together_in_batches_of_even_length() -> None:
    labels = rare_classes()
    plan = PairPlan(labels, 64, 1, constant(0))
    assert int((labels[:, 0] == 0).sum()) == 1
    shuffled, grouped = (
        sum(paired_rows(labels[one.batch(0, step), 0]) for step in range(10)) for one in (FixedPlan(600, 64, 1), plan)
    )
    known = labels[labels[:, 0] >= 0, 0]
    assert grouped == sum(count // 2 * 2 for count in np.bincount(known))
    assert shuffled < grouped / 4


def paired_rows(groups: np.ndarray) -> int:
    """Rows next to one of their group, at places 2i and 2i + 1."""
    even = groups[: len(groups) // 2 * 2].reshape(-1, 2)
    return 2 * int(((even[:, 0] == even[:, 1]) & (even[:, 0] >= 0)).sum())


def test_11_rows_alone_keep_their_order() -> None:
    assert paired(np.array([-1, 5, -1, 5, 7, -1])).tolist() == [0, 2, 1, 3, 4, 5]
    assert paired(np.array([-1, -1, -1])).tolist() == [0, 1, 2]


def test_11_dropping_small_groups_would_be_seen() -> None:
    """linnaeus: batches of full groups only."""
    labels = rare_classes()[:, 0]
    order = FixedPlan(600, 600, 1).batch(0, 0)
    kept = [row for row in order if labels[row] >= 0 and (labels == labels[row]).sum() >= 4]
    assert len(kept) < 600


def test_12_half_of_the_batches_are_mixed_at_one_half() -> None:
    rows = training_rows(twos(64), mix=0.5, plan=FixedPlan(64, 64, 0))
    every = np.arange(64)
    changed = [
        float((rows.take(every, epoch)["features"][:, 0] != torch.arange(64.0)).float().mean()) for epoch in range(2000)
    ]
    assert abs(np.mean(changed) - 0.5) < 0.035
    drawn_twice_with_self = np.mean([(u < 0.5) * (v < 0.5) * 0.5 for u, v in uniform(1, np.arange(2000), 2)])
    assert abs(drawn_twice_with_self - 0.5) > 0.035, "linnaeus: 0.137"


def test_13_partners_are_others_of_the_same_group() -> None:
    labels = rare_classes()
    num_pairs, epoch = 0, 0
    rows = training_rows(labels, mix=1.0, plan=FixedPlan(600, 128, 0))
    while num_pairs < 100_000:
        for step in range(rows.plan.num_steps(0)):
            batch = rows.plan.batch(epoch, step)
            partner, kept = rows.partners(batch, epoch)
            group = labels[batch, 0]
            size = (group[:, None] == group[None, :]).sum(1) * (group >= 0)
            assert (labels[partner, 0] == group).all()
            assert ((partner == batch) == (size < 2)).all()
            assert (kept[partner == batch] == 1).all()
            assert np.array_equal(np.sort(partner), np.sort(batch)), "a circle: everybody is somebody's partner"
            num_pairs += len(batch)
        epoch += 1


def test_13_known_targets_sum_to_one_and_the_finest_group_changes_no_class() -> None:
    labels = rare_classes()
    rows = training_rows(labels, mix=1.0, plan=FixedPlan(600, 128, 0), level=1)
    batch = rows.take(rows.plan.batch(0, 1), 0)
    own, other, lam = batch["labels"], batch["partner_labels"], batch["lam"]
    assert ((own < 0) == (other < 0)).all(), "known only if both know it"
    for level, size in enumerate((18, 6, 2)):
        known = own[:, level] >= 0
        targets = torch.zeros(int(known.sum()), size).scatter_add_(1, own[known, level, None], lam[known, None])
        targets.scatter_add_(1, other[known, level, None], 1 - lam[known, None])
        assert float((targets.sum(1) - 1).abs().max()) < 1e-6
    assert (own[:, 0] != other[:, 0]).any()
    finest = training_rows(labels, mix=1.0, plan=FixedPlan(600, 128, 0)).take(rows.plan.batch(0, 1), 0)
    grouped = finest["labels"][:, 0] >= 0
    assert torch.equal(finest["labels"][grouped, 0], finest["partner_labels"][grouped, 0])


def test_13_a_free_permutation_would_give_self_partners() -> None:
    """linnaeus: partners by any permutation of the group."""
    order = np.argsort(uniform(3, np.arange(1000), 2), 1)
    assert (order[:, 0] == 0).mean() > 0.4
    assert (partners(np.arange(2), np.zeros(2, np.int64), 3) == [1, 0]).all()


def test_13_counts_add_up_over_rows_and_agree_with_the_batch() -> None:
    rows = training_rows(rare_classes(), mix=1.0, plan=FixedPlan(600, 128, 0), level=1)
    whole = rows.plan.batch(2, 1)
    parts = [share(whole, rank, 3) for rank in range(3)]
    assert (sum(rows.known(part, 2) for part in parts) == rows.known(whole, 2)).all()
    taken = [rows.take(part, 2) for part in parts]
    assert torch.cat([one["labels"] for one in taken]).ge(0).sum(0).tolist() == rows.known(whole, 2).tolist()
    together = rows.take(whole, 2)
    for name, values in together.items():
        assert torch.equal(values, torch.cat([one[name] for one in taken])), name


@pytest.mark.parametrize("mix", [None, 1.0])
def test_14_the_mask_rate_survives_mixing(mix: float | None) -> None:
    rows = training_rows(twos(20_000), mix=mix, mask_all=0.5, plan=PairPlan(twos(20_000), 1000, 0, constant(0)))
    batch = rows.take(np.arange(20_000), 0)
    lost = ~batch["valid"].all(1)
    assert abs(float(lost.float().mean()) - 0.5) < 0.01
    assert (batch["blocks"][lost] == 0).all()
    assert (batch["blocks"][~lost] != 0).all()


def test_14_masking_before_mixing_would_be_refilled() -> None:
    """linnaeus: 0.25 of the rows stay masked."""
    masked = uniform(1, np.arange(20_000), 1)[:, 0] < 0.5
    partner = partners(np.arange(20_000), twos(20_000)[:, 0], 1)
    assert abs((masked & masked[partner]).mean() - 0.5) > 0.01


def test_14_the_combined_rate_is_the_formula() -> None:
    never = uniform(9, np.arange(20_000), 3) < 0.1
    rows = training_rows(twos(20_000), valid=~never, mask_all=0.6, mask_partial=0.3)
    valid = rows.take(np.arange(20_000), 0)["valid"]
    expected = 1 - (1 - 0.1) * (1 - 0.6 - 0.4 * 0.3 / 3)
    assert expected == pytest.approx(0.676)
    assert (abs((~valid).float().mean(0) - expected) < 0.01).all()


def test_14_combinations_go_by_their_weights() -> None:
    weighted = [Combination(blocks=["A", "C"], weight=3), Combination(blocks=["B"], weight=1)]
    rows = training_rows(twos(20_000), mask_partial=1.0, combinations=weighted)
    lost = rows.lost(np.arange(20_000), 0)
    assert (lost[:, 0] == lost[:, 2]).all()
    assert (lost[:, 0] != lost[:, 1]).all()
    assert abs(lost[:, 0].mean() - 0.75) < 0.01


def test_15_the_block_map_gives_each_block_its_columns() -> None:
    blocks = BlockMap({"A": 2, "B": 3, "C": 10})
    assert blocks.ranges == {"A": (0, 2), "B": (2, 5), "C": (5, 15)}
    values, valid = torch.ones(4, 15), torch.ones(4, 3, dtype=torch.bool)
    by_name = {name: slice(*blocks.ranges[other]) for name, other in zip("CBA", "ABC", strict=True)}
    assert by_name["C"] != slice(5, 15), "linnaeus: ranges in another order than the columns"
    masked, left = blocks.masked(values, valid, ["B"])
    assert masked[0].tolist() == [1] * 2 + [0] * 3 + [1] * 10
    assert left[0].tolist() == [True, False, True]
    assert values.all()
    assert valid.all()
    same, still = blocks.masked(values, valid, [])
    assert torch.equal(same, values)
    assert torch.equal(still, valid)


def test_15_a_valid_zero_one_stays_valid() -> None:
    source = toy("t1", 0)
    first, last = source.blocks.ranges["SEASON"]
    season = source.table.valid[:, 1] & (source.table.blocks[:, first:last] == [0, 1]).all(1)
    assert season.sum() > 100
    wiped = (source.table.blocks[:, first:last] != 0).all(1)  # linnaeus: a zero is a missing value
    assert not wiped[season].any()
    _, valid = source.blocks.masked(
        torch.from_numpy(source.table.blocks), torch.from_numpy(source.table.valid), ["ELEV"]
    )
    assert valid[torch.from_numpy(season), 1].all()


def test_15_sets_of_blocks_have_one_name_each() -> None:
    blocks = BlockMap({"A": 2, "B": 3, "C": 10})
    assert len(blocks.sets(["subsets"])) == 6
    named = [blocks.pass_name(one) for one in blocks.sets(["C+A", "A+C", "all", "each", "A+B+C"])]
    assert named == ["val_mask_A_C", "val_mask_all", "val_mask_A", "val_mask_B", "val_mask_C"]
    assert BlockMap({}).sets(["all", "each"]) == []


def test_blocks_come_whole_from_the_row_or_its_partner() -> None:
    valid = np.array([[True, False, True], [False, True, True]] * 200)
    rows = training_rows(twos(400), valid=valid, mix=1.0, plan=FixedPlan(400, 400, 0))
    batch = rows.take(np.arange(400), 0)
    assert batch["valid"].all(), "a block that one of the two has comes from that one"
    own = torch.arange(400) + 1.0
    other = (torch.arange(400) ^ 1) + 1.0
    a, b, c = batch["blocks"][:, 0], batch["blocks"][:, 1], batch["blocks"][:, 3]
    even = torch.arange(400) % 2 == 0
    assert torch.equal(a, torch.where(even, own, other))
    assert torch.equal(b, torch.where(even, other, own))
    assert ((c == own) | (c == other)).all()
    assert 0.4 < float((c == other).float().mean()) < 0.6


def test_features_blend_by_the_share_that_is_kept() -> None:
    rows = training_rows(twos(64), mix=1.0, plan=FixedPlan(64, 64, 0))
    batch = rows.take(np.arange(64), 0)
    own = torch.arange(64.0)
    expected = batch["lam"] * own + (1 - batch["lam"]) * (torch.arange(64) ^ 1)
    torch.testing.assert_close(batch["features"][:, 0], expected)
    assert 0 < float(batch["lam"][0]) < 1


def test_cutmix_keeps_the_area_it_says() -> None:
    images = np.arange(64, dtype=np.float32)[:, None, None, None].repeat(3, 1).repeat(8, 2).repeat(8, 3)
    rows = training_rows(twos(64), features=images, mix=1.0, mixing=MixSettings(cutmix=True), plan=FixedPlan(64, 64, 0))
    cut = 0
    for epoch in range(200):
        batch = rows.take(np.arange(64), epoch)
        image = batch["features"][5, 0]
        if not ((image == 5) | (image == 4)).all():
            continue
        cut += 1
        assert float((image == 5).float().mean()) == pytest.approx(float(batch["lam"][5]), abs=1e-6)
    assert 60 < cut < 140


def test_the_group_level_follows_its_curve() -> None:
    labels = np.stack([np.arange(64), np.arange(64) // 2], 1)
    assert (training_rows(labels, mix=1.0, plan=FixedPlan(64, 64, 0)).take(np.arange(64), 0)["lam"] == 1).all()
    assert (training_rows(labels, mix=1.0, plan=FixedPlan(64, 64, 0), level=1).take(np.arange(64), 0)["lam"] < 1).all()


def test_augmentation_is_the_rows_own_and_differs_by_epoch() -> None:
    settings = HierarchyAugment(flip=0.5, crop=2, colour=0.2, erase=0.5, noise=0.1)
    images = np.random.default_rng(0).random((64, 3, 8, 8)).astype(np.float32)
    rows = training_rows(twos(64), features=images, augment=settings)
    alone = torch.cat([rows.take(np.array([row]), 1)["features"] for row in range(64)])
    assert torch.equal(alone, rows.take(np.arange(64), 1)["features"])
    assert not torch.equal(alone, rows.take(np.arange(64), 2)["features"])
    plain = training_rows(twos(64), features=images).take(np.arange(64), 1)
    assert torch.equal(plain["features"], torch.from_numpy(images))


def test_a_flip_mirrors_and_a_crop_moves() -> None:
    images = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    flipped = training_rows(twos(4), features=images, augment=HierarchyAugment(flip=1.0)).take(np.arange(4), 0)
    assert np.array_equal(flipped["features"].numpy(), images[..., ::-1])
    moved = training_rows(twos(4), features=images, augment=HierarchyAugment(crop=3)).take(np.arange(4), 0)["features"]
    padded = np.pad(images[0], ((0, 0), (3, 3), (3, 3)))
    windows = [padded[:, top : top + 8, left : left + 8] for top in range(7) for left in range(7)]
    assert sum(np.array_equal(moved[0].numpy(), window) for window in windows) == 1
