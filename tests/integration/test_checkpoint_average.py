"""`trainer checkpoints average`: the mean of weights as a run that every command takes."""

import json

import pytest
import torch

from tests.toy import toy_settings, train_toy
from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.inspect import list_checkpoints, verify_checkpoints
from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.stores import open_store
from trainer.cli import main


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run with an average of weights (EMA) and five checkpoints, four of them measured.

    It is made longer by and by: in a run that does not wait for its checkpoints a newer one may take the place of one.
    """
    folder = tmp_path_factory.mktemp("runs")
    values = {"checkpoint__every": "never and end", "checkpoint__keep_last": 9, "passes": {"val": "every 7 steps"}}
    for max_steps in (7, 10, 14, 21, 28):
        train_toy(toy_settings(folder, num_epochs=5, max_steps=max_steps, ema__enabled=True, optim__lr=0.05, **values))
    return open_store(f"file://{folder}")


def average(store, *arguments):
    return main(["checkpoints", "average", "toy", "--store", store.url, *arguments])


def newest(store, count):
    """Names of the newest checkpoints, one a step."""
    return list({one.step: one.name for one in list_checkpoints(store, "toy")}.values())[-count:]


def test_the_weights_are_the_mean_and_the_rest_is_the_newest_ones(store, capsys):
    assert average(store, "--last", "3", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    names = newest(store, 3)
    assert said == {"run": "toy-last-3", "checkpoint": said["checkpoint"], "averaged": names}
    parts = [load_checkpoint(store, "toy", name) for name in names]
    made = load_checkpoint(store, "toy-last-3", "best")
    assert made.key == said["checkpoint"]
    for part in ("model", "ema"):
        for name, value in made.tensors[part].items():
            mean = torch.stack([one.tensors[part][name].double() for one in parts]).mean(0)
            assert torch.equal(value, mean.to(value.dtype))
    assert not torch.equal(made.tensors["model"]["0.weight"], parts[-1].tensors["model"]["0.weight"])
    for name, value in made.tensors["optimizer"].items():
        assert torch.equal(value, parts[-1].tensors["optimizer"][name])
    assert made.meta["cursor"] == parts[-1].meta["cursor"]
    assert [one.problem for one in verify_checkpoints(store, "toy-last-3")] == [None]
    assert get_json(store, "toy-last-3/run.json")["averaged"]["checkpoints"] == names


def test_the_best_are_those_of_the_metric_of_the_best(store, capsys):
    assert average(store, "--best", "2", "--json") == 0
    names = json.loads(capsys.readouterr().out)["averaged"]
    lines = [line for key in store.entries("toy/ledger/") for line in store.get(key.key).decode().splitlines()]
    walks = [one for one in map(json.loads, lines) if one["event"] == "PassDone" and not one["is_final"]]
    best = sorted(sorted(walks, key=lambda one: one["metrics"]["loss"])[:2], key=lambda one: one["step"])
    assert [int(name.split("-")[0]) for name in names] == [one["step"] for one in best]


def test_made_twice_it_is_the_same_and_another_thing_of_that_name_stays(store, capsys):
    assert average(store, "--last", "2", "--name", "mean", "--json") == 0
    first = capsys.readouterr().out
    assert average(store, "--last", "2", "--name", "mean", "--json") == 0
    assert capsys.readouterr().out == first
    assert average(store, "--last", "3", "--name", "mean") == 2
    assert "holds something else already; choose another --name" in capsys.readouterr().err


def test_one_that_was_cut_short_is_made_again(store, capsys):
    assert average(store, "--last", "2", "--name", "cut", "--json") == 0
    name = json.loads(capsys.readouterr().out)["checkpoint"]
    store.delete([f"cut/checkpoints/{name}/MANIFEST.json"])
    assert average(store, "--last", "2", "--name", "cut") == 0
    assert load_checkpoint(store, "cut", "latest") is not None


def test_it_is_no_run_to_go_on_with_by_itself(store):
    assert average(store, "--last", "2", "--name", "done") == 0
    before = sorted(store.folders(""))
    train_toy(toy_settings(store.path, run__name=None, num_epochs=5, ema__enabled=True, optim__lr=0.05, max_steps=1))
    assert len(list(store.folders(""))) == len(before) + 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--last", "40"), 4, "good checkpoints, 40 are asked for; take fewer, or train with checkpoint.keep_last=40"),
        (("--best", "5"), 4, "measured val/loss at 4 of its checkpoints, 5 are asked for"),
        (("--last", "2", "--best", "2"), 2, "exclude each other"),
        (("--last", "2", "--name", "../away"), 2, "name"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(store, capsys, arguments, code, says):
    assert average(store, *arguments) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
