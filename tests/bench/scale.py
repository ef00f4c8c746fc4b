"""A corpus of the size of KArSL-502: generated and packed as a stream, then trained on, with the memory of both.

Takes long at its full size (75,300 recordings, about 5 GB of disk); BENCH_REPETITIONS=2 is a quick look.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import size
from tests.bench.memory import watching
from tests.bench.turns import print_table

ROOT = Path(__file__).resolve().parents[2]
WORDS, SIGNERS = 502, 3
LIMIT_GB = 2.0
TRAINER = [sys.executable, "-m", "trainer"]


def watched(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak RssAnon in GB of one trainer command; its error ends the benchmark."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the folder is another one, the checkout the same
    process = subprocess.Popen([*TRAINER, *arguments], cwd=folder, stdout=subprocess.DEVNULL, env=environment)
    with watching(process.pid, every_seconds=0.02) as peak:
        code = process.wait()
    if code:
        raise SystemExit(f"trainer {' '.join(arguments)} ended with {code}")
    return time.perf_counter() - started, peak.size_bytes / 1e9


def main() -> None:
    """Print the table."""
    repetitions, num_steps = size("REPETITIONS", 50), size("STEPS", 30)
    corpus = [f"--words={WORDS}", f"--signers={SIGNERS}", f"--repetitions={repetitions}"]
    training = [f"--max_steps={num_steps}", "--model_metadata=s_4_2", "--set", "passes.val=never"]
    quiet = ["--set", "output.report=false", "--set", "output.export=[]"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        for what, arguments in (
            ("generate and pack", ["prepare", "data", "--synthetic", *corpus]),
            (f"train {num_steps} steps and evaluate once", ["train", "--data=data", *training, *quiet]),
        ):
            seconds, peak = watched(arguments, folder)
            rows.append((what, f"{seconds:.0f}", f"{peak:.2f}"))
        disk = sum(file.stat().st_size for file in (folder / "data").iterdir()) / 1e9
    num_recordings = WORDS * SIGNERS * repetitions
    note = f"{num_recordings:,} recordings, {disk:.1f} GB on disk; target: RssAnon below {LIMIT_GB:.0f} GB"
    print_table("Scale", ("command", "s", "peak RssAnon, GB"), rows, [note])
