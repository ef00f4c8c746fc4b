"""The config digest: which changes are another run, and that it never moves by itself."""

import pytest

from trainer.config.digest import differences, digest, matters
from trainer.config.names import leaves
from trainer.config.notes import RULES, notes
from trainer.config.sources import TASK_SETTINGS, load_settings


def settings(*overrides):
    return load_settings(overrides=overrides).settings


def test_only_what_can_change_a_weight_is_in_it():
    flat = matters(settings("passes.val=every 5", "num_epochs=9", "telemetry.sample_ids=on"))
    assert flat["optim.lr"] == 1e-3
    assert flat["passes.val"] == "every 5"
    assert flat["optim.betas"] == [0.9, 0.999]
    assert not [name for name in flat if name.startswith(("run.store", "telemetry.", "num_epochs", "output."))]


@pytest.mark.parametrize("change", ["num_epochs=7", "telemetry.log_every=every 1", "run.name=x", "accumulation=4"])
def test_changes_that_cannot_matter_keep_the_digest(change):
    assert digest(matters(settings(change))) == digest(matters(settings()))


@pytest.mark.parametrize(
    "change", ["seed=1", "optim.lr=2e-3", "model.size=t_2_1", "data.signers=01", "passes.val=never"]
)
def test_changes_that_matter_are_another_digest(change):
    assert digest(matters(settings(change))) != digest(matters(settings()))


def test_spelling_of_a_value_does_not_matter():
    assert digest(matters(settings("optim.lr=1e-3"))) == digest(matters(settings("optim.lr=0.001")))


def test_the_digest_is_the_same_on_every_machine_and_in_any_order():
    flat = {"a": 1, "b.c": [0.5, None], "d": "ä"}
    assert digest(flat) == digest(dict(reversed(flat.items()))) == "3d34ac1abb01c398"


def test_differences_are_lines_a_person_reads():
    assert differences({"a": 1, "b": "x", "c": 3}, {"a": 2.5, "c": 3, "d": None}) == [
        "a: 1 -> 2.5",
        'b: "x" -> (none)',
        "d: (none) -> null",
    ]
    assert differences({"a": 1}, {"a": 1}) == []


def test_settings_without_effect_are_named():
    assert notes(settings()) == []
    assert notes(settings("optim.nesterov=on")) == [
        "optim.nesterov has no effect: optim.name is adam, it works with sgd only"
    ]
    assert notes(settings("optim.name=sgd", "optim.nesterov=on")) == []
    assert notes(settings("ema.decay=0.9")) == ["ema.decay has no effect: ema.enabled is false, which switches it off"]
    assert notes(settings("early_stop.min_delta=0.1")) == [
        "early_stop.min_delta has no effect: early_stop.patience is null, which switches it off"
    ]


def test_rules_of_notes_name_settings_there_are():
    known = {name for settings in TASK_SETTINGS.values() for name in leaves(settings)}
    assert [name for rule in RULES for name in (*rule.names, rule.governor) if name not in known] == []
