"""Check 3 of translation.md 16: known answers of the smoothed loss."""

import math

import pytest
import torch

from trainer.tasks.translation.loss import token_sums

LOGITS = torch.tensor([[[0.0, 1.0, 2.0, 0.5, -1.0]]])
LABEL = torch.tensor([[2]])


@pytest.mark.parametrize(
    ("mass", "smoothed"), [("all", 0.724438), ("others", 0.761938), ("others_without_pad", 0.757771)]
)
def test_check_3_known_answers(mass, smoothed):
    found = token_sums(LOGITS, LABEL, smoothing=0.1, mass=mass)
    assert found.smoothed.item() == pytest.approx(smoothed, abs=1e-6)
    assert found.nll.item() == pytest.approx(0.574438, abs=1e-6)
    assert (found.correct.item(), found.tokens.item()) == (1, 1)


@pytest.mark.parametrize("mass", ["all", "others", "others_without_pad"])
def test_every_convention_against_its_distribution(mass):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 7, 11, dtype=torch.float64), torch.randint(0, 11, (4, 7))
    num_others = {"all": 11, "others": 10, "others_without_pad": 9}[mass]
    target = torch.full((4, 7, 11), 0.1 / num_others, dtype=torch.float64)
    if mass == "others_without_pad":
        target[..., 0] = 0.0
    own = torch.nn.functional.one_hot(labels, 11).bool()
    target[own] = 0.9 + (0.1 / 11 if mass == "all" else 0.0)
    expected = -(target * logits.log_softmax(-1)).sum(-1)[labels != 0].sum()
    assert token_sums(logits, labels, smoothing=0.1, mass=mass).smoothed.item() == pytest.approx(expected.item())


def test_the_first_convention_is_that_of_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 9, requires_grad=True), torch.randint(0, 9, (3, 5))
    theirs = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=0, reduction="sum", label_smoothing=0.1
    )
    ours = token_sums(logits, labels, smoothing=0.1).smoothed
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert torch.allclose(*(torch.autograd.grad(one, logits)[0] for one in (ours, theirs)), atol=1e-6)


def test_check_3_a_batch_of_padding_counts_nothing():
    logits = torch.full((2, 3, 5), 1e30, requires_grad=True)
    found = token_sums(logits, torch.zeros(2, 3, dtype=torch.int64), smoothing=0.1)
    found.smoothed.backward()
    assert [one.item() for one in (found.smoothed, found.nll, found.correct, found.tokens)] == [0.0, 0.0, 0, 0]
    assert not logits.grad.any()


@pytest.mark.parametrize(("size", "floor"), [(32_000, 1.3624), (10_000, 1.2460), (64, 0.7295), (32, 0.6508)])
def test_check_3_floor_of_the_ideal_distribution(size, floor):
    ideal = torch.full((1, 1, size), math.log(0.1 / size))
    ideal[0, 0, 5] = math.log(0.9 + 0.1 / size)
    found = token_sums(ideal, torch.tensor([[5]]), smoothing=0.1)
    assert found.smoothed.item() == pytest.approx(floor, abs=1e-4)
    nearby = token_sums(ideal + 0.01 * torch.randn(1, 1, size), torch.tensor([[5]]), smoothing=0.1)
    assert nearby.smoothed > found.smoothed


def test_targets_that_nobody_shifted_are_refused():
    with pytest.raises(AssertionError, match="the collator shifts"):
        token_sums(torch.zeros(2, 5, 9), torch.zeros(2, 6, dtype=torch.int64))


def test_half_precision_is_summed_in_single():
    logits = torch.randn(50, 200, 64).bfloat16()
    found = token_sums(logits, torch.randint(1, 64, (50, 200)))
    assert found.nll.dtype == torch.float32
