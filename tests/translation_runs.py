"""Runs of the task translation that take a second: a narrow model on few pairs of a generated corpus."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.toy import filled, fork_ranks, wait_for
from trainer.checkpoint import crash
from trainer.config.translation import TranslationSettings
from trainer.run import Finished, train_settings


def translation_settings(folder: Path, **values: Any) -> TranslationSettings:
    """Settings of quick runs; dotted names are given with `__`, a whole section as a dict."""
    tree: dict[str, Any] = {
        "num_epochs": 2,
        "device": "cpu",
        "threads": 1,
        "process_timeout_seconds": 30,
        "run": {"store": f"file://{folder}", "name": "run"},
        "data": {"layout": "embedded", "corpus": "en_de_numbers", "pairs": 300, "max_tokens": 400},
        "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 32},
        "schedule": {"warmup": "10 steps"},
        "decode": {"beam_size": 2},
        "checkpoint": {"every": "every 4 steps and end"},
        "telemetry": {"progress": "off", "log_every": "every 1 steps", "tensorboard": "off", "warnings": False},
        "output": {"report": False, "export": []},
    }
    return TranslationSettings.model_validate(filled(tree, values))


def train_here(settings: TranslationSettings) -> Finished:
    """One attempt in this process."""
    try:
        return train_settings(settings)
    finally:
        gc.freeze()  # as in tests.toy


def attempt(settings: TranslationSettings, world_size: int = 1, crash_at: str | None = None) -> list[int]:
    """One attempt in forked processes; exit codes by rank, 128 + n for signal n. The first rank dies at `crash_at`."""

    def run(rank: int) -> None:
        crash.arm(crash_at if rank == 0 else None)
        train_settings(settings.model_copy(deep=True))

    return wait_for(fork_ranks(run, world_size))


def in_ranks(run: Callable[[int], None], world_size: int) -> None:
    """Run a function on every rank, in forked processes; all must end well."""
    assert wait_for(fork_ranks(run, world_size)) == [0] * world_size
