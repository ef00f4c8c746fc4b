"""Weights of loss terms: the rules against their known answers, and what a measurement is and is not."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.toy import fork_ranks, train_toy, wait_for
from tests.toy_terms import CLASSES, TermsTask, terms_settings
from tests.unit.telemetry_samples import step_done
from trainer.checkpoint.stores import open_store
from trainer.config.settings import BalanceSettings
from trainer.engine.balance import KINDS, GradNorm, balance_moments, build_balance, rebalanced, weighted_sum
from trainer.engine.balance_measure import measure
from trainer.engine.clock import Clock
from trainer.engine.describe import run_started
from trainer.engine.meter import Means, means
from trainer.engine.setup import assemble, build_parts
from trainer.engine.step import Mailbox, backward, train_step
from trainer.engine.stop import StopRequests
from trainer.engine.world import World, join_world
from trainer.errors import SettingsError
from trainer.telemetry.bus import Bus
from trainer.telemetry.reading import read_run, select
from trainer.telemetry.scalars import scalars

ETAS = (0.2, 0.5, 1.0)
FIXED_POINTS = [
    ((4.0, 1.0), (1.0, 1.0), 0.0, (0.4, 1.6)),
    ((1.0, 1.0), (1.5, 0.5), 1.5, (1.6772, 0.3228)),
    ((4.0, 1.0), (1.5, 0.5), 1.5, (1.1301, 0.8699)),
]


def settle(norms, rates, alpha, eta, rounds=60):
    """Weights of two terms after rounds of the same measurement."""
    settings = BalanceSettings.model_construct(alpha=alpha, eta=eta, floor=0.0)
    weights = {"a": 1.0, "b": 1.0}
    for _ in range(rounds):
        named = (dict(zip("ab", values, strict=True)) for values in (norms, rates))
        weights = rebalanced(weights, *named, settings)
    return tuple(weights.values())


def balance(kind="gradnorm", terms=("a", "b", "c"), trunk=True, **settings):
    """A rule at its start for terms that every sample has."""

    class Named:
        def shared(self, model):
            return list(model.parameters())

    task = Named() if trunk else object()
    counts = terms if isinstance(terms, dict) else dict.fromkeys(terms, 10.0)
    chosen = BalanceSettings(kind=kind, **settings)
    return build_balance(chosen, task, nn.Linear(1, 1), counts, balance_moments(chosen, 100, 10))


def job_of(settings):
    """A job in this process, without a store."""
    world, task = join_world(settings), TermsTask(settings)
    parts = build_parts(task, settings, world)
    return assemble(task, settings, world, parts, Bus(), None, None, Clock(), StopRequests())


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("norms", "rates", "alpha", "weights"), FIXED_POINTS)
def test_20_balance_fixed_points(norms, rates, alpha, weights, eta):
    assert settle(norms, rates, alpha, eta) == pytest.approx(weights, abs=1e-3)


@pytest.mark.parametrize(("norms", "rates", "alpha", "weights"), FIXED_POINTS)
def test_20_an_update_of_the_opposite_sign_would_run_away(norms, rates, alpha, weights):
    assert settle(norms, rates, alpha, -0.5, rounds=6) != pytest.approx(weights, abs=0.1)


def test_gradnorm_keeps_sum_and_floor():
    rule = balance(floor=0.2, alpha=0.0, eta=1.0, momentum=0.0)
    for _ in range(5):
        rule.follow({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1000.0, "b": 1.0, "c": 2.0})
    assert sum(rule.weights.values()) == pytest.approx(3.0, rel=1e-12)
    assert rule.weights["a"] == pytest.approx(0.2, rel=0.1)
    assert rule.weights["b"] == pytest.approx(2 * rule.weights["c"])


def test_a_term_without_samples_keeps_its_weight_to_the_bit():
    rule = balance()
    rule.follow({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 1.0, "c": 2.0})
    before = dict(rule.weights)
    rule.follow({"a": 1.0, "c": 1.0}, {"a": 9.0, "c": 1.0})
    assert rule.weights["b"] == before["b"]
    assert rule.weights["a"] < before["a"]
    assert sum(rule.weights.values()) == pytest.approx(3.0, rel=1e-12)


def test_the_reference_is_the_first_measured_loss_of_each_term():
    rule = balance()
    rule.follow({"a": 4.0, "b": 2.0}, {"a": 1.0, "b": 1.0})
    rule.follow({"a": 1.0, "b": 1.0, "c": 7.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert rule.reference == {"a": 4.0, "b": 2.0, "c": 7.0}
    assert rule.losses["a"] == pytest.approx(0.9 * 4.0 + 0.1 * 1.0)


def test_a_change_of_scale_cancels_at_alpha_one():
    """Loss and norm of one term times 50: its share of the pull at the trunk stays the same."""
    plain, scaled = balance(momentum=0.0, floor=0.0), balance(momentum=0.0, floor=0.0)
    for step in range(40):
        losses, norms = {"a": 1.0 / (1 + step), "b": 1.0, "c": 2.0}, {"a": 1.0, "b": 2.0, "c": 0.5}
        plain.follow(losses, norms)
        scaled.follow(losses | {"b": 50.0}, norms | {"b": 100.0})
    pulls = [[rule.weights[n] * g for n, g in zip("abc", g3, strict=True)] for rule, g3 in
             ((plain, (1.0, 2.0, 0.5)), (scaled, (1.0, 100.0, 0.5)))]  # fmt: skip
    shares = [np.array(pull) / sum(pull) for pull in pulls]
    assert shares[0] == pytest.approx(shares[1], rel=1e-6)


def test_a_term_that_does_not_pull_is_left_alone():
    rule = balance(momentum=0.0)
    rule.follow({"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "b": 2.0, "c": 0.0})
    assert rule.weights["c"] == 1.0
    assert all(math.isfinite(weight) for weight in rule.weights.values())


def test_uncertainty_settles_at_one_over_twice_the_loss():
    rule = balance("uncertainty")
    for _ in range(200):
        rule.follow({"a": 0.25, "b": 1.0, "c": 100.0}, {})
    assert list(rule.weights.values()) == pytest.approx([2.0, 0.5, 0.005], rel=1e-6)


def test_uncertainty_gives_a_solved_term_no_boundless_weight():
    rule = balance("uncertainty")
    for _ in range(5000):
        rule.follow({"a": 0.0, "b": 1.0}, {})
    assert rule.weights["a"] == 1000.0
    assert rule.weights["b"] == pytest.approx(0.5)


def test_fixed_and_inverse_density():
    assert balance("fixed", weights={"a": 3.0}).weights == {"a": 3.0, "b": 1.0, "c": 1.0}
    shares = balance("inverse_density", {"a": 600.0, "b": 300.0}).weights
    assert shares == pytest.approx({"a": 2 / 3, "b": 4 / 3})


def test_a_term_without_any_training_label_has_no_say():
    """One over its share would take all weight from the others."""
    rule = balance("inverse_density", {"a": 600.0, "empty": 0.0, "b": 300.0})
    assert rule.weights == pytest.approx({"a": 2 / 3, "empty": 1.0, "b": 4 / 3})


def test_the_first_step_is_measured_whatever_the_moments_say():
    due = [step for step in range(1, 101) if balance(every="every 40 steps").is_due(step)]
    assert due == [1, 40, 80]
    assert [step for step in range(1, 101) if balance("uncertainty", every="at 50%").is_due(step)] == [1, 50]
    assert not any(balance("fixed", every="every 1 steps").is_due(step) for step in range(1, 101))


@pytest.mark.parametrize(
    ("every", "kind", "says"),
    [
        ("every 100 steps", "gradnorm", "gradnorm moves its weights after the first step only"),
        ("at 101 steps", "uncertainty", "balance.every is 'at 101 steps', which does not come within the 100 steps"),
        ("every 99 steps", "gradnorm", None),
        ("every 5 steps to 5 steps", "gradnorm", None),
        ("at 1, 99", "gradnorm", None),
        ("at 1, 100", "gradnorm", "first step only"),
        ("every 500 steps", "fixed", None),
    ],
)
def test_a_rule_that_cannot_measure_again_says_so(every, kind, says):
    remark = balance(kind, every=every).remark(100)
    assert (remark is None) == (says is None)
    assert says is None or says in remark


def test_a_rule_that_never_measures_is_refused():
    with pytest.raises(ValidationError, match=r"balance.every is never, but gradnorm must measure"):
        BalanceSettings(kind="gradnorm", every="never")
    assert BalanceSettings(kind="fixed", every="never").every == "never"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_state_survives(kind):
    rule, again = balance(kind), balance(kind)
    rule.follow({"a": 4.0, "b": 2.0, "c": 1.0}, {"a": 3.0, "b": 1.0, "c": 2.0})
    again.load(rule.state())
    for one in (rule, again):
        one.follow({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0})
    assert (rule.weights, rule.state()) == (again.weights, again.state())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"terms": ("a",)}, "only one term"),
        ({"trunk": False}, "names none that is trained"),
        ({"kind": "fixed", "weights": {"aa": 2.0}}, r"names 'aa', which is no term of the loss; did you mean 'a'"),
        ({"kind": "fixed", "weights": {"coarse": 2.0}}, "there are: a, b, c"),
    ],
)
def test_what_cannot_be_balanced_is_refused_in_one_line(values, says):
    with pytest.raises(SettingsError, match=says) as error:
        balance(**values)
    assert "\n" not in str(error.value)


def test_measured_are_means_and_norms_of_their_gradients():
    torch.manual_seed(0)
    trunk = nn.Linear(4, 3)
    shared = torch.tanh(trunk(torch.randn(6, 4)))
    terms = {"a": shared[:, 0].square().sum(), "b": shared[:4, 1].exp().sum(), "empty": shared[:0].sum()}
    losses, norms = measure(World(), list(trunk.parameters()), terms, {"a": 6.0, "b": 4.0, "empty": 0.0}, 1.0)
    assert list(losses) == list(norms) == ["a", "b"]
    for name, count in (("a", 6.0), ("b", 4.0)):
        parts = torch.autograd.grad(terms[name] / count, list(trunk.parameters()), retain_graph=True)
        assert losses[name] == pytest.approx(terms[name].item() / count)
        assert norms[name] == pytest.approx(torch.cat([part.reshape(-1) for part in parts]).norm().item(), rel=1e-6)
    assert trunk.weight.grad is None


def test_a_measurement_that_is_not_finite_moves_nothing():
    trunk = nn.Linear(2, 1)
    terms = {"a": trunk(torch.ones(1, 2)).sum() * math.nan, "b": trunk(torch.ones(1, 2)).sum()}
    assert measure(World(), list(trunk.parameters()), terms, {"a": 1.0, "b": 1.0}, 1.0) == ({}, {})


def check_untouched(folder):
    """Measured on every step: each gradient is the sum of its micro-batches, bit for bit as without a measurement."""
    frozen = {"balance__eta": 0.0, "balance__every": "every 1 steps"}
    jobs = [job_of(terms_settings(folder, **values)) for values in (frozen, {"balance__kind": "none"})]
    for step in range(3):
        found = []
        for job in jobs:
            mailbox = Mailbox(is_late=False)
            batch = job.source.steps(0, range(step, step + 1))[0]
            torch.manual_seed(step)
            backward(job, batch)
            found.append([parameter.grad.clone() for parameter in job.model.parameters()])
            train_step(job, mailbox, batch)
        for measured, plain in zip(*found, strict=True):
            assert torch.equal(measured, plain)
            assert measured.abs().sum() > 0
    assert jobs[0].balance.norms
    assert set(jobs[0].balance.weights.values()) == {1.0}


def test_21_trunk_gradient_is_there_on_every_step(tmp_path):
    check_untouched(tmp_path)


def test_21_deleting_the_trunk_s_gradient_would_be_seen(tmp_path, monkeypatch):
    """linnaeus: a measurement ends with the gradients of the trunk set to None."""

    def measured(world, trunk, *rest):
        found = measure(world, trunk, *rest)
        for parameter in trunk:
            parameter.grad = None
        return found

    monkeypatch.setattr("trainer.engine.step.measure", measured)
    with pytest.raises(AssertionError):
        check_untouched(tmp_path)


def test_weights_are_the_same_on_every_rank_and_for_any_number_of_ranks(tmp_path):
    """With one micro-batch a step the ranks together measure the rows that one process does."""

    def run(rank: int) -> None:
        job = job_of(terms_settings(tmp_path, **quiet))
        mailbox = Mailbox(is_late=False)
        for step in range(8):
            train_step(job, mailbox, job.source.steps(0, range(step, step + 1))[0])
            job.cursor.step += 1
        torch.save(job.balance.state(), tmp_path / f"{job.world.size}-{rank}.pt")
        job.world.leave()

    quiet = {"accumulation": 1, "dropout": 0.0, "balance__every": "every 2 steps", "num_samples": 510}
    for size in (1, 2):
        assert wait_for(fork_ranks(run, size)) == [0] * size
    one, left, right = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert left == right
    for name in ("weights", "losses", "norms"):
        assert left[name] == pytest.approx(one[name], rel=1e-5)
    assert left["weights"] != dict.fromkeys(CLASSES, 1.0)


def test_a_scaled_loss_ends_at_the_floor(tmp_path):
    values = {"scale": 50.0, "balance__every": "every 3 steps", "num_epochs": 4}
    job = job_of(terms_settings(tmp_path, **values))
    assert isinstance(job.balance, GradNorm)
    mailbox = Mailbox(is_late=False)
    for step in range(40):
        train_step(job, mailbox, job.source.steps(step // 10, range(step % 10, step % 10 + 1))[0])
        job.cursor.step += 1
    assert job.balance.weights["coarse"] == pytest.approx(0.1, rel=0.1)


def test_passes_say_the_loss_as_it_is_weighed_at_that_moment(tmp_path):
    train_toy(terms_settings(tmp_path, num_epochs=3, passes={"val": "every 15 steps"}), TermsTask)
    weights, num_passes = {}, 0
    for record in read_run(open_store(f"file://{tmp_path}"), "terms"):
        if record["event"] == "Balanced":
            weights = record["weights"]
        elif record["event"] == "PassDone" and not record["is_final"]:
            found, num_passes = record["metrics"], num_passes + 1
            weighed = sum(weights[name] * found[f"{name}/loss"] for name in CLASSES)
            assert found["weighted_loss"] == pytest.approx(weighed)
            assert found["weighted_loss"] != pytest.approx(found["loss"], rel=1e-4)
    assert num_passes == 7


def test_the_results_are_weighed_as_the_best_weights_were(tmp_path):
    """The best weights are those of step 5: a later pass is worse, and the terms have other weights by then."""
    values = {"balance__every": "every 3 steps", "best__metric": "val/weighted_loss", "best__mode": "max"}
    finished = train_toy(terms_settings(tmp_path, num_epochs=3, passes={"val": "every 5 steps"}, **values), TermsTask)
    walks = select(read_run(open_store(f"file://{tmp_path}"), "terms"), "PassDone")
    assert [one["step"] for one in walks if one["is_best"]] == [5]
    assert finished.results["val"]["weighted_loss"] == walks[0]["metrics"]["weighted_loss"]


@pytest.mark.parametrize("setting", ["best", "early_stop", "schedule"])
def test_the_weighed_loss_is_there_only_with_a_balance(setting, tmp_path):
    chosen = {f"{setting}__metric": "val/weighted_loss"}
    settings = terms_settings(tmp_path, balance__kind="none", **chosen)
    with pytest.raises(SettingsError, match=f"{setting}.metric is 'val/weighted_loss', which needs weighed loss terms"):
        job_of(settings)
    job = job_of(terms_settings(tmp_path, balance__kind="fixed", **chosen))
    assert run_started(job, "terms", "1-a").metrics["weighted_loss"] == "min"
    assert "weighted_loss" not in run_started(job_of(terms_settings(tmp_path, balance__kind="none")), "", "1-a").metrics


def test_the_weighed_loss_of_a_pass_leaves_out_what_has_no_sample():
    assert weighted_sum({"a": 2.0, "b": None}, {"a": 0.5, "b": 3.0}) == 1.0
    assert weighted_sum({"a": None, "b": None}, {"a": 0.5, "b": 3.0}) is None
    assert weighted_sum({}, {"a": 0.5}) is None


@pytest.mark.parametrize("kind", ["none", "fixed", "inverse_density", "uncertainty"])
def test_every_kind_trains_to_the_end(kind, tmp_path):
    finished = train_toy(terms_settings(tmp_path, balance__kind=kind, num_epochs=1), TermsTask)
    assert finished.results["val"]["loss"] < 10


@pytest.mark.parametrize(
    ("before", "after"), [("uncertainty", "gradnorm"), ("gradnorm", "uncertainty"), ("gradnorm", "fixed")]
)
def test_another_rule_begins_anew_and_says_so(before, after, tmp_path):
    """Its best checkpoint may be the other rule's, too, when the run comes to its end."""
    values = {"balance__every": "every 7 steps", "best__metric": "val/loss", "best__mode": "max"}
    train_toy(terms_settings(tmp_path, balance__kind=before, num_epochs=4, **values), TermsTask)
    train_toy(
        terms_settings(tmp_path, balance__kind=after, num_epochs=5, run__resume_with_changes=True, **values), TermsTask
    )
    records = read_run(open_store(f"file://{tmp_path}"), "terms")
    noted = [one["text"] for one in select(records, "Noted")]
    assert any(text.startswith(f"balance.kind is {after} now and was another rule before") for text in noted), noted
    weights = [one["weights"] for one in select(records, "StepDone") if one["step"] == 41]
    assert weights == [dict.fromkeys(CLASSES, 1.0)]


