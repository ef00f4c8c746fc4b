"""T1 is the same training on one process or two, in one micro-batch or four, on the CPU or a GPU."""

import pytest
import torch

from tests.hierarchy_runs import here, ledger, t1_settings, whole
from tests.toy import train_toy
from trainer.tasks.hierarchy.task import create
from trainer.telemetry.reading import select

# A balance measures the last micro-batch, which is another one when there are more of them.
ALIKE = {"model__dropout": 0.0, "balance__kind": "none", "telemetry__sample_ids": True}
NUM_STEPS = 20
SHORT = ALIKE | {"num_epochs": 2, "passes": {"val": "never", "val_mask_all": "never"}, "mask__when": "never"}


def passes(folder):
    """What the passes at the end measured: 150 rows in batches of 32, which two processes share."""
    found = {one["name"]: one["metrics"] for one in select(ledger(folder), "PassDone")}
    return {name: {key: value for key, value in one.items() if value is not None} for name, one in found.items()}


def steps(folder):
    """Log points of all steps."""
    return select(ledger(folder), "StepDone")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One process, one micro-batch a step."""
    folder = tmp_path_factory.mktemp("reference")
    here(folder, **SHORT, accumulation=1)
    return folder


def check_alike(found, reference, relative):
    """The same rows in every step, and the same sums over them."""
    assert len(found) == len(reference) == NUM_STEPS
    assert [one["sample_ids"] for one in found] == [one["sample_ids"] for one in reference]
    for ours, theirs in zip(found, reference, strict=True):
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=relative), (ours["step"], name)
        assert ours["terms"] == pytest.approx(theirs["terms"], rel=relative)
    first = [one[0]["metrics"] for one in (found, reference)]
    assert first[0] == pytest.approx(first[1], rel=1e-6), "right answers and valid blocks, by level and block"


def test_two_processes_take_the_same_rows_and_have_the_same_sums(reference, tmp_path):
    whole(tmp_path, 2, **SHORT, accumulation=2)
    check_alike(steps(tmp_path), steps(reference), 1e-5)
    found, expected = passes(tmp_path), passes(reference)
    assert list(found) == list(expected)
    for name, metrics in found.items():
        assert metrics == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
        assert metrics["fine/top1"] == expected[name]["fine/top1"], "no row is counted twice"


def test_four_micro_batches_are_one_batch_of_their_union(reference, tmp_path):
    here(tmp_path, **SHORT, accumulation=4)
    found, expected = steps(tmp_path), steps(reference)
    check_alike(found, expected, 1e-5)
    for name in ("loss", "grad_norm"):
        assert found[0][name] == pytest.approx(expected[0][name], rel=1e-6)


def test_micro_batches_that_all_count_as_the_first_would_be_seen(reference, tmp_path, monkeypatch):
    """linnaeus: every micro-batch of a step has the same weight, whatever is known in it and however short it is."""

    def wrong(job, batch):
        first = job.task.counts(batch.micro[0]["index"].numpy(), batch.epoch)
        return {name: 1 / (len(batch.micro) * max(count, 1.0)) for name, count in first.items()}

    monkeypatch.setattr("trainer.engine.step.scales_of", wrong)
    here(tmp_path, **SHORT, accumulation=4)
    with pytest.raises(AssertionError):
        check_alike(steps(tmp_path), steps(reference), 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: losses of CPU and GPU are not compared")
def test_cpu_and_gpu_lose_alike_over_20_steps(reference, tmp_path):
    settings = t1_settings(
        tmp_path, **SHORT, accumulation=1, device="cuda", precision__amp="fp32", precision__tf32=False
    )
    train_toy(settings, create)
    pairs = zip(steps(tmp_path), steps(reference), strict=True)
    assert max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in pairs) <= 1e-4
