"""W&B (the library itself, offline) and TensorBoard beside a hierarchy run: they watch, and change nothing."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trainer.run
from tests.toy import toy_settings, train_toy
from trainer.attempt import Attempt
from trainer.checkpoint.files import FileStore
from trainer.config.hierarchy import HierarchySettings
from trainer.engine.stop import StopRequests
from trainer.tasks.hierarchy.task import create
from trainer.telemetry.reading import effective, read_run, select

KEY = "5ec3e7" * 6 + "abcd"
VALUES = {
    "batch_size": 128, "data__layout": "t1", "mask__all": "0.3 @ 0", "balance__kind": "gradnorm",
    "balance__every": "every 2 steps", "telemetry__log_every": "every 2 steps", "output__report": False,
    "output__export": [],
}  # fmt: skip


def trained(folder: Path, **telemetry: str) -> Path:
    """A run of one epoch that is then made longer: two attempts."""
    for num_epochs in (1, 2):
        train_toy(toy_settings(folder, HierarchySettings, **VALUES, num_epochs=num_epochs, **telemetry), create)
    return folder / "toy"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        watched = trained(tmp_path_factory.mktemp("watched"), telemetry__wandb="offline", telemetry__tensorboard="on")
        wandb.teardown()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    alone = trained(tmp_path_factory.mktemp("alone"), telemetry__wandb="disabled", telemetry__tensorboard="off")
    return watched, alone


def test_both_attempts_are_one_wandb_run_under_the_name_of_the_run(runs):
    folders = sorted(path.name for path in (runs[0] / "logs/wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {name.split("-")[-1] for name in folders} == {"toy"}
    assert all(any(path.glob("*.wandb")) for path in (runs[0] / "logs/wandb").glob("offline-run-*"))
    assert not (runs[1] / "logs").exists()


def test_listeners_change_no_number(runs):
    def numbers(folder):
        records = effective(read_run(FileStore(folder.parent), "toy"))
        steps = [(one["step"], one["loss"], one["terms"], one["weights"]) for one in select(records, "StepDone")]
        return steps, [(one["step"], one["name"], one["metrics"]) for one in select(records, "PassDone")]

    watched, alone = map(numbers, runs)
    assert len(watched[0]) >= 4
    assert watched == alone
    weights = [max(run.glob("checkpoints/*/model.safetensors")).read_bytes() for run in runs]
    assert weights[0] == weights[1]


def test_tensorboard_has_the_names_of_the_task(runs):
    seen = EventAccumulator(str(runs[0] / "logs"))
    seen.Reload()
    tags = set(seen.Tags()["scalars"])
    assert {
        "train/loss", "train/fine/loss", "val/fine/top1", "val_mask_all/fine/top1", "balance/fine/weight",
        "balance/fine/norm", "schedule/mask_all",
    } <= tags  # fmt: skip


def test_the_key_is_in_no_file_of_the_run(runs):
    files = [path for path in runs[0].rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_only_the_first_rank_has_listeners(monkeypatch):
    monkeypatch.setattr(trainer.run, "open_attempt", lambda *_: pytest.fail("a second rank opened the run"))
    monkeypatch.setattr(trainer.run, "export_metrics", lambda *_: None)
    world = SimpleNamespace(is_first=False, share=lambda _: ("toy", "2-bb", False))
    attempt = Attempt(stop=StopRequests(None, None), world=world)
    assert trainer.run.open_on_first(HierarchySettings(), attempt) is None
    assert attempt.id == "2-bb"
    assert attempt.ledger is None