def test_a_rule_takes_over_nothing_but_its_own():
    kept = {kind: balance(kind).state() for kind in KINDS}
    assert balance("gradnorm").is_foreign(kept["uncertainty"])
    assert balance("uncertainty").is_foreign(kept["gradnorm"])
    assert not any(balance(kind).is_foreign(state) for kind, state in kept.items())
    assert not balance("gradnorm").is_foreign({name: {} for name in ("weights", "losses", "norms")})
    assert not balance("gradnorm").is_foreign(None)


def test_a_log_point_shows_terms_weights_and_curves():
    found = means({"term/a": 6.0, "term/b": 8.0, "sum/b/top1": 2.0, "sum/all": 3.0}, {"a": 3.0, "b": 4.0}, {"b": 0.5})
    assert found == Means(loss=3.0, terms={"a": 2.0, "b": 2.0}, metrics={"b/top1": 0.5, "all": 1.0})
    assert means({"term/a": 6.0}, {"a": 3.0}, {}) == Means(loss=2.0, terms={}, metrics={})
    assert means({"term/a": 6.0}, {"a": 3.0, "b": 0.0}, {}).terms == {"a": 2.0, "b": None}
    event = step_done(3, terms=found.terms, weights={"b": 0.5}, norms={"b": 2.0}, curves={"mix": 0.1})
    shown = {"train/a/loss": 2.0, "balance/b/weight": 0.5, "balance/b/norm": 2.0, "schedule/mix": 0.1}
    assert shown.items() <= scalars(event).items()
