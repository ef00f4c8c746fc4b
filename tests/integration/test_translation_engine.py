"""Checks 4, 5, 8 and 16 of translation.md 16: schedule, gradients, sharded decoding and precision in real runs."""

import math

import pytest
import torch

from tests.s3.runs import events
from tests.translation_runs import attempt, in_ranks, train_here, translation_settings
from trainer.engine.clock import Clock
from trainer.engine.passes import final_passes
from trainer.engine.setup import assemble, build_parts
from trainer.engine.step import backward
from trainer.engine.stop import StopRequests
from trainer.engine.world import join_world
from trainer.tasks.translation.task import create
from trainer.telemetry.bus import Bus


def job_of(settings):
    """A job that nobody stores or listens to, of this rank."""
    world, task = join_world(settings), create(settings)
    parts = build_parts(task, settings, world)
    return assemble(task, settings, world, parts, Bus(), None, None, Clock(), StopRequests())


def noam(update, width=16, warmup=10, factor=1.0):
    return factor * width**-0.5 * min(update**-0.5, update * warmup**-1.5)


def test_check_4_the_ledger_has_the_formula_at_every_step_also_after_a_resume(tmp_path):
    settings = translation_settings(tmp_path, optim__lr=0.5, num_epochs=4)
    assert attempt(settings, crash_at="after_update:14") == [137]
    assert attempt(settings) == [0]
    rates = {record["step"]: record["learning_rate"] for record in events(f"file://{tmp_path}", "StepDone", "run")}
    assert sorted(rates) == list(range(1, max(rates) + 1))
    assert max(rates) > 20
    for step, rate in rates.items():
        assert rate == pytest.approx(noam(step, factor=0.5), rel=1e-6)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """A run in fp16 whose first loss scales are far too great."""
    folder = tmp_path_factory.mktemp("fp16")
    train_here(translation_settings(folder, precision={"amp": "fp16", "init_scale": 2.0**40}, max_steps=40))
    return events(f"file://{folder}", "StepDone", "run")


def test_check_4_steps_that_fp16_skips_do_not_advance_the_schedule(overflowing):
    skipped = [record["skipped_steps"] for record in overflowing]
    assert 5 < sum(skipped) < 35
    updates = 0
    for record, is_skipped in zip(overflowing, skipped, strict=True):
        assert record["learning_rate"] == pytest.approx(noam(updates + 1), rel=1e-6)
        updates += 1 - is_skipped


def test_check_16_only_fp16_has_a_loss_scale(overflowing, tmp_path):
    assert all(record["loss_scale"] for record in overflowing)
    for amp in ("fp32", "bf16"):
        assert job_of(translation_settings(tmp_path, precision__amp=amp)).precision.scaler is None


@pytest.mark.parametrize(("batch_by", "steps"), [("tokens", (0, 2)), ("sentences", (0, 8))])
def test_check_5_accumulation_and_ranks_change_no_gradient_and_no_count(batch_by, steps, tmp_path):
    """The ninth batch of sentences is the short last one of an epoch."""

    def measured(accumulation, world_size):
        settings = translation_settings(
            tmp_path, accumulation=accumulation, model__dropout=0.0, data__batch_by=batch_by
        )
        file = tmp_path / f"{accumulation}-{world_size}.pt"

        def run(rank):
            job = job_of(settings)
            found = []
            for step in steps:
                [batch] = job.source.steps(0, range(step, step + 1))
                backward(job, batch)
                job.meter.add_step(batch.counts, batch.num_samples, torch.zeros(()), False)
                found.append(torch.cat([one.grad.flatten() for one in job.model.parameters()]))
                job.module.zero_grad(set_to_none=True)
            totals = job.meter.read()
            counts = [totals["sum/accuracy"], sum(job.meter._counts.values())]
            if rank == 0:
                torch.save({"gradients": found, "counts": counts, "nll": totals["sum/nll"]}, file)
            job.world.leave()

        in_ranks(run, world_size)
        return torch.load(file, weights_only=True)

    whole = measured(1, 1)
    for accumulation, world_size in ((2, 1), (4, 1), (1, 2), (4, 2)):
        parts = measured(accumulation, world_size)
        assert parts["counts"] == whole["counts"]
        assert parts["nll"] == pytest.approx(whole["nll"], rel=1e-5)
        for one, other in zip(whole["gradients"], parts["gradients"], strict=True):
            assert one.norm() > 0
            assert (one - other).norm() / one.norm() <= 1e-5


def test_check_8_sharded_decoding_gives_the_same_scores(tmp_path):
    def scores(world_size):
        file = tmp_path / f"{world_size}.pt"

        def run(rank):
            job = job_of(translation_settings(tmp_path, decode={"beam_size": 2, "batch_size": 5}))
            # Sharper answers than those of fresh weights, so that outputs differ in length.
            job.model.output.weight.data.mul_(4.0)
            results = final_passes(job)
            for metrics in results.values():
                metrics.pop("seconds_per_sentence", None)
                metrics.pop("loss", None)
                metrics.pop("nll", None)
                metrics.pop("perplexity", None)
            if rank == 1 or world_size == 1:
                torch.save(results, file)
            job.world.leave()

        in_ranks(run, world_size)
        return torch.load(file, weights_only=True)

    whole = scores(1)
    assert whole["val_translate"]["chrf"] > 0
    assert scores(2) == whole


def final_nll(folder, amp, **values):
    settings = translation_settings(folder / amp, precision__amp=amp, **values)
    return train_here(settings).results["val"]["nll"]


def test_check_16_half_precision_learns_alike_in_short(tmp_path):
    values = {"max_steps": 20, "num_epochs": 10, "data__corpus": "reverse", "decode__translate_samples": 1}
    full = final_nll(tmp_path, "fp32", **values)
    assert full < math.log(30)
    assert final_nll(tmp_path, "bf16", **values) == pytest.approx(full, rel=0.02)
    assert final_nll(tmp_path, "fp16", precision__init_scale=1024.0, **values) == pytest.approx(full, rel=0.02)
