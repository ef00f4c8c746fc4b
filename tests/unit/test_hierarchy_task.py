"""The task hierarchy as the engine sees it: terms and counts, passes by sets of blocks, trunk, best."""

import numpy as np
import pytest
import torch

from tests.pass_sums import added
from trainer.config.hierarchy import HierarchySettings
from trainer.engine.clock import Clock
from trainer.engine.setup import assemble, build_parts
from trainer.engine.step import scales_of
from trainer.engine.stop import StopRequests
from trainer.engine.world import World
from trainer.errors import SettingsError
from trainer.tasks.hierarchy.task import create
from trainer.telemetry.bus import Bus


def made(**values):
    settings = {"data": {"layout": "t1"}, "batch_size": 64, "num_epochs": 12}
    return create(HierarchySettings.model_validate(settings | values))


@pytest.fixture(scope="module")
def plain():
    return made(mask={"passes": ["all", "each", "SITE+SEASON"]})


@pytest.fixture(scope="module")
def mixed():
    return made(
        mix={"probability": "1 @ 0"}, mask={"all": "0.3 @ 0", "partial": "0.3 @ 0"}, loss={"class_weights": "log"}
    )


def model_of(task):
    torch.manual_seed(0)
    return task.build_model()


def test_counts_are_the_known_labels_and_mixed_ones_known_in_both_rows(plain, mixed):
    rows = np.arange(100, 164)
    labels = plain.rows.plain.labels
    assert plain.counts(rows, 3) == dict(zip(plain.tree.levels, (labels[rows] >= 0).sum(0), strict=True))
    partners, kept = mixed.rows.train.partners(rows, 3)
    assert (kept < 1).any()
    both = (labels[rows] >= 0) & (labels[partners] >= 0)
    assert mixed.counts(rows, 3) == dict(zip(mixed.tree.levels, both.sum(0), strict=True))


@pytest.mark.parametrize("which", ["plain", "mixed"])
def test_sums_of_micro_batches_are_those_of_their_union_within_1e_6(which, request):
    task = request.getfixturevalue(which)
    model, rows = model_of(task), task.plan().batch(1, 2)
    parts = np.array_split(rows, 4)

    def gradient(*pieces):
        model.zero_grad()
        found = [task.loss(model, task.train_data().take(piece, 1)) for piece in pieces]
        counts = task.counts(rows, 1)
        sum(one.terms[name] / counts[name] for one in found for name in counts).backward()
        sums = {name: sum(one.sums[name].item() for one in found) for name in found[0].sums}
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), sums

    whole, sums = gradient(rows)
    split, sums_of_parts = gradient(*parts)
    assert ((whole - split).norm() / whole.norm()).item() <= 1e-6
    assert sums_of_parts == pytest.approx(sums)
    counted = [task.counts(piece, 1) for piece in parts]
    assert task.counts(rows, 1) == {name: sum(one[name] for one in counted) for name in task.tree.levels}


def test_every_level_has_a_term_even_if_no_row_knows_it(plain):
    model, labels = model_of(plain), plain.rows.plain.labels
    rows = np.flatnonzero(labels[:, 0] < 0)[:8]
    loss = plain.loss(model, plain.train_data().take(rows, 0))
    assert list(loss.terms) == plain.tree.levels == list(plain.counts(rows, 0))
    assert loss.terms["fine"].item() == 0.0
    assert plain.counts(rows, 0)["fine"] == 0.0


def test_shared_trunk_is_all_but_the_heads(plain):
    model = model_of(plain)
    shared = {id(parameter) for parameter in plain.shared(model)}
    rest = [name for name, parameter in model.named_parameters() if id(parameter) not in shared]
    assert {name.partition(".")[0] for name in rest} == {"heads"}


def test_passes_have_the_names_of_their_blocks(plain):
    names = [one.name for one in plain.passes()]
    assert names == ["val", "val_mask_all", "val_mask_SITE", "val_mask_SEASON", "val_mask_ELEV", "val_mask_SITE_SEASON"]


def test_final_adds_a_pass_for_every_proper_subset_that_runs_at_the_end_only():
    triggers = {one.name: one.trigger for one in made(mask={"passes": ["all"], "final": True}).passes()}
    assert len(triggers) == 2 + 6
    assert {triggers[name] for name in triggers if name not in ("val", "val_mask_all")} == {"never"}


