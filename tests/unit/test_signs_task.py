"""The task: what it gives the engine, class balance, evaluation that hangs on nothing but the weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.pass_sums import added
from tests.signs_fakes import fake_recordings
from trainer.config.signs import AugmentSettings, SignsData, SignsModel, SignsSettings
from trainer.errors import DataError
from trainer.tasks.signs.balance import EvenPlan, inverse_frequency
from trainer.tasks.signs.dataset import input_statistics
from trainer.tasks.signs.task import SignsTask

PARTS = {"train": np.arange(0, 14), "val": np.arange(14, 20), "test": np.array([], np.int64)}


def settings(**data):
    return SignsSettings(data=SignsData(**data), model=SignsModel(size="t_4_2"), batch_size=4)


def task(parts=PARTS, **data):
    return SignsTask(settings(**data), fake_recordings([12] * 20, "mediapipe_hands"), parts)


def total(made, model, size):
    data = made.evaluated["val"]
    parts = [
        made.evaluate(model, data.take(np.arange(start, min(start + size, len(data))), 0))
        for start in range(0, len(data), size)
    ]
    return added(parts)["table"]


def test_evaluation_is_bit_equal_twice_and_the_same_in_any_batches():
    made = task()
    torch.manual_seed(0)
    model = made.build_model().eval()
    with torch.no_grad():
        first, again = (total(made, model, 4) for _ in range(2))
        assert torch.equal(first, again)
        for size in (1, 64):
            np.testing.assert_allclose(total(made, model, size), first, rtol=1e-5, atol=1e-5)
    metrics = made.summarize("val", {"table": first}).metrics
    assert set(metrics) == set(made.metrics)
    assert metrics["loss"] == pytest.approx(first[:, 0].sum().item() / 6)


def test_sums_of_micro_batches_add_up_to_those_of_the_batch():
    made = task(balance="weights", augment=AugmentSettings(mixup=0.5))
    torch.manual_seed(0)
    model, indices = made.build_model().eval(), np.array([3, 7, 1, 12])
    whole = made.loss(model, made.train_data().take(indices, 2))
    parts = [made.loss(model, made.train_data().take(part, 2)) for part in (indices[:1], indices[1:])]
    assert whole.terms["loss"].item() == pytest.approx(sum(p.terms["loss"].item() for p in parts), rel=1e-5)
    assert whole.sums["top1"].item() == pytest.approx(sum(p.sums["top1"].item() for p in parts), rel=1e-5)
    counts = [made.counts(part, 2)["loss"] for part in (indices, indices[:1], indices[1:])]
    assert counts[0] == pytest.approx(counts[1] + counts[2])
    everything = np.arange(14)
    batch = made.train_data().take(everything, 2)
    blended = batch["mix"] * batch["weight"] + (1 - batch["mix"]) * batch["weight_b"]
    assert made.counts(everything, 2)["loss"] == pytest.approx(blended.sum().item(), rel=1e-6)
    assert blended.sum().item() != pytest.approx(batch["weight"].sum().item(), rel=1e-3)


def test_class_weights_make_every_class_count_alike():
    labels = np.array([0] * 8 + [1] * 2)
    weights = inverse_frequency(labels, 3)
    assert weights[labels].mean() == pytest.approx(1.0)
    assert weights[0] * 8 == pytest.approx(weights[1] * 2)
    assert weights[2] == 0
    made = task(balance="weights")
    expected = made.training.class_weights[made.training.labels[[0, 1, 5]]].sum()
    assert made.counts(np.array([0, 1, 5]), 0)["loss"] == pytest.approx(expected)
    assert task().counts(np.array([0, 1, 5]), 0) == {"loss": 3.0}


def test_mixup_weighs_both_labels():
    made = task(augment=AugmentSettings(mixup=0.5))
    model = made.build_model().eval()
    batch = made.train_data().take(np.array([2, 3]), 1)
    got = made.loss(model, batch).terms["loss"]
    log = model(batch["keypoints"], batch["present"]).log_softmax(1)
    rows = torch.arange(2)
    expected = -(batch["mix"] * log[rows, batch["label"]] + (1 - batch["mix"]) * log[rows, batch["label_b"]]).sum()
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_even_plan_draws_rare_classes_as_often():
    labels = np.array([0] * 90 + [1] * 9 + [4])
    plan = EvenPlan(labels, batch_size=8, seed=1)
    batches = [plan.batch(2, step) for step in range(plan.num_steps(2))]
    assert [len(batch) for batch in batches] == [8] * 12 + [4]
    counts = np.bincount(labels[np.concatenate(batches)], minlength=5)[[0, 1, 4]]
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(plan.batch(2, 3), EvenPlan(labels, 8, 1).batch(2, 3))
    assert not np.array_equal(plan.batch(2, 3), plan.batch(3, 3))
    assert isinstance(task(balance="sampler").plan(), EvenPlan)


def test_input_statistics_come_from_the_training_split_and_do_not_move():
    made = task()
    model = made.build_model().train()
    mean, variance = input_statistics(made.evaluated["val"])
    norm = model.embedding.input_bn
    assert not torch.allclose(norm.running_mean, mean)
    before = norm.running_mean.clone(), norm.running_var.clone()
    model(made.train_data().take(np.arange(4), 0)["keypoints"])
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    assert torch.equal(before[0], made.statistics[0])
    assert not torch.equal(variance, before[1])


@pytest.mark.parametrize("kind", ["pth", "safetensors", "folder"])
def test_weights_of_another_run_are_the_start_and_the_head_is_fresh_where_allowed(tmp_path, kind):
    source = SignsTask(settings(), fake_recordings([30] * 20, "mediapipe_hands", num_classes=9), PARTS).build_model()
    path = tmp_path / ("model.safetensors" if kind != "pth" else "model.pth")
    (torch.save if kind == "pth" else save_file)(source.state_dict(), path)
    made = task()
    made.settings.run.init_from = str(tmp_path if kind == "folder" else path)
    with pytest.raises(DataError, match=r"fc\.weight"):
        made.build_model()
    made.settings.run.init_allow = ["fc.*"]
    model = made.build_model()
    assert torch.equal(model.blocks[0].mlp[0].weight, source.blocks[0].mlp[0].weight)
    assert torch.equal(model.embedding.input_bn.running_mean, source.embedding.input_bn.running_mean)
    assert model.fc.weight.shape[0] == 3


def test_passes_and_facts():
    made = task({"train": np.arange(10), "val": np.arange(10, 15), "test": np.arange(15, 20)})
    assert [(p.name, len(p.data), p.trigger) for p in made.passes()][1] == ("test", 5, "never")
    assert [p.name for p in task().passes()] == ["val"]
    info = json.loads(json.dumps(made.info()))
    assert info["classes"][1] == [2, "word2", "كلمة"]
    assert info["splits"] == {"train": 10, "val": 5, "test": 5}
    assert info["normalisation"] == "anchored"
    assert task(normalise="none").info()["normalisation"] == "raw"
    assert made.samples(3).shape == (3, 50, 168)


@pytest.mark.parametrize("name", ["train", "val"])
def test_an_empty_split_is_bad_data(name):
    with pytest.raises(DataError, match=name):
        task(PARTS | {name: np.array([], np.int64)})


def test_training_lowers_the_loss():
    made = task()
    torch.manual_seed(0)
    model = made.build_model().train()
    losses = []
    for step in range(12):
        batch = made.train_data().take(made.plan().batch(step // 4, step % 4), 0)
        loss = made.loss(model, batch).terms["loss"] / len(batch["label"])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
