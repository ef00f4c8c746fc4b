"""Decoding and metrics of the task hierarchy; check 17 of its reference."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.hierarchy_trees import DEEP, tree
from tests.pass_sums import added
from trainer.config.hierarchy import HierarchyDecode
from trainer.tasks.hierarchy import metrics
from trainer.tasks.hierarchy.criteria import cross_entropy
from trainer.tasks.hierarchy.decode import decode

TWO = tree()


def logs(*rows):
    return [torch.tensor(level).log() for level in rows]


def test_independent_answers_need_not_fit_and_path_answers_do():
    # Fine says class 0 (parent 0) by a little, coarse says class 1 by a lot.
    given = logs([[0.4, 0.1, 0.35, 0.15]], [[0.1, 0.9]])
    assert decode(given, TWO, HierarchyDecode(rule="independent")).tolist() == [[0, 1]]
    assert decode(given, TWO, HierarchyDecode(rule="path")).tolist() == [[2, 1]]


def test_path_is_the_best_of_all_paths():
    torch.manual_seed(0)
    given = [torch.randn(50, size).log_softmax(1) for size in DEEP.num_classes]
    found = decode(given, DEEP, HierarchyDecode(rule="path"))
    for row, path in enumerate(found.tolist()):
        scores = {
            fine: sum(given[level][row, cls].item() for level, cls in enumerate(DEEP.ancestors[0][fine]))
            for fine in range(DEEP.num_classes[0])
        }
        best = max(scores, key=scores.__getitem__)
        assert path == DEEP.ancestors[0][best].tolist()


def test_stop_goes_down_among_children_until_it_is_unsure():
    rule = HierarchyDecode(rule="stop", threshold=0.5)
    given = logs(
        [[0.2, 0.1, 0.6, 0.1], [0.6, 0.1, 0.1, 0.2], [0.7, 0.1, 0.1, 0.1], [0.3, 0.2, 0.3, 0.2]],
        [[0.1, 0.9], [0.1, 0.9], [0.51, 0.49], [0.5, 0.5]],
    )
    assert decode(given, TWO, rule).tolist() == [[2, 1], [-1, 1], [0, 0], [-1, 0]]
    given[1][:] = torch.tensor([0.45, 0.45]).log()
    assert decode(given, TWO, rule).tolist() == [[-1, -1]] * 4


def test_a_tree_without_a_complete_path_is_answered_level_by_level():
    broken = tree()
    broken.ancestors[0][:, 1] = -1
    given = logs([[0.4, 0.1, 0.35, 0.15]], [[0.1, 0.9]])
    assert decode(given, broken, HierarchyDecode(rule="path")).tolist() == [[0, 1]]


def known(labels, tree=TWO, **values):
    usual = {
        "names": [f"row {n}" for n in range(len(labels))],
        "blocks": ["SITE"],
        "frequencies": [np.arange(1, size + 1) for size in tree.num_classes],
    }
    return metrics.Known(labels=np.array(labels), tree=tree, **(usual | values))


def table_of(log_p, labels, tree=TWO, batch_size=None, rule="path"):
    """The table of a pass over these rows, in batches."""
    size = batch_size or len(labels)
    parts = []
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        index = torch.arange(len(labels))[part]
        batch = {"labels": torch.tensor(labels)[part], "valid": torch.ones(len(index), 1).bool(), "index": index}
        criteria = [(cross_entropy, None)] * len(log_p)
        own = [level[part] for level in log_p]
        parts.append({"table": metrics.batch_rows(own, batch, tree, HierarchyDecode(rule=rule), criteria, len(labels))})
    return added(parts)["table"]


def test_17_known_chain_of_the_example_is_2_of_2():
    given = logs([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]], [[0.9, 0.1]] * 3)
    labels = [[0, 0], [-1, 0], [-1, -1]]
    found, _ = metrics.summarize_table(table_of(given, labels), known(labels))
    assert found["known_chain"] == 1.0
    assert found["chain"] == 1.0  # of the one row with all levels known
    answers, truth = np.array([[0, 0], [1, 0], [2, 0]]), np.array(labels)
    assert (answers == truth).all(1).mean() != 1.0, "unknown as wrong"
    assert ((answers == truth) | (truth < 0)).all(1).sum() == 3, "rows that know nothing as members"
    wrong_where_known, _ = metrics.summarize_table(
        table_of(given, [[0, 0], [-1, 1], [-1, -1]]), known([[0, 0], [-1, 1], [-1, -1]])
    )
    assert wrong_where_known["known_chain"] == 0.5


def random_pass(seed=0, size=150):
    torch.manual_seed(seed)
    given = [torch.randn(size, number).log_softmax(1) for number in DEEP.num_classes]
    fine = torch.randint(0, DEEP.num_classes[0], (size,)).numpy()
    labels = DEEP.ancestors[0][fine].copy()
    labels[::3, 0] = -1
    labels[::9, 1] = -1
    labels[::27, 2] = -1
    return given, labels.tolist()


def test_17_all_metrics_are_identical_for_any_batch_size():
    given, labels = random_pass()
    found = [
        metrics.summarize_table(
            table_of(given, labels, DEEP, size), known(labels, DEEP, subsets={"few": np.array([1])})
        )
        for size in (1, 7, 32, 150)
    ]
    assert found[0] == found[1] == found[2] == found[3]


def test_metrics_of_a_level_are_what_they_say():
    given, labels = random_pass()
    found, detail = metrics.summarize_table(table_of(given, labels, DEEP), known(labels, DEEP))
    assert set(found) == set(metrics.metric_names(DEEP, ["SITE"], []))
    mid = np.array(labels)[:, 1]
    rows = mid >= 0
    answers = given[1].argmax(1).numpy()
    assert found["mid/top1"] == pytest.approx((answers == mid)[rows].mean())
    best3 = given[1].topk(3, 1).indices.numpy()
    assert found["mid/top3"] == pytest.approx((best3 == mid[:, None]).any(1)[rows].mean())
    recalls = [(answers == mid)[mid == c].mean() for c in range(4)]
    assert found["mid/balanced"] == pytest.approx(np.mean(recalls))
    loss = -given[1][torch.arange(150), torch.tensor(mid).clamp(min=0)].numpy()
    assert found["mid/loss"] == pytest.approx(loss[rows].mean(), rel=1e-5)
    assert found["loss"] == pytest.approx(sum(found[f"{level}/loss"] for level in DEEP.levels))
    steps = np.array([DEEP.distance((1, a), (1, b)) for a, b in zip(answers[rows], mid[rows], strict=True)])
    steps[~np.isfinite(steps)] = 4  # as if a root joined the trees: mid, coarse, root and back
    assert found["mid/distance"] == pytest.approx(steps.mean())
    assert found["mid/error_distance"] == pytest.approx(steps[steps > 0].mean())
    parents = DEEP.parents[0][given[0].argmax(1)], DEEP.parents[1][answers]
    fits = np.concatenate([parents[0] == answers, parents[1] == given[2].argmax(1).numpy()])
    assert found["consistency"] == pytest.approx(fits.mean())
    assert sum(count for *_, count in detail["levels"]["mid"]["confusion"]) == rows.sum()


def test_decoded_answers_always_fit_each_other_with_path():
    given, labels = random_pass()
    levels, _ = metrics.read_table(table_of(given, labels, DEEP), known(labels, DEEP))
    decoded = [rows.decoded for rows in levels]
    assert all((DEEP.parents[level][decoded[level]] == decoded[level + 1]).all() for level in range(2))


def test_unknown_answers_after_stop_are_wrong_and_no_class():
    given, labels = random_pass()
    found, detail = metrics.summarize_table(table_of(given, labels, DEEP, rule="stop"), known(labels, DEEP))
    assert found["fine/decoded"] < found["fine/top1"]
    assert any(-1 in row["answers"] for row in detail["worst"])


def test_accuracy_by_rarity_covers_every_known_row_once():
    given, labels = random_pass()
    frequencies = [np.array([1, 1, 2, 3, 50, 60, 70, 500]), np.arange(1, 5), np.arange(1, 3)]
    _, detail = metrics.summarize_table(table_of(given, labels, DEEP), known(labels, DEEP, frequencies=frequencies))
    bins = detail["levels"]["fine"]["rarity"]
    assert sum(row[3] for row in bins) == (np.array(labels)[:, 0] >= 0).sum()
    assert sum(row[2] for row in bins) == 8
    assert (bins[0][0], bins[-1][1]) == (1, 500)
    assert all(low[1] < high[0] for low, high in pairwise(bins))


def test_named_sets_of_classes_have_an_accuracy_of_their_own():
    given, labels = random_pass()
    rows = known(labels, DEEP, subsets={"rare": np.array([1, 5])})
    found, _ = metrics.summarize_table(table_of(given, labels, DEEP), rows)
    fine, answers = np.array(labels)[:, 0], given[0].argmax(1).numpy()
    assert found["subset_rare"] == pytest.approx((answers == fine)[(fine == 1) | (fine == 5)].mean())


def test_a_level_that_nobody_knows_has_no_numbers_and_a_pass_without_labels_no_loss():
    given, labels = random_pass()
    nothing = np.array(labels)
    nothing[:, 0] = -1
    found, _ = metrics.summarize_table(table_of(given, nothing.tolist(), DEEP), known(nothing, DEEP))
    assert [found[name] for name in ("fine/top1", "fine/loss", "chain")] == [None] * 3
    assert found["loss"] == pytest.approx(found["mid/loss"] + found["coarse/loss"])
    nothing[:] = -1
    found, _ = metrics.summarize_table(table_of(given, nothing.tolist(), DEEP), known(nothing, DEEP))
    assert [found[name] for name in ("loss", "known_chain")] == [None] * 2
