import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.telemetry_samples import pass_done, run_started, step_done
from trainer.config.settings import TelemetrySettings
from trainer.errors import SettingsError
from trainer.telemetry import listeners as listeners_module
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import AttemptEnded, Event, Noted, Resumed
from trainer.telemetry.listeners import listeners
from trainer.telemetry.scalars import scalars
from trainer.telemetry.wandb import WandB


def test_a_log_point_and_a_pass_as_scalars() -> None:
    values = scalars(step_done(20, seconds=2.0, data_wait_seconds=0.5, metrics={"top1": 0.25, "top5": None}))
    assert values["train/loss"] == 1.0
    assert values["train/top1"] == 0.25
    assert values["train/lr"] == 1e-3
    assert values["train/grad_norm"] == 0.5
    assert values["train/samples_per_second"] == 640.0
    assert values["train/data_wait_share"] == 0.25
    assert not {"train/top5", "train/loss_scale"} & values.keys()
    assert scalars(pass_done(20, 0.75)) == {"val/loss": 0.75, "val/top1": 0.5}
    assert scalars(pass_done(20, is_final=True)) == {}
    of_level = step_done(
        20, metrics={"fine/top1": 0.5}, terms={"fine": 2.0}, weights={"fine": 0.5}, curves={"mix": 0.1}
    )
    names = {"train/fine/top1", "train/fine/loss", "balance/fine/weight", "schedule/mix"}
    assert names <= scalars(of_level).keys()
    assert scalars(pass_done(20, metrics={"fine/top1": 0.25}))["val/fine/top1"] == 0.25
    assert scalars(Noted(text="")) == {}


def test_tensorboard_reads_back_what_was_written_without_the_redone_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from trainer.telemetry.tensorboard import TensorBoard

    folder = tmp_path / "logs"
    first = TensorBoard(folder)
    for step in (20, 40, 60):
        first.on_event(step_done(step, loss=float(step)))
    first.on_event(pass_done(60, 0.5))
    first.on_event(Resumed(step=40, checkpoint="c", redone_steps=20))
    first.on_event(step_done(60, loss=0.25))
    first.close()
    TensorBoard(folder).close()
    assert len(list(folder.iterdir())) == 2
    seen = EventAccumulator(str(folder))
    seen.Reload()
    assert [(item.step, item.value) for item in seen.Scalars("train/loss")] == [(20, 20.0), (40, 40.0), (60, 0.25)]
    assert "val/loss" in seen.Tags()["scalars"] or seen.Scalars("train/loss")[-1].step == 60


class FakeRun:
    def __init__(self, init: dict[str, Any]) -> None:
        self.init = init
        self.logged: list[dict[str, float]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_wandb_is_told_run_id_folder_numbers_and_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[FakeRun] = []

    def init(**values: Any) -> FakeRun:
        runs.append(FakeRun(values))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    listener = WandB(tmp_path / "logs", project="p", run_id="run-1", mode="offline")
    for event in (run_started(), step_done(20), Noted(text=""), AttemptEnded(code=143, reason="", seconds=1)):
        listener.on_event(event)
    listener.close()
    (run,) = runs
    assert run.init["id"] == "run-1"
    assert run.init["mode"] == "offline"
    assert run.init["resume"] == "allow"
    assert Path(run.init["dir"]).is_dir()
    assert [values["step"] for values in run.logged] == [20]
    assert run.logged[0]["train/loss"] == 1.0
    assert run.exit_code == 143


def kinds(monkeypatch: pytest.MonkeyPatch, folder: Path | None, *, installed: bool, **changes: Any) -> list[str]:
    monkeypatch.setattr(listeners_module, "_installed", lambda module: installed)
    bus = Bus()
    settings = TelemetrySettings(**({"progress": "off"} | changes))
    found = listeners(settings, put=lambda key, data: None, emit=bus.emit, run="r", attempt="1-aa", folder=folder)
    names = [type(listener).__name__ for listener in found]
    bus.add(*found)
    bus.close()
    return names


def test_the_default_listeners_begin_with_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = kinds(monkeypatch, tmp_path, installed=False, progress="lines")
    assert names == ["Ledger", "Watcher", "Progress", "Notice"]
    assert kinds(monkeypatch, tmp_path, installed=False, tensorboard="off", warnings=False) == ["Ledger"]
    assert kinds(monkeypatch, None, installed=True, wandb="offline") == ["Ledger", "Watcher", "Notice", "Notice"]


@pytest.mark.parametrize(("setting", "extra"), [("tensorboard", "auto"), ("wandb", "offline")])
def test_a_missing_extra_is_said_once_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, extra: str
) -> None:
    monkeypatch.setattr(listeners_module, "_installed", lambda module: False)
    seen: list[Event] = []
    settings = TelemetrySettings(**{"progress": "off", "tensorboard": "off", setting: extra})
    bus = Bus()
    bus.add(*listeners(settings, put=lambda key, data: None, emit=bus.emit, run="r", attempt="1-aa", folder=tmp_path))
    bus.add(Collector(seen))
    bus.emit(run_started())
    bus.emit(step_done(20))
    bus.close()
    notes = [event.text for event in seen if isinstance(event, Noted)]
    assert len(notes) == 1
    assert f"signs-trainer[{setting}]" in notes[0]


class Collector:
    def __init__(self, seen: list[Event]) -> None:
        self.seen = seen

    def on_event(self, event: Event) -> None:
        self.seen.append(event)

    def close(self) -> None:
        pass


def test_tensorboard_asked_for_and_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(SettingsError, match=r"signs-trainer\[tensorboard\]"):
        kinds(monkeypatch, tmp_path, installed=False, tensorboard="on")


def test_a_folder_called_wandb_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not listeners_module._installed("only_a_folder")
    assert not listeners_module._installed("no_such_module_at_all")
    assert listeners_module._installed("json")
