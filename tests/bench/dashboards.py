"""Pictures of the dashboard "Training run": the quick preset, killed once, scraped by a real Prometheus."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from charts.tools.dashboards import training_run
from charts.tools.dashboards.answers import Source
from charts.tools.dashboards.pictures import draw, only
from tests.prometheus.server import PrometheusServer
from tests.toy import free_port

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {
    "dashboard-learning.png": ["Is it alive?", "Does it learn?"],
    "dashboard-time.png": ["Where does the time go?", "What would a kill cost now?"],
}
EMPTY = [
    "Warning signs",
    "Left out and not finite",
    "Results",
    "Bad samples",
    "Requests to S3",
    "Stepped over and replaced",
]
"""Panels that have nothing to say about this run."""
RUN = "signs-train"
LONGEST_SECONDS = 3600.0
"""Longest wait for either half of the run."""


def main() -> None:
    """Train, kill in the middle, go on, draw into .github/."""
    port = free_port()
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "default", "pod": f"{RUN}-1-master-0"}}
    with tempfile.TemporaryDirectory() as folder, PrometheusServer({RUN: [target]}, interval="1s") as server:
        source = _run_and_kill(server, partial(_begin, Path(folder), port))
        for name, rows in PICTURES.items():
            draw(only(training_run.dashboard(), rows, EMPTY), source, ROOT / ".github" / name)
            print(f".github/{name}: {(ROOT / '.github' / name).stat().st_size // 1000} kB")


def _run_and_kill(server: PrometheusServer, begin: Callable[[], subprocess.Popen[bytes]]) -> Source:
    """Two attempts; ends while the second one is alive, so that tiles of the present have something to say."""
    start, run = time.time(), begin()
    try:
        server.wait_until("trainer_progress_ratio > 0.45", LONGEST_SECONDS)
        run.kill()
        run.wait()
        server.wait_until("up == 0")
        run = begin()
        server.wait_until("trainer_progress_ratio > 0.9", LONGEST_SECONDS)
        return Source(server.url, RUN, start, time.time(), rate="30s")
    finally:
        run.kill()
        run.wait()


def _begin(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """An attempt, which keeps everything below `folder`."""
    exporter = {"enabled": "on", "host": "127.0.0.1", "port": port, "linger_seconds": 5}
    settings = [f"telemetry.prometheus.{name}={value}" for name, value in exporter.items()]
    settings += ["telemetry.progress=off", "checkpoint.every=every 2 epochs and end", "output.report=false"]
    chosen = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "trainer", "train", "--config", "quick", "--store", f"file://{folder}",
               "--run_name", RUN, *chosen]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
