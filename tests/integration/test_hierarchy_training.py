"""The toy sets trained to the end by the engine: checks 22, 23 and 25 of the hierarchy reference."""

import statistics
import time
from pathlib import Path

import pytest
import torch

from tests.toy import toy_settings, train_toy
from trainer.checkpoint.files import FileStore
from trainer.config.hierarchy import HierarchySettings
from trainer.engine import balance
from trainer.engine.task import Loss
from trainer.tasks.hierarchy.rows import open_data
from trainer.tasks.hierarchy.task import HierarchyTask, create
from trainer.telemetry.reading import effective, read_run, select

MASKED = {"mask__all": "0.3 @ 0", "mask__passes": ["all", "each"]}
BALANCED = {"balance__kind": "gradnorm", "balance__every": "every 5 steps from 1"}
"""From the first step on: gain is measured by the first loss of a level, and coarse is solved by step 10."""
FINE = "fine/top1"


class Scaled(HierarchyTask):
    """With a coarse loss that is far too large."""

    def loss(self, model, batch):
        found = super().loss(model, batch)
        return Loss(found.terms | {"coarse": 50.0 * found.terms["coarse"]}, found.sums)


def run(folder, layout="t2", task=create, **values):
    """Results by pass of the last weights."""
    usual = {
        "num_epochs": 12, "batch_size": 64, "accumulation": 2, "data__layout": layout, "run__name": "toy",
        "optim__weight_decay": 0.0, "schedule__name": "constant", "schedule__warmup": "0 steps",
        "passes__val": "never and end", "mask__when": "never and end", "checkpoint__every": "never and end",
        "telemetry__log_every": "every 20 steps",
    }  # fmt: skip
    if "all" in values.get("mask__passes", ["all"]):
        usual["passes__val_mask_all"] = "never and end"
    settings = toy_settings(folder, HierarchySettings, **(usual | values))
    return train_toy(settings, task).results


def ledger(folder: Path):
    return effective(read_run(FileStore(folder), "toy"))


def scaled_runs(folder, seeds, **values):
    """Mean of the standard fine accuracy with the coarse loss times 50, and the coarse weights at the end."""
    fine, weights = [], []
    for seed in seeds:
        own = folder / str(seed)
        found = run(own, task=lambda given: Scaled(given, open_data(given)), seed=seed, **values)
        fine.append(found["val"][FINE])
        weights.append(select(ledger(own), "StepDone")[-1]["weights"]["coarse"])
    return statistics.mean(fine), weights


def flipped(monkeypatch):
    """The rule of the program that this was modelled on: its sign, and a floor only against division by zero."""
    right = balance.rebalanced

    def wrong(weights, norms, rates, settings):
        return right(weights, norms, rates, settings.model_copy(update={"eta": -settings.eta, "floor": 1e-6}))

    monkeypatch.setattr(balance, "rebalanced", wrong)


def test_22_balance_holds_a_loss_50_times_too_large(tmp_path):
    fine, weights = scaled_runs(tmp_path, [1], **BALANCED)
    assert fine >= 0.95
    assert max(weights) <= 0.15


def test_22_with_the_sign_flipped_it_does_not(tmp_path, monkeypatch):
    flipped(monkeypatch)
    fine, weights = scaled_runs(tmp_path, [1], **BALANCED)
    assert fine <= 0.45
    assert min(weights) > 1


@pytest.mark.proof
def test_22_balance_end_to_end_over_3_seeds(tmp_path, monkeypatch):
    fine, weights = scaled_runs(tmp_path, [1, 2, 3], **BALANCED)
    print(f"\nbalanced: fine {fine:.3f}, coarse weights {weights}")
    assert fine >= 0.95
    assert max(weights) <= 0.15
    flipped(monkeypatch)
    fine, _ = scaled_runs(tmp_path / "flipped", [1, 2, 3], **BALANCED)
    print(f"sign flipped: fine {fine:.3f}")
    assert fine <= 0.45


def masked_runs(folder, seeds):
    """Results with and without masked training, by seed."""
    on, off = ({**MASKED, "mask__all": text} for text in (MASKED["mask__all"], None))
    return [
        (run(folder / f"{seed}-on", seed=seed, **on), run(folder / f"{seed}-off", seed=seed, **off)) for seed in seeds
    ]


def check_masking(pairs):
    """Means over the seeds against the bounds of the reference."""

    def mean(which, name):
        return statistics.mean(pair[which][name][FINE] for pair in pairs)

    gain = mean(0, "val_mask_all") - mean(1, "val_mask_all")
    standard = mean(0, "val"), mean(1, "val")
    without_noise = mean(0, "val_mask_ELEV")
    print(f"\nmask-all gain {gain:.3f}; standard {standard[0]:.3f} and {standard[1]:.3f}; no ELEV {without_noise:.3f}")
    assert gain >= 0.06
    assert abs(standard[0] - standard[1]) <= 0.03
    assert abs(standard[0] - without_noise) <= 0.02


def test_23_masked_training_helps_where_all_blocks_are_missing(tmp_path):
    check_masking(masked_runs(tmp_path, [1]))


@pytest.mark.proof
def test_23_masked_training_over_5_seeds(tmp_path):
    check_masking(masked_runs(tmp_path, range(1, 6)))


def bare_seconds(layout):
    """A hand-written loop over the same batches of the same model."""
    task = create(HierarchySettings.model_validate({"data": {"layout": layout}, "batch_size": 64, "num_epochs": 12}))
    torch.manual_seed(1)
    model, data, plan = task.build_model(), task.train_data(), task.plan()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    started = time.process_time()
    for epoch in range(12):
        for step in range(plan.num_steps(epoch)):
            rows = plan.batch(epoch, step)
            loss, counts = task.loss(model, data.take(rows, epoch)), task.counts(rows, epoch)
            sum(loss.terms[name] / counts[name] for name in counts if counts[name]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
    return time.process_time() - started


@pytest.mark.parametrize("layout", ["t1", "t2"])
def test_25_a_toy_run_costs_little_more_than_a_bare_loop(layout, tmp_path):
    """As a ratio, of processor time; the run has twice the forward passes, its passes, checkpoint and ledger."""
    bare = bare_seconds(layout)
    started = time.process_time()
    run(tmp_path, layout, **MASKED)
    ours = time.process_time() - started
    print(f"\n{layout}: {ours:.1f} s, a bare loop {bare:.1f} s")
    assert ours <= 10 * bare + 1.0
