"""How long `trainer --help` takes, next to `import torch` alone."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from tests.bench.turns import in_turns, paired, print_table

ROUNDS = 7
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "trainer --help": [sys.executable, "-m", "trainer", "--help"],
}


def seconds_of(command: list[str]) -> Callable[[], float]:
    """Runs the command and gives its seconds; a failure is an error here, not a fast run."""

    def run() -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "dumb"})
        return time.perf_counter() - started

    return run


def main() -> None:
    """Print the table."""
    runs = in_turns({name: seconds_of(command) for name, command in COMMANDS.items()}, ROUNDS)
    torch_alone = runs["import torch"]
    rows = [
        (name, f"{statistics.median(values):.2f}", f"{paired(values, torch_alone, lambda a, b: a / b):.2f}")
        for name, values in runs.items()
    ]
    print_table("Start of a command", ("command", "s, median", "x import torch"), rows, ["target: below 1.00"])
