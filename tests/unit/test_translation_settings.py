"""Settings of the task: the short flags of its tutorial, presets, defaults, and pairs that are refused."""

import pytest

from trainer.config.digest import matters
from trainer.config.files import presets
from trainer.config.notes import notes
from trainer.config.sources import load_settings
from trainer.errors import SettingsError


def load(*overrides, config=None, **flags):
    named = {"--" + name.replace("_", "-"): value for name, value in flags.items()}
    return load_settings(task="translation", config=config, overrides=overrides, flags=named)


def test_defaults_are_those_of_the_paper():
    settings = load().settings
    assert (settings.model.d_model, settings.model.num_heads, settings.model.num_layers, settings.model.d_ff) == (
        512,
        8,
        6,
        2048,
    )
    assert (settings.optim.lr, settings.optim.betas, settings.optim.eps) == (1.0, (0.9, 0.98), 1e-9)
    assert (settings.optim.weight_decay, settings.optim.clip) == (0.0, 1.0)
    assert (settings.schedule.name, settings.schedule.warmup, settings.schedule.width) == ("noam", "4000 steps", 512)
    assert (settings.num_epochs, settings.batch_size, settings.loss.label_smoothing) == (30, 32, 0.1)
    assert settings.telemetry.log_every == "every 100 steps"


def test_short_flags_of_the_tutorial():
    loaded = load(data_dir="text", save_dir="runs", epochs="7", config="small")
    settings = loaded.settings
    assert (settings.data.path, settings.run.store, settings.num_epochs) == ("text", "file://runs", 7)
    assert loaded.source_of["num_epochs"] == "--epochs"
    assert settings.model.d_model == 256
    with pytest.raises(SettingsError, match="--epochs is no option of this task"):
        load_settings(task="signs", flags={"--epochs": "3"})


def test_a_setting_has_one_value_whatever_it_is_called():
    with pytest.raises(SettingsError, match=r"num_epochs is given twice: '3' \(--num_epochs\) and '4' \(--epochs\)"):
        load_settings(task="translation", flags={"--num_epochs": "3", "--epochs": "4"})


@pytest.mark.parametrize(
    "said",
    [
        {"flags": {"--task": "translation"}},
        {"environ": {"TRAINER__TASK": "translation"}},
        {"overrides": ["task=translation"]},
    ],
)
def test_a_presets_name_means_that_of_the_task(said):
    assert load_settings(config="quick", **said).settings.task == "translation"
    assert load_settings(config="quick").settings.task == "signs"
    assert load_settings(config="tiny").settings.task == "translation"


def test_presets():
    assert presets("translation") == ["base", "quick", "small", "tiny"]
    quick = load(config="quick").settings
    assert (quick.data.layout, quick.data.corpus, quick.data.pairs) == ("embedded", "en_de_numbers", 20_000)
    assert quick.data.max_tokens <= 4096
    assert quick.max_steps <= 3000
    tiny = load(config="tiny").settings
    assert (tiny.schedule.name, tiny.schedule.warmup, tiny.model.dropout) == ("noam", "400 steps", 0.1)
    assert quick.model.model_copy(update={"dropout": 0.1}) == tiny.model
    base = load(config="base").settings
    assert base.model == load().settings.model
    assert not any(notes(load(config=name).settings) for name in presets("translation"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_heads=7"], "model.d_model is 512, which model.num_heads 7 does not divide"),
        (
            ["schedule.name=cosine"],
            r"optim.lr is 1.0, a factor for schedule.name: noam; with schedule.name: cosine it is",
        ),
        (["model.tie=all"], "set tokenizer.joint to true"),
        (["tokenizer.joint=true", "tokenizer.target_vocab_size=100"], "no meaning with tokenizer.joint"),
        (["data.val_share=0.6", "data.test_share=0.4"], "leave nothing to train on"),
        (["data.source_lang=de", "data.target_lang=de"], "are both de"),
        (["data.max_token=5"], "did you mean 'data.max_tokens'"),
    ],
)
def test_pairs_that_would_fail_later_are_refused(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load(*overrides)


def test_a_rate_is_a_rate_with_sgd_or_when_it_is_small():
    assert load("schedule.name=cosine", "optim.lr=7e-4").settings.optim.lr == 7e-4
    assert load("schedule.name=cosine", "optim.name=sgd").settings.optim.lr == 1.0


def test_settings_without_effect_are_said():
    found = notes(load("data.batch_by=sentences", "data.max_tokens=100", "data.corpus=copy").settings)
    assert any(line.startswith("data.max_tokens has no effect: data.batch_by is sentences") for line in found)
    assert any(line.startswith("data.corpus has no effect: data.layout is auto") for line in found)


def test_what_matters_for_the_weights():
    known = matters(load().settings)
    assert {"data.digest", "tokenizer.digest", "data.max_tokens", "schedule.width", "model.tie"} <= set(known)
    assert not {name for name in known if name.startswith("decode.")} | ({"data.path", "tokenizer.path"} & set(known))


def test_resume_takes_the_folder_of_a_run_or_a_file_of_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    run = load(resume="runs/mine/").settings.run
    assert (run.store, run.name, run.resume, run.init_from) == ("file://runs", "mine", "required", None)
    run.init_from = None  # assigning validates again and must change nothing else
    assert (run.store, run.name, run.resume) == ("file://runs", "mine", "required")
    far = load(resume="s3://bucket/runs/mine").settings.run
    assert (far.store, far.name) == ("s3://bucket/runs", "mine")
    old = load(resume="checkpoints/checkpoint_epoch_3.pt").settings.run
    assert (old.init_from, old.resume, old.name) == ("checkpoints/checkpoint_epoch_3.pt", "auto", None)
    with pytest.raises(SettingsError, match=r"run\.resume is runs/other, which is neither a run"):
        load(resume="runs/other")
    with pytest.raises(SettingsError, match=r"run\.resume is runs/mine, but run\.store is file://elsewhere: keep one"):
        load(resume="runs/mine", save_dir="file://elsewhere")
