"""A ledger on a real file store, written by a process that is killed: what was stored can be read back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer.checkpoint.files import FileStore
from trainer.telemetry.reading import effective, read_run, select
from trainer.telemetry.summary import summary

CHILD = """
import sys
from pathlib import Path

from tests.unit.telemetry_samples import pass_done, run_started, step_done
from trainer.checkpoint.files import FileStore
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import Resumed
from trainer.telemetry.ledger import Ledger

folder, attempt, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = FileStore(Path(folder))
ledger = Ledger(lambda key, data: store.put(f"r/{key}", [data]), run="r", attempt=attempt)
bus = Bus([ledger])
bus.emit(run_started())
if start:
    bus.emit(Resumed(step=start, checkpoint="c", redone_steps=0))
for step in range(start + 20, start + 2_000_000, 20):
    bus.emit(step_done(step, loss=float(attempt[0])))
    if step % 100 == 0:
        bus.emit(pass_done(step))
        bus.flush(10)
        print(step, flush=True)
"""


def killed_attempt(folder: Path, attempt: str, start: int) -> int:
    """Run an attempt until it has reported a few stored passes, kill it; the last step it reported."""
    command = [sys.executable, "-c", CHILD, str(folder), attempt, str(start)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2])
    assert child.stdout is not None
    steps = [int(child.stdout.readline()) for _ in range(5)]
    os.kill(child.pid, signal.SIGKILL)
    rest = child.communicate()[0].split()
    assert child.returncode == -signal.SIGKILL
    return int(rest[-1]) if rest else steps[-1]


def test_what_killed_attempts_stored_is_read_back_in_order_without_the_redone_steps(tmp_path: Path) -> None:
    first_reached = killed_attempt(tmp_path, "1-aa", 0)
    killed_attempt(tmp_path, "2-bb", 300)
    records = read_run(FileStore(tmp_path), "r")
    steps = [record["step"] for record in select(effective(records), "StepDone")]
    assert steps == list(range(20, steps[-1] + 1, 20))
    assert [record["loss"] for record in select(effective(records), "StepDone")] == [1.0] * 15 + [2.0] * (
        len(steps) - 15
    )
    first = [record["step"] for record in select(records, "PassDone") if record["attempt"] == "1-aa"]
    assert first_reached in first
    assert summary(records, now=time.time()).status == "running"
    found = summary(records, now=time.time() + 1_000)
    assert (found.status, found.num_attempts) == ("killed", 2)
    assert sum(found.seconds_by_kind.values()) > 0
