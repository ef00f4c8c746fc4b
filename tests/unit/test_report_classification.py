"""Numbers of a classification against scikit-learn, and the files made of them."""

import csv
import io

import numpy as np
import pytest

from trainer.report.build import classification_files
from trainer.report.diagnostics import CSV_HEAD, classification_csv
from trainer.tasks.classification import (
    calibration_error,
    class_list,
    confused_classes,
    confused_pairs,
    from_cells,
    scores,
)
from trainer.tasks.page import Class, Classification

ABSENT = 4
NUM_CLASSES = 7


@pytest.fixture
def labels():
    generator = np.random.default_rng(0)
    true = generator.choice([c for c in range(NUM_CLASSES) if c != ABSENT], size=200)
    predicted = np.where(generator.random(200) < 0.6, true, generator.integers(0, NUM_CLASSES - 1, 200))
    return true, predicted


@pytest.fixture
def classification(labels):
    confusion = from_cells([[int(t), int(p), 1] for t, p in zip(*labels, strict=True)], NUM_CLASSES)
    return Classification(confusion, [Class(i + 11, f"name {i}", "صفر") for i in range(NUM_CLASSES)])


def rows_of(classification):
    return list(csv.DictReader(io.StringIO(classification_csv(classification).decode())))


def test_csv_agrees_with_scikit_learn(labels, classification):
    from sklearn.metrics import classification_report  # a second, for this test alone

    truth = classification_report(*labels, labels=range(NUM_CLASSES), output_dict=True, zero_division=0)
    rows = {row["class"]: row for row in rows_of(classification)}
    assert set(rows) == {*map(str, range(NUM_CLASSES)), "accuracy", "macro avg", "weighted avg"}
    accuracy = float(np.mean(labels[0] == labels[1]))
    assert float(rows["accuracy"]["f1-score"]) == pytest.approx(accuracy, abs=1e-6)
    for name in [*map(str, range(NUM_CLASSES)), "macro avg", "weighted avg"]:
        for measure in ("precision", "recall", "f1-score", "support"):
            assert float(rows[name][measure]) == pytest.approx(truth[name][measure], abs=1e-6)


def test_absent_class_keeps_its_row_and_its_name(classification):
    row = rows_of(classification)[ABSENT]
    assert [row[name] for name in CSV_HEAD] == ["4", "15", "name 4", "صفر", "0.000000", "0.000000", "0.000000", "0"]


def test_no_sample_at_all_scores_zero():
    result = scores(np.zeros((3, 3), dtype=np.int64))
    assert result.accuracy == 0.0
    assert result.f1_c.tolist() == [0.0, 0.0, 0.0]


def test_pairs_are_sorted_by_count_and_leave_the_diagonal_out():
    confusion = from_cells([[0, 0, 90], [2, 1, 3], [0, 2, 5], [1, 0, 3]], 3)
    assert confused_pairs(confusion, 2) == [(0, 2, 5), (1, 0, 3)]
    assert confused_classes(confusion, 2) == [0, 2]


def test_cells_that_occur_twice_are_added():
    assert from_cells([[0, 1, 2], [0, 1, 3]], 2).tolist() == [[0, 5], [0, 0]]


def test_calibration_error_weighs_bins_by_their_samples():
    bins = [[0.0, 0.5, 30, 0.4, 0.5], [0.5, 0.9, 0, 0.0, 0.0], [0.9, 1.0, 10, 0.95, 0.75]]
    assert calibration_error(bins) == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)
    assert calibration_error([[0.0, 1.0, 0, 0.0, 0.0]]) is None


def test_names_come_from_the_pass_else_from_the_run():
    info = {"classes": [{"word": 3, "name": "three", "native": ""}]}
    assert class_list(info, {}) == [Class(3, "three", "")]
    assert class_list(info, {"classes": [[4, "four", "أربعة"]]}) == [Class(4, "four", "أربعة")]


def test_files_beside_the_page_have_their_names_and_size(classification):
    files = classification_files(classification, "run")
    assert list(files) == ["run-Model_Diagnostics.jpg", "classification_report.csv"]
    from PIL import Image

    with Image.open(io.BytesIO(files["run-Model_Diagnostics.jpg"])) as image:
        assert image.size == (3000, 1800)
        assert np.asarray(image.convert("L")).std() > 10, "the picture is blank"
