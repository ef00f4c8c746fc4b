"""`trainer compare`, and checks 11 and 13, on the toy task: milliseconds a run, and nothing of it hangs on the task."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.toy import ToySettings, ToyTask, toy_settings, train_toy
from trainer.checkpoint.stores import open_store
from trainer.cli import main
from trainer.config import sources
from trainer.tasks import registry
from trainer.telemetry.reading import read_run, select


class Watched(ToyTask):
    """Notes the weights every run starts from and the samples of each of its batches."""

    seen: dict[str, tuple[dict[str, torch.Tensor], list[list[int]]]] = {}  # noqa: RUF012 - of the module

    def loss(self, model, batch):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        _, batches = self.seen.setdefault(self.settings.run.name, (weights, []))
        batches.append(batch["index"].tolist())
        return super().loss(model, batch)


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """The toy task as one of those that commands know; a function that compares in `tmp_path`."""
    monkeypatch.setitem(sources.TASK_SETTINGS, "toy", ToySettings)
    monkeypatch.setattr(registry, "TASKS", (*registry.TASKS, "toy"))
    monkeypatch.setitem(sys.modules, "trainer.tasks.toy", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "trainer.tasks.toy.task", SimpleNamespace(create=Watched))
    monkeypatch.setattr(Watched, "seen", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER__TASK", "toy")
    small = ("num_epochs=2", "batch_size=8", "device=cpu", "threads=1", "schedule.name=constant")
    quiet = ("telemetry.progress=off", "telemetry.tensorboard=off", "telemetry.log_every=every 1 steps")

    def compare(*arguments):
        sets = [word for text in (*small, *quiet) for word in ("--set", text)]
        return main(["compare", *arguments, "--store", f"file://{tmp_path}/runs", *sets])

    return compare


def test_13_optimizers_start_from_equal_weights_and_see_the_same_batches(toys, capsys):
    assert toys("optim.name=adam,adamw,sgd", "--rates", "0.01", "--seeds", "2") == 0
    assert len(Watched.seen) == 6
    for seed in (42, 43):
        own = [found for name, found in Watched.seen.items() if name.endswith(f"-s{seed}")]
        (first, batches), *others = own
        assert len(own) == 3
        assert len(batches) == 14
        for weights, seen in others:
            assert seen == batches
            assert all(torch.equal(value, first[name]) for name, value in weights.items())
    assert "report  file://" in capsys.readouterr().out


def test_the_same_command_goes_on_and_says_the_same(toys, capsys, tmp_path):
    command = ("optim.name=adam,sgd", "--rates", "0.003,0.01", "--rates", "sgd:0.1", "--seeds", "2", "--json")
    assert toys(*command) == 0
    first = json.loads(capsys.readouterr().out)
    trained = set(Watched.seen)
    assert len(trained) == 2 + 1 + 1 + 1
    Watched.seen.clear()
    assert toys(*command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert not Watched.seen
    (folder,) = (tmp_path / "runs" / "compare").iterdir()
    assert json.loads((folder / "compare.json").read_text()) == first
    page = (folder / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 1
    assert all(run["run"] in trained and run["run"] in page for run in first["runs"])


def test_the_table_holds_what_the_ledgers_say(toys, capsys, tmp_path):
    assert toys("optim.name=adam,sgd", "--rates", "0.01", "--seeds", "2", "--json", "--metric", "val/top1") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["mode"]) == ("val/top1", "max")
    store = open_store(f"file://{tmp_path}/runs")
    for row in found["settings"]:
        runs = [run for run in found["runs"] if run["setting"] == row["setting"]]
        walks = [[one["metrics"]["top1"] for one in select(read_run(store, run["run"]), "PassDone")
                  if not one["is_final"]] for run in runs]  # fmt: skip
        assert row["final"]["mean"] == pytest.approx(np.mean([one[-1] for one in walks]))
        assert row["best"]["mean"] == pytest.approx(np.mean([max(one) for one in walks]))
        assert row["best"]["deviation"] == pytest.approx(np.std([max(one) for one in walks], ddof=1))
        assert row["num_runs"] == row["num_seeds"] == 2
        assert row["speed"] > 0
    assert found["reach"] == min(max(run["values"]) for run in found["runs"])
    assert all(row["steps_to_reach"] in (7, 10.5, 14) for row in found["settings"])


def test_a_search_goes_on_until_the_best_rate_has_neighbours(toys, capsys):
    assert toys("optim.name=adam,sgd", "--lr", "0.0003", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    for setting in ("adam", "sgd"):
        own = {run["rate"]: min(run["values"], default=np.inf) for run in found["runs"] if run["setting"] == setting}
        best = min(own, key=own.get)
        assert len(own) == 7 or min(own) < best < max(own)
        assert next(row for row in found["settings"] if row["setting"] == setting)["rate"] == best
        assert {0.0001, 0.0003, 0.0009} <= set(own)


def test_a_run_that_diverges_is_counted_and_not_tried_again(toys, capsys):
    command = ("optim.name=adam,sgd", "--rates", "0.01", "--rates", "sgd:0.01,1e30", "--json")
    assert toys(*command) == 0
    sgd = json.loads(capsys.readouterr().out)["settings"][1]
    assert (sgd["num_diverged"], sgd["num_runs"], sgd["num_seeds"], sgd["rate"]) == (1, 2, 1, 0.01)
    Watched.seen.clear()
    assert toys(*command) == 0
    assert not Watched.seen


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("optim.name=adam",), "write a setting and two values or more"),
        (("optim.name=adam,adam",), "a value stands there twice"),
        (("optim.nam=adam,sgd",), "did you mean 'optim.name'?"),
        (("optim.name=adam,fast",), "optim.name is fast"),
        (("optim.name=adam,sgd", "--rates", "many"), "write numbers"),
        (("optim.name=adam,sgd", "--rates", "adamw:0.1"), "adamw is none of adam, sgd"),
        (("optim.lr=0.1,0.2", "--rates", "0.1"), "optim.lr is what is compared"),
        (("optim.name=adam,sgd", "--rates", "0.01", "--metric", "val/bleu"), "--metric is 'val/bleu'"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(toys, capsys, arguments, says):
    assert toys(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert says in line


# -- 11 ----------------------------------------------------------------------------------------------------------------


class Flat(ToyTask):
    """Its metric never moves."""

    def summarize(self, name, sums):
        result = super().summarize(name, sums)
        return type(result)({**result.metrics, "loss": 0.5}, result.detail)


def test_11_a_flat_metric_stops_at_the_fourth_evaluation(tmp_path):
    train_toy(toy_settings(tmp_path, num_epochs=9, early_stop__patience="3 passes"), Flat)
    records = read_run(open_store(f"file://{tmp_path}"), "toy")
    walks = [one for one in select(records, "PassDone") if not one["is_final"]]
    assert [one["step"] for one in walks] == [7, 14, 21, 28]
    assert [one["is_best"] for one in walks] == [True, False, False, False]
    assert "early stop: val/loss has been no better than 0.5 since step 7" in [
        one["text"] for one in select(records, "Noted")
    ]
