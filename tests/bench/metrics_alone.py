"""The metrics by themselves: what a log point costs the training thread, and what a page costs.

The page is that of the task `signs` with 502 words, all passes done and a store of S3. Light to import: tests hold the
limits with the same functions.
"""

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import generate_latest

from tests.unit.telemetry_samples import pass_done, run_started, step_done
from trainer.config.prometheus import PrometheusSettings
from trainer.engine.clock import Clock
from trainer.tasks.signs.metrics import metric_names
from trainer.telemetry.events import CheckpointPublished, CheckpointTaken, Event
from trainer.telemetry.prometheus.exporter import Exporter
from trainer.telemetry.prometheus.listener import MetricsListener
from trainer.telemetry.prometheus.live import Sources
from trainer.telemetry.warnings import general_rules

NUM_CLASSES, SIGNERS, LOG_EVERY = 502, ["01", "02", "03"], 20
NUM_EVENTS, NUM_SCRAPES = 2000, 50
PER_STEP_MICROS, SCRAPE_MILLIS = 5.0, 10.0
"""What the metrics may cost."""


@contextmanager
def exporter() -> Iterator[tuple[Exporter, MetricsListener]]:
    """An exporter that has seen a run of `signs` with 502 words."""
    requests = Counter(PutObject=10, GetObject=10), Counter[str]()
    made = Exporter(
        PrometheusSettings(enabled="on", host="127.0.0.1", port=0),
        "bench",
        Sources(account=Clock().peek, last_beat=time.monotonic, requests=lambda: requests),
        print,
    )
    listener = made.listener(rules=general_rules(), history=(), num_gpus=0, grace_seconds=30.0, warn=print)
    names = metric_names(SIGNERS)
    started = run_started(
        metrics=names,
        passes={"val": 4500, "test": 25100},
        info={"classes": [{"word": number} for number in range(NUM_CLASSES)]},
    )
    values = dict.fromkeys(names, 0.5)
    detail = {"confusion": [[number, number, 9] for number in range(NUM_CLASSES)]}
    passes = [pass_done(20, name=name, metrics=values, is_best=True, detail=detail) for name in started.passes]
    finals = [pass_done(20, name=name, metrics=values, is_final=True, detail=detail) for name in started.passes]
    saves: list[Event] = [
        CheckpointTaken(step=20, stall_seconds=0.1, size_bytes=1),
        CheckpointPublished(step=20, checkpoint="20", size_bytes=1, seconds=1.0),
    ]
    made.describe(started)
    for event in (started, step_done(20, metrics=values), *passes, *finals, *saves):
        listener.on_event(event)
    try:
        yield made, listener
    finally:
        made.close()


def micros_per_step() -> float:
    """CPU time of the listener, at the default of one log point in 20 steps; the best of ten blocks."""
    events = [step_done(LOG_EVERY * number, loss=1.0 / number) for number in range(1, NUM_EVENTS + 1)]
    with exporter() as (_, listener):
        blocks = []
        for start in range(0, NUM_EVENTS, NUM_EVENTS // 10):
            block = events[start : start + NUM_EVENTS // 10]
            begun = time.thread_time()
            for event in block:
                listener.on_event(event)
            blocks.append((time.thread_time() - begun) / len(block))
    return min(blocks) / LOG_EVERY * 1e6


def page_millis() -> float:
    """CPU time of making the page; the best of 20."""
    taken = []
    with exporter() as (made, _):
        for _ in range(20):
            begun = time.thread_time()
            generate_latest(made.registry)
            taken.append(1e3 * (time.thread_time() - begun))
    return min(taken)


def scrape_millis() -> tuple[list[float], int, int]:
    """Milliseconds of each scrape over HTTP, and size in bytes and number of samples of the page."""
    taken, body = [], b""
    with exporter() as (made, _):
        for _ in range(NUM_SCRAPES):
            threading.Event().wait(0.11)  # a page is kept for a tenth of a second: this one must be made
            begun = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{made.port}/metrics") as answer:
                body = answer.read()
            taken.append(1e3 * (time.perf_counter() - begun))
    return taken, len(body), sum(not line.startswith(b"#") for line in body.splitlines())