def test_masking_takes_only_the_named_block_and_leaves_the_batch_as_it_was(plain):
    a_pass = next(one for one in plain.passes() if one.name == "val_mask_SEASON")
    batch = a_pass.data.take(np.arange(20), 0)
    before = {name: value.clone() for name, value in batch.items()}
    masked = a_pass.transform(batch)
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    assert not masked["valid"][:, 1].any()
    assert not masked["blocks"][:, 3:5].any()
    assert torch.equal(masked["blocks"][:, [0, 1, 2, 5, 6, 7, 8]], batch["blocks"][:, [0, 1, 2, 5, 6, 7, 8]])
    assert torch.equal(masked["valid"][:, [0, 2]], batch["valid"][:, [0, 2]])
    nothing = plain._without((), batch)
    assert all(torch.equal(nothing[name], batch[name]) for name in batch)


def test_a_valid_zero_and_a_masked_block_are_told_apart(plain):
    model = model_of(plain).eval()
    batch = plain.passes()[0].data.take(np.arange(8), 0)
    zeros = torch.zeros_like(batch["blocks"])
    valid, invalid = (torch.full_like(batch["valid"], value) for value in (True, False))
    with torch.no_grad():
        one, other = (model(batch["features"], zeros, flags)[0] for flags in (valid, invalid))
    assert not torch.allclose(one, other)


def test_defect_08_validation_rows_are_never_changed():
    """However training rows are; two runs over them see what the table holds."""
    changes = {"mix": {"probability": "1 @ 0"}, "mask": {"all": "0.9 @ 0"}}
    data = {"layout": "t1", "augment": {"noise": 1.0, "flip": 1.0, "erase": 1.0}}
    task, rows = made(data=data, **changes), np.arange(150)
    plain_rows = task.rows.evaluated["val"].table
    for epoch in (0, 3):
        seen = task.passes()[0].data.take(rows, epoch)
        assert torch.equal(seen["features"], torch.from_numpy(plain_rows.features))
        assert torch.equal(seen["blocks"], torch.from_numpy(plain_rows.blocks))
        assert torch.equal(seen["labels"], torch.from_numpy(plain_rows.labels))
    trained = task.train_data().take(rows, 0)
    assert not torch.equal(trained["features"], torch.from_numpy(task.rows.plain.table.features[:150]))


def test_defect_09_weights_go_by_the_name_of_the_level():
    """In whatever order they are written, and whatever the order of levels or of the alphabet."""
    weights = {"coarse": 4.0, "fine": 1.0, "mid": 2.0}
    task, world = made(balance={"kind": "fixed", "weights": weights}), World()
    parts = build_parts(task, task.settings, world)
    job = assemble(task, task.settings, world, parts, Bus(), None, None, Clock(), StopRequests())
    batch = job.source.steps(0, range(1))[0]
    scales, counts = scales_of(job, batch), task.counts(batch.indices, 0)
    assert {name: scales[name] * counts[name] for name in counts} == pytest.approx(weights)
    assert [weights[name] for name in sorted(weights)] != [weights[name] for name in task.tree.levels]


def test_what_is_masked_cannot_be_seen(plain):
    """An invalid block is zeros after standardisation, whatever stands in its columns."""
    model = model_of(plain).eval()
    batch = plain.passes()[0].data.take(np.arange(8), 0)
    invalid = torch.zeros_like(batch["valid"])
    with torch.no_grad():
        one, other = (model(batch["features"], values, invalid)[0] for values in (batch["blocks"], batch["blocks"] + 5))
    assert torch.equal(one, other)


def table(task, model, size, name="val"):
    a_pass = next(one for one in task.passes() if one.name == name)
    parts = []
    with torch.no_grad():
        for start in range(0, len(a_pass.data), size):
            batch = a_pass.data.take(np.arange(start, min(start + size, len(a_pass.data))), 0)
            parts.append(task.evaluate(model, a_pass.transform(batch) if a_pass.transform else batch))
    return added(parts)["table"]


