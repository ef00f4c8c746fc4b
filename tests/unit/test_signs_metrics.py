"""Metrics of a pass: equal for any batches, right by hand, with the class axis fixed."""

import json

import numpy as np
import pytest
import torch

from tests.pass_sums import added
from trainer.tasks.signs import metrics

LABEL = np.array([0, 0, 1, 1, 2, 2, 2, 0])
KNOWN = metrics.Known(
    label=LABEL,
    signer=np.array([0, 1, 0, 1, 0, 1, 0, 1]),
    length=np.arange(8) * 10 + 5,
    names=[f"clip{i}" for i in range(8)],
    signers=["01", "02", "03"],
    classes=[[i + 1, f"word{i}", "كلمة"] for i in range(4)],
)


def table(sizes, logits, present, size=10):
    parts, start = [], 0
    for num in sizes:
        part = slice(start, start + num)
        index = torch.arange(8)[part]
        batch = {"label": torch.from_numpy(LABEL)[part], "index": index, "present": present[part]}
        parts.append({"table": metrics.batch_rows(logits[part], batch, (2, 3), size)})
        start += num
    return added(parts)["table"]


def example():
    torch.manual_seed(0)
    logits = torch.randn(8, 4)
    present = torch.ones(8, 5, 4, dtype=torch.bool)
    present[1, :, 2:] = False
    present[2, 0] = False  # an empty frame does not count
    present[3, :3, 3] = False
    return logits, present


def test_sums_do_not_hang_on_the_batches():
    logits, present = example()
    whole = table([8], logits, present)
    for sizes in ([1] * 8, [3, 5], [7, 1]):
        assert torch.equal(table(sizes, logits, present), whole)


def test_numbers_are_those_worked_out_by_hand():
    logits, present = example()
    values, detail = metrics.summarize_table(table([8], logits, present), KNOWN)
    label = torch.from_numpy(LABEL)
    guess = logits.argmax(1)
    assert values["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, label).item(), rel=1e-6)
    assert values["top1"] == pytest.approx((guess == label).float().mean().item())
    assert values["top5"] == 1.0  # four classes
    odd = KNOWN.signer == 1
    assert values["top1_signer_02"] == pytest.approx((guess == label).numpy()[odd].mean())
    assert values["top1_signer_03"] is None
    assert sum(count for *_, count in detail["confusion"]) == 8
    for true, predicted, count in detail["confusion"]:
        assert count == ((true == LABEL) & (guess.numpy() == predicted)).sum()
    assert (
        detail["worst"][0][0]
        == f"clip{int(torch.nn.functional.cross_entropy(logits, label, reduction='none').argmax())}"
    )
    json.dumps([values, detail], allow_nan=False)


def test_macro_f1_is_the_mean_over_classes_that_occur():
    confusion = metrics.confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 3]), 4)
    assert metrics.macro_f1(confusion) == pytest.approx(((2 * 1 / 3) + (2 * 1 / 4)) / 2)
    assert metrics.macro_f1(np.zeros((4, 4), np.int64)) is None


def test_missing_share_counts_hands_in_frames_that_hold_anything():
    _, present = example()
    share = metrics.missing_share(present, (2, 3))
    assert share.tolist() == pytest.approx([0, 1, 0, 0.3, 0, 0, 0, 0])


def test_a_confident_liar_has_a_calibration_error():
    rows, error = metrics.reliability(np.array([0.99, 0.98, 0.5, 0.52]), np.array([0.0, 0.0, 1.0, 0.0]))
    assert error == pytest.approx((2 * 0.985 + 2 * abs(0.51 - 0.5)) / 4)
    assert [row[2] for row in rows] == [2, 2]
    assert metrics.reliability(np.array([1.0]), np.array([1.0]))[0][0][1] == 1.0


def test_ranges_hold_every_recording_once():
    right = np.array([1.0, 0, 1, 0, 1, 1, 0, 1])
    for values in (np.arange(8.0), np.zeros(8), np.array([1.0, 1, 1, 1, 1, 1, 1, 9])):
        rows = metrics.by_range(values, right)
        assert sum(row[2] for row in rows) == 8
        assert sum(row[2] * row[3] for row in rows) == pytest.approx(5)
    rows = metrics.by_range(np.array([0.0, 0.0, 0.2, 1.0]), right[:4], np.array([0, 1e-9, 0.5, 1.0]))
    assert [row[2] for row in rows] == [2, 1, 1]


def test_an_empty_pass_has_no_numbers():
    empty = metrics.Known(LABEL[:0], LABEL[:0], LABEL[:0], [], ["01"], KNOWN.classes)
    values, detail = metrics.summarize_table(torch.zeros(3, len(metrics.COLUMNS), dtype=torch.float64), empty)
    assert set(values.values()) == {None}
    assert detail["confusion"] == []
    assert values.keys() == metrics.metric_names(["01"]).keys()
