"""The commands on a real run: prepare, train, look at it, copy it, use its model, leave signers out."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from trainer.cli import main
from trainer.cli.folds import Fold, spread

TINY = [
    "--model_metadata",
    "t_1_1",
    "--batch_size",
    "8",
    "--set",
    "data.sampling.frames=8",
    "--set",
    "output.export=[]",
]
TINY += [
    "--set",
    "output.report=off",
    "--set",
    "telemetry.tensorboard=off",
    "--set",
    "data.dataset_schema.preset=karsl",
]


def as_json(capsys, *arguments):
    code = main([*map(str, arguments), "--json"])
    assert code == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Generated recordings of three words by two signers, packed."""
    folder = tmp_path_factory.mktemp("recordings") / "signs"
    line = ["prepare", "--synthetic", folder, "--words", 3, "--signers", 2, "--repetitions", 3]
    assert main([*map(str, line)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Store of a complete run `first` of two epochs."""
    store = tmp_path_factory.mktemp("store")
    line = [
        "train",
        "--data",
        str(data),
        "--store",
        f"file://{store}",
        "--run_name",
        "first",
        "--num_epochs",
        "2",
        *TINY,
    ]
    assert main([*line, "--val_signers", "01"]) == 0
    return store


@pytest.fixture
def store(trained, tmp_path):
    """A copy of that store which a test may change."""
    shutil.copytree(trained, tmp_path / "store")
    return tmp_path / "store"


def test_prepare_says_what_it_packed_and_draws(data, capsys):
    assert main(["prepare", str(data), "--show", "2"]) == 0
    picture = data.with_name("signs-pictures") / "word-2.png"
    assert str(picture) in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_prepare_leaves_what_is_there(data, capsys):
    assert main(["prepare", "--synthetic", str(data), "--words", "2"]) == 3
    assert "exists already" in capsys.readouterr().err
    assert main(["prepare", "--synthetic", str(data), "more"]) == 2
    assert "prepare takes SOURCE and TARGET" in capsys.readouterr().err


def test_a_missing_data_folder_names_the_command_that_makes_one(tmp_path, capsys):
    store = tmp_path / "runs"
    assert main(["train", "--data", str(tmp_path / "none"), "--store", f"file://{store}"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "trainer prepare --synthetic" in err
    assert err.count("\n") == 1
    assert not store.exists()


def test_a_complete_run_is_complete_at_once(trained, data, capsys):
    line = ["--data", data, "--store", f"file://{trained}", "--run_name", "first", "--num_epochs", "2", *TINY]
    before = sorted((trained / "first" / "attempts").iterdir())
    assert as_json(capsys, "train", *line, "--val_signers", "01")["run"] == "first"
    assert sorted((trained / "first" / "attempts").iterdir()) == before


def test_other_settings_under_the_same_name_are_refused_with_the_difference(trained, data, capsys):
    line = ["--data", str(data), "--store", f"file://{trained}", "--run_name", "first", *TINY, "--val_signers", "01"]
    assert main(["train", *line, "--lr", "0.5"]) == 4
    assert "optim.lr: 0.001 -> 0.5" in capsys.readouterr().err


def test_checkpoints_are_listed_and_verified(store, capsys):
    url = f"file://{store}"
    [run] = as_json(capsys, "checkpoints", "list", "--store", url)
    assert (run["run"], run["complete"], run["task"]) == ("first", True, "signs")
    listed = as_json(capsys, "checkpoints", "list", "first", "--store", url)
    assert [one["problem"] for one in listed] == [None] * len(listed)
    assert main(["checkpoints", "verify", str(store / "first")]) == 0
    weights = store / "first" / "checkpoints" / listed[-1]["name"] / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert main(["checkpoints", "verify", "first", "--store", url]) == 4
    assert "model.safetensors" in capsys.readouterr().out


def test_a_run_travels_with_one_checkpoint_and_can_be_used_there(store, tmp_path, capsys):
    pulled = as_json(capsys, "checkpoints", "pull", "first", "--store", f"file://{store}", "--out", tmp_path / "here")
    assert [path.name for path in (tmp_path / "here/first/checkpoints").iterdir()] == [pulled["checkpoint"]]
    assert main(["checkpoints", "verify", str(tmp_path / "here/first")]) == 0
    there = f"file://{tmp_path / 'there'}"
    pushed = as_json(capsys, "checkpoints", "push", tmp_path / "here/first", "--store", there)
    assert pushed["checkpoint"] == pulled["checkpoint"]
    original = as_json(capsys, "evaluate", "first", "--store", f"file://{store}", "--checkpoint", "latest")
    copy = as_json(capsys, "evaluate", "--store", there, "--checkpoint", "latest")
    assert copy["results"] == original["results"]


def test_another_run_of_that_name_is_not_overwritten(store, tmp_path, capsys):
    other = tmp_path / "other/first"
    other.mkdir(parents=True)
    (other / "run.json").write_text('{"digest": "0"}')
    line = ["checkpoints", "pull", "first", "--store", f"file://{store}", "--out", str(tmp_path / "other")]
    assert main(line) == 4
    assert "another run called first" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["run.json"]


def test_a_promoted_checkpoint_survives_pruning(store, capsys):
    url = f"file://{store}"
    listed = [one["name"] for one in as_json(capsys, "checkpoints", "list", "first", "--store", url)]
    done = as_json(capsys, "checkpoints", "promote", "first", "--checkpoint", listed[0], "--store", url)
    assert done["checkpoint"] == listed[1], "of the two at this step the newer one stays"
    main(["checkpoints", "prune", "first", "--keep-last", "1", "--no-keep-best", "--store", url])
    capsys.readouterr()
    left = as_json(capsys, "checkpoints", "list", "first", "--store", url)
    assert (left[0]["name"], left[0]["milestone"]) == (listed[1], True)
    assert len(left) < len(listed)
    assert main(["checkpoints", "verify", "first", "--store", url]) == 0


def test_evaluate_measures_what_training_measured(trained, capsys):
    records = [json.loads(line) for path in sorted((trained / "first/ledger").rglob("*.jsonl")) for line in path.open()]
    [final] = [record for record in records if record["event"] == "PassDone" and record["is_final"]]
    assert as_json(capsys, "evaluate", trained / "first")["results"]["val"] == final["metrics"]


def test_export_writes_weights(trained, tmp_path, capsys):
    import torch

    [written] = as_json(capsys, "export", trained / "first", "--format", "pth", "--out", tmp_path)
    assert written["kind"] == "pth"
    assert torch.load(written["path"], weights_only=True)["model"]


def test_a_report_is_made(trained, tmp_path, capsys):
    made = as_json(capsys, "report", "first", "--store", f"file://{trained}", "--out", tmp_path)
    assert made["files"][0] == str(tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_run_that_is_not_there_names_the_nearest(trained, capsys):
    assert main(["report", "frist", "--store", f"file://{trained}"]) == 2
    assert "did you mean 'first'?" in capsys.readouterr().err
    assert main(["evaluate", "first", "--store", f"file://{trained}", "--checkpoint", "77"]) == 4
    assert "has no checkpoint '77'" in capsys.readouterr().err


def test_the_plan_is_what_the_run_did(trained, data, capsys):
    line = ["--data", data, "--num_epochs", "2", *TINY, "--val_signers", "01"]
    plan = as_json(capsys, "config", "--plan", *line)
    records = [json.loads(text) for path in sorted((trained / "first/ledger").rglob("*.jsonl")) for text in path.open()]
    passes = [(r["step"], f"pass {r['name']}") for r in records if r["event"] == "PassDone" and not r["is_final"]]
    assert [(one["step"], one["what"]) for one in plan["timeline"] if one["what"].startswith("pass")] == passes
    assert max(record["step"] for record in records) == plan["total_steps"]


def test_each_signer_is_left_out_once(data, tmp_path, capsys):
    line = ["train", "--data", data, "--store", f"file://{tmp_path}", "--run_name", "loso", "--folds", "signer", *TINY]
    first = as_json(capsys, *line)
    assert [fold["held_out"] for fold in first["folds"]] == ["01", "02"]
    for fold in first["folds"]:
        own = json.loads((tmp_path / fold["run"] / "run.json").read_text())["config"]
        assert own["data"]["split"]["test_signers"] == [fold["held_out"]]
    mean = sum(fold["metrics"]["val/top1"] for fold in first["folds"]) / 2
    assert first["spread"]["val/top1"]["mean"] == pytest.approx(mean)
    assert json.loads((tmp_path / "folds/loso/folds.json").read_text()) == first
    assert "Each run was trained without one signer" in (tmp_path / "folds/loso/report.html").read_text()
    assert as_json(capsys, *line) == first, "the same command again only shows the table"


def test_the_spread_is_that_of_a_sample_over_metrics_all_folds_have():
    folds = [Fold("a", "x-a", {"val/top1": 0.2, "val/a": 1.0}), Fold("b", "x-b", {"val/top1": 0.4, "val/a": None})]
    [(name, one)] = spread(folds).items()
    assert name == "val/top1"
    assert (one.mean, one.deviation) == (pytest.approx(0.3), pytest.approx(0.02**0.5))
    assert (one.least, one.greatest) == (0.2, 0.4)


@pytest.mark.parametrize("door", [["trainer", "train"], ["trainer.train"]])
def test_the_process_ends_with_the_code_and_one_line(door):
    command = [sys.executable, "-m", *door, "--batch_size", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: batch_size is 0 (--batch_size): must be greater than or equal to 1\n"


def test_output_that_nobody_reads_ends_a_command_quietly():
    command = [sys.executable, "-m", "trainer", "config"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == ("", 1)


def test_native_threads_do_not_abort_a_process_that_ends():
    """As gloo's do on a busy node: they ask for the interpreter's lock after the command's last line."""
    script = """
import threading, torch
from trainer.cli import run_process

def multiply(factor):
    while True:
        started.set()
        factor @ factor

started = threading.Event()
threading.Thread(target=multiply, args=(torch.ones(2000, 2000),), daemon=True).start()
started.wait()
run_process(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "preflight" in done.stdout


def test_sigterm_ends_a_training_process_with_143(data, tmp_path):
    line = [
        "train",
        "--data",
        data,
        "--store",
        f"file://{tmp_path}",
        "--run_name",
        "told",
        "--num_epochs",
        100000,
        *TINY,
    ]
    line += ["--set", "telemetry.progress=lines"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Epoch 2/"):
        assert process.poll() is None, process.stderr
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert not (tmp_path / "told/COMPLETE.json").exists()
