"""What all tests share: one torch thread, real recordings where they are, a free port, hypothesis without a clock."""

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, for the processes that tests start, too
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("GOGC", "800")  # for Helm in the workers: less garbage collection, a third less per rendering
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every worker and every process of a test would compile all anew

import hypothesis
import pytest

sys.dont_write_bytecode = False

ROOT = Path(__file__).resolve().parents[1]

pytest_plugins = ["tests.prometheus.fixtures", "tests.s3.fixtures"]

hypothesis.settings.register_profile("trainer", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("trainer")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing is garbage while everything is imported; looking for it took a quarter of the time, in every worker."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Sums of floats depend on the number of threads; tests that compare bits need it fixed."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's TRAINER__... variables, an armed crash point or a rank environment must not reach a test."""
    ranks = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    for name in [name for name in os.environ if name.startswith("TRAINER_") or name in ranks]:
        monkeypatch.delenv(name)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """`shared_data("auslan_powerglove/signs.tar.gz")`: real recordings, or a skip that says where they were sought."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("SHARED_DATA") or ROOT.parent / "shared" / "data")
        if not (folder / name).exists():
            pytest.skip(f"no {name} in {folder}; set SHARED_DATA to the folder of real recordings")
        return folder / name

    return find


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