def test_17_metrics_of_a_pass_hang_on_no_batch_size(plain):
    model = model_of(plain).eval()
    found = [plain.summarize("val", {"table": table(plain, model, size)}).metrics for size in (1, 7, 32, 150)]
    assert list(found[0]) == list(plain.metrics)
    for name in ("known_chain", "chain", "fine/top1", "mid/top1", "fine/top3", "consistency", "fine/macro_f1"):
        assert len({one[name] for one in found}) == 1
    assert [one["loss"] for one in found] == pytest.approx([found[0]["loss"]] * 4, rel=1e-5)


def test_valid_shares_of_a_masked_pass_are_zero_for_its_blocks(plain):
    result = plain.summarize("val_mask_SITE", {"table": table(plain, model_of(plain), 64, "val_mask_SITE")})
    found = result.metrics
    assert found["valid_SITE"] == 0.0
    assert result.terms == {level: found[f"{level}/loss"] for level in plain.tree.levels}
    assert found["valid_SEASON"] > 0.5


def test_valid_shares_in_training_are_over_rows(mixed):
    loss = mixed.loss(model_of(mixed), mixed.train_data().take(np.arange(64), 0))
    counts = mixed.counts(np.arange(64), 0)
    means = {
        name: value.item() / counts.get(name.partition("/")[0], counts["fine"]) for name, value in loss.sums.items()
    }
    batch = mixed.train_data().take(np.arange(64), 0)
    shares = mixed.derived(means, counts["fine"], 1.0)
    assert list(shares.values()) == pytest.approx(batch["valid"].float().mean(0).tolist())
    assert "rows" not in means


def test_inputs_are_standardised_by_the_training_rows(plain):
    model = model_of(plain)
    rows = plain.rows.plain.take(np.arange(len(plain.rows.plain)), 0)
    features = model.trunk.standardise(rows["features"])
    assert features.mean((0, 2, 3)).abs().max() < 1e-4
    assert (features.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_passes_cost_cross_entropy_without_weights_unless_asked():
    losses = []
    for weigh in (False, True):
        task = made(loss={"class_weights": "inverse", "criterion": "tree_smoothing", "weigh_passes": weigh})
        losses.append(task.summarize("val", {"table": table(task, model_of(task).eval(), 150)}).metrics["fine/loss"])
    bare = made()
    expected = bare.summarize("val", {"table": table(bare, model_of(bare).eval(), 150)}).metrics["fine/loss"]
    assert losses[0] == pytest.approx(expected)
    assert losses[1] != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("model", [{"trunk": "cnn", "depth": 2}, {"heads": "sibling"}, {"validity": False}])
def test_other_models_train(model):
    task = made(model=model)
    net = model_of(task)
    loss = task.loss(net, task.train_data().take(np.arange(16), 0))
    sum(loss.terms.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


def test_a_subset_of_classes_is_reported_and_an_unknown_class_refused():
    task = made(data={"layout": "t1", "subsets": {"some": ["fine00", "fine04"]}})
    assert "subset_some" in task.metrics
    with pytest.raises(SettingsError, match=r"data\.subsets\.some names 'toad'"):
        made(data={"layout": "t1", "subsets": {"some": ["toad"]}})


def test_the_tree_lies_beside_the_weights(plain):
    assert b'"ancestors"' in plain.files["tree.json"]


def test_sets_of_blocks_whose_passes_would_have_one_name_are_refused(tmp_path):
    rows = [f"f{i % 2},{i},{i},{i},{i},r{i % 8}" for i in range(32)]
    (tmp_path / "rows.csv").write_text("\n".join(["fine,x,p,q,s,who", *rows]))

    def data(*blocks):
        columns = {name: [column] for name, column in zip(blocks, "pqs", strict=True)}
        path = str(tmp_path / "rows.csv")
        return {"path": path, "levels": ["fine"], "features": ["x"], "group": "who", "blocks": columns}

    made(data=data("a", "b", "c"), mask={"passes": ["subsets"]})
    with pytest.raises(SettingsError, match=r"a\+b and a_b would both be val_mask_a_b; rename a block"):
        made(data=data("a", "b", "a_b"), mask={"passes": ["a+b", "a_b"]})
