"""Check 18: the label tree, its conflicts, filling, distances, and targets that follow from them."""

import json
import time

import numpy as np
import pytest

from tests.hierarchy_rows import tree_of
from trainer.errors import DataError
from trainer.tasks.hierarchy.toys import NUM_TRAIN, toy
from trainer.tasks.hierarchy.tree import UNKNOWN, Tree
from trainer.tasks.hierarchy.tree_build import Builder

PATHS = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]])
"""Four leaves: two siblings, a cousin, and one of another tree."""


def test_18_a_conflict_names_class_both_parents_and_up_to_three_rows_each() -> None:
    labels = np.array([[0, 0, 0]] * 4 + [[0, 1, 0]] * 2)
    with pytest.raises(DataError) as error:
        tree_of(labels)
    text = str(error.value)
    assert "fine 'f0' has two parents of level mid" in text
    assert "'m0' in line 2, line 3, line 4;" in text
    assert "'m1' in line 6, line 7;" in text
    assert "\n" not in text


def test_18_rows_of_any_two_levels_are_evidence() -> None:
    """Nobody says mid -> coarse in one row; fine -> mid and fine -> coarse together do."""
    tree = tree_of(np.array([[0, 0, -1], [0, -1, 0], [1, 0, -1]]))
    assert tree.parents[1].tolist() == [0]
    assert tree.ancestors[0][1].tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="mid 'm0' has two parents of level coarse"):
        tree_of(np.array([[0, 0, -1], [0, -1, 0], [1, 0, -1], [1, -1, 1]]))


def test_18_the_majority_decides_where_it_may_and_is_counted() -> None:
    labels = np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0]])
    builder = Builder(["fine", "mid", "coarse"], [["a", "b"], ["m", "n"], ["c"]], labels, str, "majority")
    assert builder.build().parents[0].tolist() == [0, 1]
    assert builder.num_resolved == 1
    last_pair_wins = dict(labels[[1, 2, 0], :2].tolist())  # linnaeus: what was read last
    assert last_pair_wins[0] == 1


@pytest.mark.parametrize(("name", "num_gaps"), [("t1", 18), ("t2", 14)])
def test_18_filling_removes_exactly_the_gaps(name: str, num_gaps: int) -> None:
    source = toy(name, 0)
    labels = source.table.labels[:NUM_TRAIN]
    tree = Builder(["fine", "mid", "coarse"], source.names, labels, str).build()
    gaps = (labels[:, 0] != UNKNOWN) & (labels[:, 1] == UNKNOWN)
    filled = tree.fill(labels)
    assert gaps.sum() == num_gaps
    changed = (filled != labels).any(1)
    unknown_above = (labels[:, 0] == UNKNOWN) & (labels[:, 1] != UNKNOWN) & (labels[:, 2] == UNKNOWN)
    assert (changed == (gaps | unknown_above)).all()
    assert not (filled[:, 0] != labels[:, 0]).any(), "unknown at the finest level stays unknown"
    assert (filled[gaps, 1] == labels[gaps, 0] // 3).all()


def test_18_distances_go_by_the_nearest_common_ancestor() -> None:
    tree = tree_of(PATHS)
    expected = [[0, 2, 4, np.inf], [2, 0, 4, np.inf], [4, 4, 0, np.inf], [np.inf, np.inf, np.inf, 0]]
    assert tree.distances(0).tolist() == expected
    pairs = np.array([(a, b) for a in range(4) for b in range(4)]).T
    assert tree.pair_distances(0, *pairs).reshape(4, 4).tolist() == expected
    assert tree.distance((0, 0), (1, 1)) == 3.0
    assert tree.distance((0, 0), (1, 0)) == 1.0
    assert tree.distance((2, 0), (2, 1)) == float("inf")


def test_18_the_smoothing_row_is_the_known_one() -> None:
    tree = tree_of(np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0]]))
    row = tree.smoothed(0, 0.1, 1.0)[0]
    np.testing.assert_allclose(row, [0.9, 0.078699, 0.010651, 0.010651], atol=1e-6)
    np.testing.assert_array_equal(tree.smoothed(0, 0.0, 1.0), np.eye(4))
    np.testing.assert_allclose(tree.smoothed(0, 0.1, 0.0)[0], [0.9, *[0.1 / 3] * 3], atol=1e-6)


def test_a_class_that_reaches_no_other_one_smooths_evenly() -> None:
    rows = tree_of(PATHS).smoothed(0, 0.3, 1.0)
    np.testing.assert_allclose(rows[3], [0.1, 0.1, 0.1, 0.7], atol=1e-6)
    assert rows[0, 3] == 0.0
    np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-6)
    assert tree_of(np.zeros((1, 3), np.int64)).smoothed(0, 0.3, 1.0).tolist() == [[1.0]]


def test_queries_agree_with_the_paths() -> None:
    tree = tree_of(PATHS)
    assert tree.roots == [(2, 0), (2, 1)]
    assert tree.leaves == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert tree.parent(0, 2) == (1, 1)
    assert tree.parent(2, 0) is None
    assert tree.children(2, 0) == [(1, 0), (1, 1)]
    assert tree.descendants(2, 0, 0) == [0, 1, 2]


def test_a_class_without_the_level_between_hangs_on_the_one_above() -> None:
    tree = tree_of(np.array([[0, -1, 0], [1, 0, 0]]))
    assert tree.parent(0, 0) == (2, 0)
    assert tree.children(2, 0) == [(1, 0), (0, 0)]
    assert tree.distance((0, 0), (0, 1)) == 4.0


def test_contradictions_are_found_at_any_two_levels() -> None:
    tree = tree_of(PATHS)
    rows = np.array([[0, 0, 0], [0, 1, 0], [0, -1, 1], [-1, 2, 0], [-1, -1, 1], [3, 2, -1]])
    assert tree.contradictions(rows).tolist() == [False, True, True, True, False, False]


def test_a_tree_comes_back_from_json_with_the_same_digest() -> None:
    tree = tree_of(PATHS)
    back = Tree.from_json(json.loads(json.dumps(tree.to_json())))
    assert back.digest == tree.digest
    assert back.distances(0).tolist() == tree.distances(0).tolist()
    other = tree_of(np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0]]))
    assert other.digest != tree.digest


def test_ten_thousand_classes_take_seconds() -> None:
    fine = np.arange(10_000)
    started = time.process_time()
    tree = tree_of(np.stack([fine, fine // 10, fine // 100], 1))
    assert tree.distances(0)[0, [0, 1, 11, 9999]].tolist() == [0, 2, 4, np.inf]
    assert time.process_time() - started < 10
