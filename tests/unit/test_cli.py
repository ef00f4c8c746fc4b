"""The command line: spellings people type, errors in one line with the right exit code, and what commands print."""

import json
import subprocess
import sys

import pytest
import yaml

from trainer.cli import main
from trainer.cli.options import normalise
from trainer.cli.output import size
from trainer.config.sources import load_settings


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--signers 01 02 --lr 1", "--signers 01 --signers 02 --lr 1"),
        ("--signers 01", "--signers 01"),
        ("--signers=01 x", "--signers=01 x"),
        ("--lr 1 2", "--lr 1 2"),
        ("--num-epochs 3", "--num_epochs 3"),
        ("--num-epochs=3", "--num_epochs=3"),
        ("--resume_with_changes", "--resume-with-changes"),
        ("--val-signers 01 02", "--val_signers 01 --val_signers 02"),
        ("--unknown-flag 1", "--unknown-flag 1"),
        ("train --set a.b=1 -h", "train --set a.b=1 -h"),
    ],
)
def test_known_spellings_are_understood(typed, meant):
    assert normalise(typed.split()) == meant.split()


def config(capsys, *arguments):
    assert main(["config", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_flags_as_people_type_them_reach_the_settings(capsys):
    line = "--selected_signs_to 502 --num_epochs 50 --signers 01 02 --model_metadata t_2_1 --batch-size 8 --set seed=7"
    shown = config(capsys, *line.split())
    settings, sources = shown["settings"], shown["sources"]
    assert settings["data"]["signers"] == ["01", "02"]
    assert settings["data"]["selected_signs_to"] == 502
    assert (settings["num_epochs"], settings["batch_size"], settings["seed"]) == (50, 8, 7)
    assert sources["model.size"] == "--model_metadata"
    assert sources["seed"] == "--set seed"
    assert sources["optim.lr"] == "default"


def test_the_environment_is_a_source(capsys, monkeypatch):
    monkeypatch.setenv("TRAINER__OPTIM__LR", "0.25")
    assert config(capsys)["sources"]["optim.lr"] == "TRAINER__OPTIM__LR"


def test_config_shows_each_value_with_its_source(capsys):
    line = ["--weight_decay", "0.5", "--set", "passes.val=at 50%", "--set", "ema.decay=0.9"]
    assert main(["config", "--changed", *line]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["optim.weight_decay", "0.5", "--weight_decay"] in rows
    assert ["passes.val", "at", "50%", "--set", "passes.val"] in rows
    assert not [row for row in rows if row[-1] == "default"]
    assert err == "note: ema.decay has no effect: ema.enabled is false, which switches it off\n"


def test_config_writes_a_file_that_says_the_same(capsys, tmp_path):
    arguments = ["--signers", "01", "02", "--set", "schedule.warmup=5%", "--set", "optim.clip=null", "--lr", "3e-4"]
    assert main(["config", "--yaml", *arguments]) == 0
    path = tmp_path / "same.yaml"
    path.write_text(capsys.readouterr().out)
    assert yaml.safe_load(path.read_text())["optim"]["lr"] == 3e-4
    assert config(capsys, "--config", str(path))["settings"] == config(capsys, *arguments)["settings"]


def test_the_schema_is_printed(capsys):
    assert main(["config", "--schema"]) == 0
    assert "$defs" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train --batch_size 0", "batch_size is 0 (--batch_size): must be greater than or equal to 1"),
        ("train --set optim.lrr=1", "unknown setting 'optim.lrr' (--set optim.lrr); did you mean 'optim.lr'?"),
        ("train --config nowhere.yaml", "--config nowhere.yaml: no such file, and no preset"),
        ("train --task sings", "unknown task 'sings'; did you mean 'signs'?"),
        ("train --num_epoch 3", "No such option: --num_epoch"),
        ("train --folds session", "'session' is not"),
        ("train 5", "unexpected extra argument"),
        ("train lr=3", "(lr=3); a setting is given as --set NAME=VALUE"),
        ("train --optim.lr 3", "--optim.lr; a setting is given as --set NAME=VALUE"),
        ("train --lr", "Option '--lr' requires an argument"),
        ("trane", "No such command 'trane'"),
        ("config --set passes.val=often", "passes.val is often (--set passes.val)"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_two(capsys, line, says):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1


def test_each_problem_is_a_line_of_its_own(capsys):
    assert main(["train", "--batch_size", "0", "--lr", "-1"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in err] == ["batch_size", "optim.lr"]


def test_help_of_every_command_has_an_example(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for command in ("train", "config"):
        assert command in listed
        assert main([command, "--help"]) == 0
        assert f"trainer {command}" in capsys.readouterr().out.split("Examples:")[1]


def test_help_and_config_do_not_import_torch():
    script = (
        "import sys; from trainer.cli import main; main(['--help']); main(['train', '--help']); main(['config']);"
        "sys.exit(', '.join({'torch', 'numpy', 'matplotlib', 'boto3'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sizes_are_said_as_people_do():
    assert [size(number) for number in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3072.0 GiB",
    ]


def test_presets_name_no_data_that_is_not_asked_for():
    assert load_settings(config="karsl").settings.data.layout == "auto"
    assert load_settings(config="quick").settings.data.layout == "synthetic"
