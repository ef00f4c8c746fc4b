"""Accuracy on real recordings of unseen signers, with the command of the README."""

import json

import pytest

from trainer.cli import main

TABLE = "auslan_powerglove/signs.tar.gz"
QUIET = ["telemetry.progress=off", "telemetry.tensorboard=off", "output.report=false", "output.export=[]"]


def changes(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def run(capsys, *words: str) -> dict:
    code = main(["train", "--config", "auslan", *words, *changes(*QUIET), "--json"])
    assert code == 0
    return json.loads(capsys.readouterr().out)


def test_real_recordings_are_read_and_learned(shared_data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = shared_data("auslan_powerglove/signs_10words.tar.gz")
    results = run(capsys, "--data", str(path), "--test_signers", "waleed", "--num_epochs", "6")["results"]
    assert results["val"]["top1"] > 0.5, "ten words, chance is 0.1"
    assert results["test"]["top1"] > 0.3, "a signer that was not in training"


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [42, 43])
def test_leave_one_signer_out_beats_the_published_neighbourhood(seed, shared_data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(capsys, "--data", str(shared_data(TABLE)), "--folds", "signer", "--seed", str(seed))
    held_out = {fold["held_out"]: round(fold["metrics"]["test/top1"], 4) for fold in found["folds"]}
    mean = found["spread"]["test/top1"]["mean"]
    with capsys.disabled():
        print(f"\nseed {seed}: one signer left out {held_out}, mean {mean:.4f}")
    assert mean > 0.30


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_seen_signers(shared_data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = []
    for seed in range(5):
        split = changes(f"data.split.seed={seed}", "data.split.val_share=0.05", "data.split.test_share=0.2")
        results = run(capsys, "--data", str(shared_data(TABLE)), "--run_name", f"seen-{seed}", *split)["results"]
        scores.append(results["test"]["top1"])
    mean = sum(scores) / len(scores)
    with capsys.disabled():
        print(f"\nseen signers, five random fifths: {[round(score, 4) for score in scores]}, mean {mean:.4f}")
    assert mean > 0.82
