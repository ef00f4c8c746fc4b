"""What publishing to S3 costs: speed next to `boto3.upload_file`, memory, an outage in mid-run, a thousand checkpoints.

The server is OpenStack Swift on this machine, so server and trainer share its cores.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.bench import size
from tests.bench.memory import rss_anon, watching
from tests.bench.turns import in_turns, paired, print_table
from tests.s3.server import SwiftS3
from trainer.checkpoint.opening import open_run
from trainer.checkpoint.outage import Retry
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.restore import restore
from trainer.checkpoint.run import Run
from trainer.checkpoint.s3.store import S3Store
from trainer.checkpoint.spool import Spool
from trainer.checkpoint.state import State
from trainer.checkpoint.stores import open_store
from trainer.telemetry.events import Event

ROUNDS = 3
BUCKET = "bench"


def start(store: S3Store, name: str) -> Run:
    """A run, or its next attempt."""
    return open_run(
        store, name=name, default_name=name, task="bench", config={}, matters={}, digest="d", resume="auto",
        resume_with_changes=False, max_dead_attempts=99, length={"num_epochs": 1}, events=silent,
    )  # fmt: skip


def silent(_: Event) -> None:
    """Nobody listens."""


def publisher(run: Run, **changes: Any) -> Publisher:
    """A publisher that gives up after ten minutes."""
    given = {"keep_last": 2, "keep_best": True, "emit": silent, "retry": Retry(tries=None, outage_seconds=600)}
    return Publisher(run, **{**given, **changes})


def state(size_bytes: int) -> State:
    """A state of that many bytes in one file."""
    tensor = torch.randint(0, 255, (size_bytes,), dtype=torch.uint8)
    return State({"model": {"w": tensor}}, {"cursor": {"step": 0}})


def speed_and_memory(server: SwiftS3, folder: Path) -> None:
    """Publishing a state against uploading a file of the same bytes, in turns; memory while it is published."""
    size_bytes = size("S3_MIB", 1024) << 20
    plain = server.client()
    tree = state(size_bytes)
    file = folder / "plain.bin"
    file.write_bytes(tree.tensors["model"]["w"].numpy().tobytes())
    store = open_store(f"s3://{BUCKET}/speed")
    own = publisher(start(store, "speed"))
    own.submit(tree, step=0, epoch=0)
    assert own.flush(600)
    before, steps = rss_anon(), iter(range(1, 1000))

    def publish() -> float:
        started = time.perf_counter()
        own.submit(tree, step=next(steps), epoch=0)
        assert own.flush(600)
        return size_bytes / (time.perf_counter() - started)

    def upload() -> float:
        started = time.perf_counter()
        plain.upload_file(str(file), BUCKET, "plain.bin")
        return size_bytes / (time.perf_counter() - started)

    with watching() as peak:
        publish()
    runs = in_turns({"boto3.upload_file": upload, "trainer": publish}, ROUNDS)
    own.close()
    rows = [
        (name, f"{statistics.median(v) / 1e6:.0f}", f"{min(v) / 1e6:.0f} to {max(v) / 1e6:.0f}")
        for name, v in runs.items()
    ]
    ratio = paired(runs["trainer"], runs["boto3.upload_file"], lambda a, b: a / b)
    extra = (peak.size_bytes - before) / 2**20
    notes = [
        f"trainer / boto3.upload_file: {ratio:.2f} (target: >= 0.90); the trainer's time includes the copy of the"
        " state, its SHA-256, manifest, hints and retention",
        f"RssAnon beside the state and its one copy, peak while publishing: {extra:.0f} MiB (target: <= 64)",
    ]
    print_table(f"Publishing {size_bytes / 2**30:.2f} GiB", ("way", "MB/s, median", "range"), rows, notes)


def outage(server: SwiftS3, folder: Path) -> None:
    """Steps before, in and after an outage of the server, with a checkpoint every five seconds."""
    seconds = size("OUTAGE_SECONDS", 60)
    store = open_store(f"s3://{BUCKET}/outage")
    run = start(store, "outage")
    own = publisher(run, spool=Spool(folder / "spool", run))
    weights, tree = torch.randn(700, 700), state(8 << 20)
    clock = time.perf_counter
    durations: dict[str, list[float]] = {}
    stalls: dict[str, list[float]] = {}
    step = taken = 0
    for phase in ("before", "store gone", "after"):
        if phase == "store gone":
            server.stop()
        elif phase == "after":
            server.start()
        ends, next_checkpoint = clock() + seconds, clock()
        while clock() < ends:
            started = clock()
            weights @ weights
            step += 1
            durations.setdefault(phase, []).append(clock() - started)
            if clock() >= next_checkpoint:
                started = clock()
                own.submit(tree, step=step, epoch=0)
                taken = step
                stalls.setdefault(phase, []).append(clock() - started)
                next_checkpoint = clock() + 5
            own.poll()
            assert own.error is None
    assert own.flush(600)
    found = restore(start(store, "outage"), silent)
    assert found is not None
    own.close()
    rows = [
        (
            phase,
            len(values),
            f"{statistics.median(values) * 1e3:.2f}",
            f"{max(stalls[phase]) * 1e3:.0f}",
        )
        for phase, values in durations.items()
    ]
    medians = {phase: statistics.median(values) for phase, values in durations.items()}
    notes = [
        f"step while the store is gone / before: {medians['store gone'] / medians['before']:.2f}",
        f"the newest checkpoint in the store afterwards is of step {found.step}, the last one taken of step {taken}",
    ]
    columns = (f"{seconds} s each", "steps", "ms a step, median", "longest stall, ms")
    print_table("The store goes away in mid-run", columns, rows, notes)


def thousand() -> None:
    """Requests of a publish and of finding the newest checkpoint, at the first and behind a thousand."""
    count = size("S3_CHECKPOINTS", 1000)
    store = open_store(f"s3://{BUCKET}/thousand")
    own = publisher(start(store, "thousand"), keep_last=10_000)
    tree = State({"model": {"w": torch.zeros(16)}}, {"cursor": {"step": 0}})
    rows = []
    for step in range(1, count + 1):
        before = store.requests.total()
        own.submit(tree, step=step, epoch=0)
        assert own.flush(600)
        if step in (2, 10, 100, count):
            requests = store.requests.total() - before
            finder = open_store(f"s3://{BUCKET}/thousand")
            started = time.perf_counter()
            assert newest_step(finder) == step
            rows.append((step, requests, finder.requests.total(), f"{(time.perf_counter() - started) * 1e3:.0f}"))
    own.close()
    columns = ("checkpoints kept", "requests of the publish", "requests to find the newest", "ms to find it")
    print_table("Many checkpoints in one run", columns, rows, ["target: at most 3 requests to find the newest, flat"])


def newest_step(store: S3Store) -> int:
    """What a restore asks before it reads any data: hint, folders behind it, manifest."""
    from trainer.checkpoint.manifest import FolderName
    from trainer.checkpoint.restore import LATEST_HINT, folder_names, read_hint, read_manifest

    hinted = read_hint(store, "thousand", LATEST_HINT)
    assert hinted is not None
    newest: FolderName = [hinted, *folder_names(store, "thousand", after=str(hinted))][-1]
    manifest = read_manifest(store, "thousand", newest)
    assert manifest is not None
    return manifest.step


def main() -> None:
    """Print the three tables; BENCH_S3_ONLY=outage prints one of them."""
    torch.set_num_threads(1)
    only = os.environ.get("BENCH_S3_ONLY")
    with SwiftS3() as server, tempfile.TemporaryDirectory() as name:
        os.environ |= server.env()
        server.client().create_bucket(Bucket=BUCKET)
        if only in (None, "speed"):
            speed_and_memory(server, Path(name))
        if only in (None, "outage"):
            outage(server, Path(name))
        if only in (None, "thousand"):
            thousand()
