"""Check 10 (and the long half of 16) of translation.md 16: what the preset `quick` learns, and what it must not."""

import os

import pytest

from tests.bench.turns import print_table
from tests.translation_runs import train_here, translation_settings
from trainer.config.sources import load_settings
from trainer.run import train_settings

QUIET = ("output.report=false", "output.export=[]", "telemetry.progress=off", "telemetry.tensorboard=off", "device=cpu")


@pytest.fixture(scope="module")
def table():
    """What was measured, printed at the end."""
    rows: list[tuple[object, ...]] = []
    yield rows
    if rows:
        print_table(
            "What translation learns", ("run", "steps", "BLEU", "exact match", "nll", "CPU s"), rows,
            ["test split, preset quick (the tiny model)"],
        )  # fmt: skip


def learned(table, folder, name, *overrides):
    """Results of a run of the preset on its test split; measured in the seconds of this process."""
    given = [*QUIET, f"run.store=file://{folder}", *overrides]
    settings = load_settings(config="quick", task="translation", overrides=given).settings
    before = os.times()
    results = train_settings(settings).results
    seconds = sum(os.times()[:2]) - sum(before[:2])
    scores, plain = results["test_translate"], results["test"]
    shown = (f"{scores['bleu']:.2f}", f"{scores['exact_match']:.4f}", f"{plain['nll']:.4f}", f"{seconds:.0f}")
    table.append((name, settings.max_steps, *shown))
    return scores | {"nll": plain["nll"]}, seconds


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("corpus", "least"), [("en_de_numbers", 0.90), ("reverse", 0.95)])
def test_make_train_in_five_cpu_minutes(corpus, least, tmp_path, table):
    scores, seconds = learned(table, tmp_path, f"make train, {corpus}", f"data.corpus={corpus}")
    assert scores["exact_match"] >= least
    assert scores["bleu"] >= 95.0
    assert seconds <= 300.0


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("corpus", ["copy", "reverse"])
def test_check_10_letters_in_two_thousand_steps(corpus, tmp_path, table):
    scores, _ = learned(table, tmp_path, corpus, f"data.corpus={corpus}", "max_steps=2000")
    assert scores["exact_match"] >= 0.99


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_check_10_shuffled_targets_teach_nothing(tmp_path, table):
    scores, _ = learned(table, tmp_path, "en_de_numbers, targets shuffled", "data.shuffle_targets=true")
    assert scores["bleu"] <= 10.0


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_check_16_half_precision_learns_alike(tmp_path, table):
    nll = {}
    for amp in ("fp32", "bf16", "fp16"):
        given = ("data.corpus=reverse", "max_steps=2000", f"precision.amp={amp}")
        nll[amp] = learned(table, tmp_path / amp, f"reverse, {amp}", *given)[0]["nll"]
    assert nll["bf16"] == pytest.approx(nll["fp32"], rel=0.02)
    assert nll["fp16"] == pytest.approx(nll["fp32"], rel=0.02)


def short(folder, **values):
    """Results of a run of seconds."""
    settings = translation_settings(
        folder, max_steps=120, num_epochs=100, model__d_model=32, model__d_ff=64, data__pairs=2000,
        schedule__warmup="60 steps", decode__translate_samples=20, optim__lr=0.7,
        passes={"val": "never", "val_translate": "never"}, telemetry__log_every="every 60 steps", **values,
    )  # fmt: skip
    return train_here(settings).results


def test_check_10_in_short(tmp_path):
    right = short(tmp_path / "right")
    shuffled = short(tmp_path / "shuffled", data__shuffle_targets=True)
    assert right["test_translate"]["bleu"] > 50.0
    assert shuffled["test_translate"]["bleu"] < 10.0
    assert shuffled["val"]["nll"] > 3 * right["val"]["nll"]
