"""Settings out of file, environment and command line: which wins, and what a person reads when one is wrong."""

import pytest

from trainer.config.settings import CommonSettings
from trainer.config.sources import load_settings
from trainer.errors import SettingsError


@pytest.fixture
def config(tmp_path):
    """Writes a YAML file and gives its path."""

    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(**sources):
    with pytest.raises(SettingsError) as error:
        load_settings(**sources)
    assert error.value.exit_code == 2
    return str(error.value).splitlines()


def test_defaults_alone_are_settings():
    loaded = load_settings()
    assert loaded.settings.optim.lr == 1e-3
    assert set(loaded.source_of.values()) == {"default"}
    assert "data.split.val_share" in loaded.source_of


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(config):
    path = config("optim:\n  lr: 0.1\n  eps: 0.1\n  weight_decay: 0.1\n")
    environ = {"TRAINER__OPTIM__LR": "0.2", "TRAINER__OPTIM__EPS": "0.2", "OTHER": "x"}
    loaded = load_settings(config=path, environ=environ, overrides=["optim.lr=0.3"])
    optim = loaded.settings.optim
    assert (optim.lr, optim.eps, optim.weight_decay, optim.momentum) == (0.3, 0.2, 0.1, 0.9)
    assert loaded.source_of["optim.lr"] == "--set optim.lr"
    assert loaded.source_of["optim.eps"] == "TRAINER__OPTIM__EPS"
    assert loaded.source_of["optim.weight_decay"] == f"{path}:4"
    assert loaded.source_of["optim.momentum"] == "default"


def test_short_flags_are_named_in_the_source():
    loaded = load_settings(flags={"optim.lr": "0.5", "data.signers": ["01", "02"]})
    assert loaded.settings.data.signers == ["01", "02"]
    assert loaded.source_of["optim.lr"] == "--lr"


def test_texts_of_yaml_stay_texts_where_the_setting_is_one(config):
    path = config("data: {signers: [01, 010]}\ntelemetry: {tensorboard: off}\noptim: {lr: 1e-4, nesterov: yes}\n")
    settings = load_settings(config=path).settings
    assert settings.data.signers == ["01", "010"]
    assert settings.telemetry.tensorboard == "off"
    assert settings.optim.lr == 1e-4
    assert settings.optim.nesterov is True


@pytest.mark.parametrize("text", ["01,02", "01 02", "[01, 02]", "['01', '02']"])
def test_a_list_can_be_typed_in_a_shell(text):
    assert load_settings(overrides=[f"data.signers={text}"]).settings.data.signers == ["01", "02"]


def test_patterns_that_yaml_would_take_for_aliases_can_be_typed():
    assert load_settings(overrides=["optim.no_decay=*norm*,*.bias"]).settings.optim.no_decay == ["*norm*", "*.bias"]


def test_null_switches_off_and_an_empty_section_is_nothing(config):
    settings = load_settings(config=config("optim:\nrun: {name: null}\n"), overrides=["optim.clip=null"]).settings
    assert settings.optim.clip is None
    assert settings.run.name is None


def test_a_million_as_helm_writes_it_is_whole(config):
    assert load_settings(config=config("max_steps: 1e+06\n")).settings.max_steps == 1_000_000


def test_moments_of_passes_come_from_every_source(config):
    loaded = load_settings(
        config=config("passes: {val: {every: 500 steps}, test: at 50%}\n"),
        environ={"TRAINER__PASSES__TEST": "never"},
        overrides=["passes.train=each 2 epochs"],
    )
    assert loaded.settings.passes == {"val": "every 500 steps", "test": "never", "train": "each 2 epochs"}
    assert loaded.source_of["passes.test"] == "TRAINER__PASSES__TEST"


def test_keys_of_a_mapping_may_have_dots(config):
    """Columns have them: an array of two dimensions in an NPZ file gives `labels.0` and `labels.1`."""
    loaded = load_settings(
        task="hierarchy",
        config=config("data: {blocks: {geo.site: [lat, lon]}}\n"),
        overrides=["data.levels=[labels.0, labels.1]", "loss.criteria.labels.0=tree_smoothing"],
    )
    assert loaded.settings.loss.criteria == {"labels.0": "tree_smoothing"}
    assert loaded.settings.data.blocks == {"geo.site": ["lat", "lon"]}
    assert loaded.source_of["loss.criteria.labels.0"] == "--set loss.criteria.labels.0"


def test_use_cpu_of_the_plain_trainer_chooses_the_device():
    assert load_settings(environ={"USE_CPU": "1"}).source_of["device"] == "USE_CPU"
    assert load_settings(environ={"USE_CPU": "0"}).settings.device == "auto"
    assert load_settings(environ={"USE_CPU": "1", "TRAINER__DEVICE": "cuda"}).settings.device == "cuda"


def test_a_typo_names_the_nearest_setting_and_where_it_stood(config):
    path = config("optim:\n  lrr: 0.1\n")
    assert problems(config=path) == [f"unknown setting 'optim.lrr' ({path}:2); did you mean 'optim.lr'?"]
    assert problems(overrides=["lr=1"]) == ["unknown setting 'lr' (--set lr); did you mean 'optim.lr'?"]
    environ = {"TRAINER__NUM_EPOCH": "3"}
    assert problems(environ=environ) == ["unknown setting 'num_epoch' (TRAINER__NUM_EPOCH); did you mean 'num_epochs'?"]
    assert "trainer config" in problems(overrides=["zzzzzz=1"])[0]


