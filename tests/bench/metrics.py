"""What the metrics cost: a log point in the training thread, a scrape, and the loop with and without a scraper.

The listener is timed alone (`metrics_alone`), because its part of a step is far below the noise of the loop.
"""

import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.bench.loop import ROUNDS, STEPS, WARM_UP, Result, times_of
from tests.bench.metrics_alone import (
    LOG_EVERY,
    NUM_CLASSES,
    NUM_SCRAPES,
    PER_STEP_MICROS,
    SCRAPE_MILLIS,
    micros_per_step,
    page_millis,
    scrape_millis,
)
from tests.bench.ours import TinySettings, train_whole
from tests.bench.tiny import BATCH, TinyTask, tiny_batches
from tests.bench.turns import in_turns, paired, print_table
from tests.toy import free_port
from trainer.config.prometheus import PrometheusSettings

SCRAPE_SECONDS = 1.0
"""Between two scrapes of the loop: fifteen times as often as Prometheus comes."""


def of_loop(batches: list[tuple[torch.Tensor, torch.Tensor]], enabled: str) -> Callable[[], Result]:
    """The engine with metrics off, or on and scraped every second."""

    def run() -> Result:
        settings = TinySettings(batch_size=BATCH, num_epochs=1, device="cpu", threads=1)
        port = free_port()
        settings.telemetry.prometheus = PrometheusSettings(enabled=enabled, port=port, host="127.0.0.1")
        task = TinyTask(batches, settings.seed)
        with tempfile.TemporaryDirectory() as folder, scraped(port if enabled == "on" else None):
            train_whole(task, settings, Path(folder))
        return times_of(task.model)

    return run


@contextmanager
def scraped(port: int | None) -> Iterator[None]:
    """Scrape every second during the block."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_SECONDS):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
            except OSError:
                continue

    thread = threading.Thread(target=scrape)
    if port:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if port:
            thread.join()


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    micros = micros_per_step()
    millis, num_bytes, num_samples = scrape_millis()
    print_table(
        "Cost of the metrics",
        ("what", "measured", "allowed"),
        [
            (f"listener, a step (log point every {LOG_EVERY})", f"{micros:.2f} us", f"{PER_STEP_MICROS:g} us"),
            ("making the page, CPU time", f"{page_millis():.1f} ms", f"{SCRAPE_MILLIS:g} ms"),
            (f"scrape over HTTP, {NUM_CLASSES} classes, median", f"{statistics.median(millis):.1f} ms",
             f"{SCRAPE_MILLIS:g} ms"),
            ("... the slowest", f"{max(millis):.1f} ms", ""),
        ],
        [f"page of {num_samples} samples, {num_bytes / 1024:.0f} KiB; {NUM_SCRAPES} scrapes"],
    )  # fmt: skip
    batches = tiny_batches(STEPS + WARM_UP)
    runs = in_turns({"off": of_loop(batches, "off"), "on": of_loop(batches, "on"),
                     "off again (noise)": of_loop(batches, "off")}, ROUNDS)  # fmt: skip
    rows = []
    for name, results in runs.items():
        over = [
            f"{paired([r[key] for r in results], [r[key] for r in runs['off']], lambda a, b: a - b):+.1f}"
            for key in ("cpu", "median cpu", "wall")
        ]
        rows.append((name, f"{statistics.median(r['cpu'] for r in results):.0f}", *over))
    print_table(
        "The loop with and without metrics, main thread",
        ("metrics", "CPU us/step", "over off", "... median window", "... wall"),
        rows,
        [f"scraped every {SCRAPE_SECONDS:g} s; median of {ROUNDS} rounds"],
    )


if __name__ == "__main__":
    main()
