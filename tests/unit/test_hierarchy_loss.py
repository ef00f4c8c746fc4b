"""Heads, criteria, class weights and loss of the task hierarchy; checks 16 and 19 of its reference."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from tests.hierarchy_trees import DEEP, UNKNOWN, tree
from trainer.config.hierarchy import HierarchyLoss
from trainer.errors import DataError, SettingsError
from trainer.tasks.hierarchy.criteria import (
    build_criteria,
    class_weights,
    computed_weights,
    cross_entropy,
    label_smoothing,
)
from trainer.tasks.hierarchy.heads import FlatHeads, SiblingHeads, build_heads, log_probabilities
from trainer.tasks.hierarchy.loss import Targets, level_loss, level_sums, right_sums


def log_p(*shapes, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(shape).log_softmax(1).requires_grad_() for shape in shapes]


def test_16_loss_of_one_known_row_is_that_of_the_row_alone():
    [own] = log_p((4, 3))
    labels = torch.tensor([[-1], [2], [-1], [-1]])
    (total,) = level_sums([own], Targets(labels), [cross_entropy], [None])
    (alone,) = level_sums([own[1:2]], Targets(labels[1:2]), [cross_entropy], [None])
    assert abs(total.item() - alone.item()) <= 1e-7
    as_class_0 = level_sums([own], Targets(labels.clamp(min=0)), [cross_entropy], [None])[0]
    assert abs(as_class_0.item() / 4 - alone.item()) > 0.01  # what unknown as class 0 would make of it


@pytest.mark.parametrize("kind", ["cross_entropy", "label_smoothing", "tree_smoothing"])
@pytest.mark.parametrize("heads", ["flat", "sibling"])
def test_16_level_unknown_in_the_batch_adds_exactly_0_and_its_head_has_gradient_exactly_0(kind, heads):
    torch.manual_seed(0)
    made = build_heads(heads, 5, DEEP)
    labels = torch.tensor([[-1, 2, 1], [-1, 0, 0]])
    criteria = build_criteria(HierarchyLoss(criterion=kind), DEEP)
    terms = level_sums(log_probabilities(heads, made(torch.randn(2, 5))), Targets(labels), criteria, [None] * 3)
    assert terms[0].item() == 0.0
    sum(terms).backward()
    gradients = [[parameter.grad for parameter in head.parameters()] for head in made.levels]
    assert all(torch.count_nonzero(gradient) == 0 for gradient in gradients[0])
    assert all(torch.count_nonzero(gradient) > 0 for own in gradients[1:] for gradient in own)


def test_16_class_0_is_trained():
    [own] = log_p((2, 3))
    (total,) = level_sums([own], Targets(torch.tensor([[0], [0]])), [cross_entropy], [None])
    total.backward()
    assert own.grad[:, 0].tolist() == [-1.0, -1.0]


def test_16_class_weight_2_doubles_the_loss_once():
    settings = HierarchyLoss(class_weights="explicit", weights={"fine": {"fine1": 2.0}})
    weights = class_weights(settings, tree(), np.zeros((0, 2), np.int64))
    own, coarse = log_p((3, 4), (3, 2))
    labels = torch.tensor([[1, 0], [1, 0], [1, -1]])
    plain = level_sums([own, coarse], Targets(labels), [cross_entropy] * 2, [None] * 2)
    heavy = level_sums([own, coarse], Targets(labels), [cross_entropy] * 2, weights)
    assert [a.item() / b.item() for a, b in zip(heavy, plain, strict=True)] == pytest.approx([2.0, 1.0], abs=1e-6)
    four_times = [weights[0] ** 4, None]  # linnaeus: once in the criterion and in three further places
    too_heavy, _ = level_sums([own, coarse], Targets(labels), [cross_entropy] * 2, four_times)
    assert (too_heavy / plain[0]).item() == pytest.approx(16.0)


def test_loss_of_a_mixed_row_is_that_of_both_labels_and_needs_both():
    [own] = log_p((3, 4))
    labels, partners = torch.tensor([[1], [2], [3]]), torch.tensor([[0], [-1], [3]])
    lam = torch.tensor([0.25, 0.5, 1.0])
    weights = torch.tensor([1.0, 3.0, 1.0, 1.0])
    each = level_loss(own, Targets(labels, partners, lam), 0, cross_entropy, weights)
    expected = [-0.25 * 3 * own[0, 1].item() - 0.75 * own[0, 0].item(), 0.0, -own[2, 3].item()]
    assert each.tolist() == pytest.approx(expected)
    targets = torch.tensor([[0.75, 0.25, 0.0, 0.0]])
    unweighted = level_loss(own, Targets(labels, partners, lam), 0, cross_entropy)
    assert unweighted[0].item() == pytest.approx(torch_cross_entropy(own[:1], targets).item())


def test_right_answers_of_mixed_rows_are_the_shares_of_the_labels_met():
    own = torch.tensor([[0.0, 5.0], [0.0, 5.0], [5.0, 0.0]])
    targets = Targets(torch.tensor([[1], [0], [-1]]), torch.tensor([[0], [1], [0]]), torch.tensor([0.7, 0.6, 0.5]))
    assert right_sums([own], targets)[0].item() == pytest.approx(0.7 + 0.4)


def test_label_smoothing_spreads_epsilon_over_the_others():
    [own] = log_p((1, 4))
    row = torch.tensor([0.1 / 3, 0.9, 0.1 / 3, 0.1 / 3])
    assert label_smoothing(0.1)(own, torch.tensor([1])).item() == pytest.approx(-(row * own[0]).sum().item())
    assert label_smoothing(0.1)(torch.zeros(1, 1), torch.tensor([0])).item() == 0.0


def test_tree_smoothing_with_alpha_0_is_cross_entropy_and_with_beta_0_label_smoothing():
    one_tree = tree(((0, 0, 1, 1), (0, 0)), ("fine", "mid", "coarse"))
    own, labels = log_p((4, 4))[0], torch.arange(4)
    plain, even = (
        build_criteria(HierarchyLoss(criterion="tree_smoothing", **values), one_tree)[0](own, labels)
        for values in ({"tree_alpha": 0.0}, {"tree_beta": 0.0})
    )
    assert torch.allclose(plain, cross_entropy(own, labels))
    assert torch.allclose(even, label_smoothing(0.1)(own, labels))


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("inverse", [100 / 90.1, 100 / 8.1, 100 / 2.1]),
        ("capped", [100 / 90, 100 / 8, 20.0]),
        ("exponential", [2 ** (100 / 90), 2 ** (100 / 8), 2.0**50]),
        ("log", [1 / (1 + np.log10(9 * n / 100 + 1)) for n in (90, 8, 2)]),
    ],
)
def test_class_weights_follow_their_formula_with_mean_1(kind, raw):
    found = computed_weights(kind, np.array([90, 0, 8, 2]))
    assert found[[0, 2, 3]] == pytest.approx(np.array(raw) / np.mean(raw))
    assert found[1] == 1.0  # no row ever meets it


def test_exponential_weights_of_a_very_rare_class_stay_finite():
    assert np.isfinite(computed_weights("exponential", np.array([100_000, 1]))).all()


def test_weight_of_an_unknown_class_is_refused():
    settings = HierarchyLoss(class_weights="explicit", weights={"fine": {"toad": 2.0}})
    with pytest.raises(SettingsError, match=r"loss\.weights\.fine names the class 'toad'"):
        class_weights(settings, tree(), np.zeros((0, 2), np.int64))


def sibling(parents=((0, 0, 1, 1),), levels=("fine", "coarse"), width=3):
    return SiblingHeads(width, tree(parents, levels))


def test_19_sibling_head_gives_the_worked_case():
    heads = sibling()
    with torch.no_grad():
        for head, bias in zip(heads.levels, ([2.0, 0.0, 0.0, 0.0], [np.log(0.8), np.log(0.2)]), strict=True):
            head.weight.zero_()
            head.bias.copy_(torch.tensor(bias))
    fine, coarse = heads(torch.zeros(1, 3))
    assert coarse.exp()[0].tolist() == pytest.approx([0.8, 0.2], abs=1e-6)
    assert fine.exp()[0].tolist() == pytest.approx([0.7046, 0.0954, 0.1, 0.1], abs=5e-5)


def test_19_children_sum_to_their_parent_on_1000_random_inputs():
    torch.manual_seed(1)
    # Children of a class need not stand next to each other, and families differ in size.
    ragged = tree(((3, 0, 1, 0, 2, 0, 3, 1), (1, 0, 0, 1)), ("fine", "mid", "coarse"))
    heads = SiblingHeads(6, ragged)
    with torch.no_grad():
        found = [level.exp() for level in heads(4 * torch.randn(1000, 6))]
    differences = []
    for level, parents in enumerate(ragged.parents):
        sums = torch.zeros_like(found[level + 1]).index_add(1, torch.from_numpy(parents), found[level])
        differences.append((sums - found[level + 1]).abs().max().item())
    assert max(differences) <= 1e-6
    assert (found[-1].sum(1) - 1).abs().max().item() <= 1e-6


def test_19_sibling_head_differs_from_flat():
    heads = sibling()
    flat = FlatHeads(3, [4, 2])
    flat.load_state_dict(heads.state_dict())
    hidden = torch.randn(5, 3)
    ours, theirs = heads(hidden), log_probabilities("flat", flat(hidden))
    assert not torch.allclose(ours[0], theirs[0], atol=1e-3)
    assert torch.allclose(ours[1], theirs[1])
    sums = theirs[0].exp().reshape(5, 2, 2).sum(2)
    assert (sums - theirs[1].exp()).abs().max() > 1e-3  # the flat head fails the check above


def test_sibling_heads_have_a_gradient_without_nan():
    heads = sibling(((0, 0, 0, 1),))
    sum(level.gather(1, torch.zeros(2, 1, dtype=torch.int64)).sum() for level in heads(torch.randn(2, 3))).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in heads.parameters())


def test_sibling_heads_refuse_a_class_without_a_parent():
    orphan = tree()
    orphan.ancestors[0][2, 1] = UNKNOWN
    with pytest.raises(DataError, match="the class fine2 of fine has no parent"):
        SiblingHeads(3, orphan)