def test_a_bad_value_names_setting_value_place_and_rule():
    [line] = problems(flags={"batch_size": "0"})
    assert line == "batch_size is 0 (--batch_size): must be greater than or equal to 1"
    [line] = problems(environ={"TRAINER__OPTIM__NAME": "adamx"})
    assert line == "optim.name is adamx (TRAINER__OPTIM__NAME): must be 'adam', 'adamw' or 'sgd'"


def test_every_problem_has_its_line():
    lines = problems(overrides=["optim.lr=-1", "batch_size=x", "nonsense_name=1", "novalue"])
    assert sorted(line.split()[0] for line in lines) == ["--set", "batch_size", "optim.lr", "unknown"]


def test_defaults_are_not_shared_between_settings():
    first, second = load_settings().settings, load_settings().settings
    first.data.sampling.frames = 3
    first.optim.freeze.append("x")
    assert second.data.sampling.frames == 50
    assert second.optim.freeze == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint.every", "every 0 %"),
        ("checkpoint.milestones", "at 120 %"),
        ("telemetry.log_every", "every 5 parsecs"),
        ("passes.val", "often"),
        ("schedule.warmup", "-1 steps"),
        ("schedule.curve", "1 @ 50, 2 @ 10"),
        ("early_stop.patience", "0 passes"),
    ],
)
def test_an_expression_is_checked_when_loaded(name, value):
    [line] = problems(overrides=[f"{name}={value}"])
    assert line.startswith(f"{name} is {value} (--set {name}): ")


def test_two_moments_for_one_thing_are_refused(config):
    [line] = problems(config=config("passes: {val: {every: 500 steps, at: 10%}}\n"))
    assert "takes one moment, got 2: every, at" in line
    path = config("checkpoint:\n  every: 5 steps\n  every: 6 steps\n")
    assert f"checkpoint.every is given twice: '5 steps' ({path}:2) and '6 steps' ({path}:3); keep one" in problems(
        config=path
    )
    path = config("passes:\n  val: {every: 5, every: 6}\n")
    assert problems(config=path) == [f"passes.val ({path}:2): 'every' is given twice; keep one"]


def test_the_command_line_says_a_setting_once():
    [line] = problems(overrides=["optim.lr=1"], flags={"optim.lr": "2"})
    assert line == "optim.lr is given twice: '1' (--set optim.lr) and '2' (--lr); keep one"
    assert load_settings(overrides=["optim.lr=2"], flags={"optim.lr": "2"}).settings.optim.lr == 2


def test_pairs_that_cannot_work_are_refused():
    assert "schedule.curve must say it" in problems(overrides=["schedule.name=curve"])[0]
    assert "optim.nesterov needs" in problems(overrides=["optim.name=sgd", "optim.nesterov=on", "optim.momentum=0"])[0]
    assert "optim.betas" in problems(overrides=["optim.betas=0.9,1.5"])[0]
    assert (
        "selected_signs_to is 2" in problems(flags={"data.selected_signs_from": "3", "data.selected_signs_to": "2"})[0]
    )


def test_unreadable_files_are_one_line(config, tmp_path):
    [line] = problems(config=str(tmp_path / "none.yaml"))
    assert "no such file, and no preset (there are: auslan, karsl, quick, base, small, tiny, anuran)" in line
    [line] = problems(config=config("a: [1\nb: 2\n"))
    assert "config.yaml:2 is no valid YAML" in line
    [line] = problems(config=config("- a\n"))
    assert "must be a group" in line
    [line] = problems(config=str(tmp_path))
    assert "cannot be read" in line


def test_yaml_cannot_make_objects(config):
    [line] = problems(config=config("optim: {name: !!python/object/apply:os.getcwd []}\n"))
    assert line.startswith("optim.name is []")


def test_the_task_is_found_before_its_settings(config):
    assert load_settings(task="signs").source_of["task"] == "--task"
    assert problems(task="sings") == ["unknown task 'sings'; did you mean 'signs'?"]
    assert "unknown task 'x'" in problems(config=config("task: x\n"))[0]
    assert "unknown task 'y'" in problems(environ={"TRAINER__TASK": "y"}, config=config("task: x\n"))[0]


@pytest.mark.parametrize("preset", ["quick", "karsl", "auslan"])
def test_presets_are_found_by_name_and_valid(preset):
    loaded = load_settings(config=preset)
    assert loaded.source_of["num_epochs"].startswith(f"preset {preset}:")


def test_a_file_is_no_preset_by_accident(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("num_epochs: 7\n")
    assert load_settings(config="mine").settings.num_epochs == 7


def test_a_door_without_a_task_brings_its_own_settings_class():
    settings = load_settings(environ={"TRAINER__OPTIM__LR": "0.5"}, settings_class=CommonSettings).settings
    assert type(settings) is CommonSettings
    assert settings.optim.lr == 0.5


def test_a_flag_of_another_task_is_refused():
    with pytest.raises(SettingsError, match="--signers is no option of this task"):
        load_settings(flags={"--signers": ["01"]}, settings_class=CommonSettings)
