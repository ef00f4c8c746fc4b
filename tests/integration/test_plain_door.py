"""`train(...)` as people know it: their model, their loaders, their scheduler; our checkpoints and resume."""

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.toy import free_port
from trainer.errors import SettingsError, Stopped
from trainer.train import train


class Classifier(nn.Module):
    num_classes = 3
    model_size = "s_4_2"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)


def data(size: int = 60) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(size) % 3
    return TensorDataset(torch.randn(size, 4, generator=generator) + label[:, None], label)


def parts(kind: str = "plateau"):
    torch.manual_seed(5)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    kinds = torch.optim.lr_scheduler
    scheduler = {
        "plateau": lambda: kinds.ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
        "step": lambda: kinds.StepLR(optimizer, 2, 0.5),
        "none": lambda: None,
    }[kind]()
    return model, optimizer, scheduler


def loaders():
    return DataLoader(data(), batch_size=8, shuffle=True), DataLoader(data(20), batch_size=7)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USE_CPU", "1")
    monkeypatch.setenv("TRAINER__TELEMETRY__PROGRESS", "off")
    monkeypatch.setenv("TRAINER__TELEMETRY__TENSORBOARD", "off")
    monkeypatch.setenv("TRAINER__OUTPUT__REPORT", "false")


def weights(path: str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize("kind", ["plateau", "step", "none"])
def test_returns_the_path_of_the_best_weights(kind):
    model, optimizer, scheduler = parts(kind)
    path = train(model, nn.CrossEntropyLoss(), optimizer, scheduler, *loaders(), 3)
    assert path is not None
    assert Path(path).parent.name.endswith("-signs_3_s_4_2")
    assert Path(path).parent.name.startswith("checkpoint_")
    assert weights(path).keys() == model.state_dict().keys()
    Classifier().load_state_dict(weights(path))


def test_report_files_lie_beside_the_weights(monkeypatch):
    monkeypatch.setenv("TRAINER__OUTPUT__REPORT", "true")
    model, optimizer, scheduler = parts()
    path = train(model, nn.CrossEntropyLoss(), optimizer, scheduler, *loaders(), 2)
    assert Path(f"{path}-Model_Diagnostics.jpg").stat().st_size > 10_000
    assert "precision" in Path(f"{path} - classification_report.csv").read_text()


class StopAt(nn.CrossEntropyLoss):
    """Sends SIGTERM at one call, as an eviction would."""

    def __init__(self, call):
        super().__init__()
        self.calls_left = call

    def forward(self, *args):
        self.calls_left -= 1
        if self.calls_left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(*args)


@pytest.mark.filterwarnings("error:Detected call of")  # torch's word on the order of scheduler and optimizer
@pytest.mark.parametrize("kind", ["plateau", "step"])
@pytest.mark.parametrize(("call", "num_epochs"), [(8, 2), (9, 1), (13, 1)])
def test_an_interrupted_call_goes_on_to_the_same_weights(call, num_epochs, kind, monkeypatch):
    """Told to stop in the last of the 8 steps of an epoch, in the pass behind it, and in the middle of an epoch."""
    monkeypatch.setenv("TRAINER__PASSES__VAL", f"every {num_epochs} epochs and end")
    monkeypatch.setenv("TRAINER__RUN__STORE", "file://calm")
    model, optimizer, scheduler = parts(kind)
    calm = weights(train(model, nn.CrossEntropyLoss(), optimizer, scheduler, *loaders(), 3))
    monkeypatch.setenv("TRAINER__RUN__STORE", "file://stopped")
    model, optimizer, scheduler = parts(kind)
    with pytest.raises(Stopped):
        train(model, StopAt(call), optimizer, scheduler, *loaders(), 3)
    model, optimizer, scheduler = parts(kind)
    path = train(model, nn.CrossEntropyLoss(), optimizer, scheduler, *loaders(), 3)
    for name, value in weights(path).items():
        assert torch.equal(value, calm[name])


def test_a_scheduler_of_another_optimizer_is_told_by_torch():
    model, optimizer, _ = parts()
    scheduler = parts("step")[2]
    with pytest.warns(UserWarning, match="Detected call of"):
        train(model, nn.CrossEntropyLoss(), optimizer, scheduler, *loaders(), 1)


def test_an_error_inside_raises():
    model, optimizer, scheduler = parts()
    with pytest.raises(ZeroDivisionError):
        train(model, lambda output, target: 1 / 0, optimizer, scheduler, *loaders(), 1)


def test_an_iterator_and_an_empty_loader_are_refused():
    model, optimizer, scheduler = parts()
    first, second = loaders()
    with pytest.raises(SettingsError, match="walked only once"):
        train(model, nn.CrossEntropyLoss(), optimizer, scheduler, iter(first), second, 1)
    with pytest.raises(SettingsError, match="is empty"):
        train(model, nn.CrossEntropyLoss(), optimizer, scheduler, first, [], 1)


class EndsEarly(list):
    """Says that it has two batches more than it gives."""

    def __len__(self) -> int:
        return super().__len__() + 2


def test_a_loader_that_ends_before_its_length_is_named():
    model, optimizer, scheduler = parts()
    first, second = loaders()
    with pytest.raises(SettingsError, match="ended after 8 of the 10 batches"):
        train(model, nn.CrossEntropyLoss(), optimizer, scheduler, EndsEarly(first), second, 1)


def test_with_the_callers_group_wrapper_and_sampler(tmp_path):
    port, pids = free_port(), []
    for rank in range(2):
        if not (pid := os.fork()):
            code = 1
            try:
                address = f"tcp://127.0.0.1:{port}"
                dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
                model, _, _ = parts()
                wrapped = DistributedDataParallel(model)
                optimizer = torch.optim.Adam(wrapped.parameters(), 0.02)
                sampler = DistributedSampler(data())
                loader = DataLoader(data(), batch_size=8, sampler=sampler)
                held = DataLoader(data(20), batch_size=7)
                path = train(wrapped, nn.CrossEntropyLoss(), optimizer, None, loader, held, 2, "cpu", rank, sampler)
                (tmp_path / f"rank{rank}").write_text(str(path))
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert Path((tmp_path / "rank0").read_text()).exists()
    assert (tmp_path / "rank1").read_text() == "None"
