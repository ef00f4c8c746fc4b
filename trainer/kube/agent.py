"""torchrun as a child of the launcher: `python -m trainer.kube.agent GATE REPORT FLAGS... -m trainer.train ARGS...`

It imports torch while the launcher still looks at the world, and goes on when a byte comes through the descriptor
GATE; its end without one means that the launcher gave up. torchrun itself would say no more than 1 about how its
processes ended: what each of them ended with goes to the file REPORT.

Without FLAGS there is nothing to coordinate: the one process trains itself, which saves an import of torch and 200 MB.
"""

import ctypes
import json
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.errors import InfrastructureError

_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def main(arguments: Sequence[str]) -> int:
    """Wait for the launcher's word, then run; the exit code is the process's own, or what torchrun would give."""
    gate, report, *command = arguments
    end_with_the_launcher()
    flags, program = command[: command.index("-m")], command[command.index("-m") + 1 :]
    if flags:
        import torch.distributed.run
    else:
        import torch  # noqa: F401  # what takes the time
    if not is_open(int(gate)):
        return 0
    if not flags:
        sys.argv = program
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
        return 0
    return coordinate(command, Path(report))


def coordinate(command: Sequence[str], report: Path) -> int:
    """torchrun, with its end in the report."""
    import torch.distributed as dist
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    try:
        run.run(run.parse_args(list(command)))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        failures = {rank: [one.exitcode, one.timestamp] for rank, one in error.failures.items()}
        write(report, failures=failures)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    except (RendezvousError, dist.DistError, OSError) as error:
        text = str(error).strip().splitlines()
        write(report, error=f"the nodes did not come together: {text[0] if text else type(error).__name__}")
        return InfrastructureError.exit_code
    return 0


def is_open(gate: int) -> bool:
    """Wait at the gate."""
    try:
        return os.read(gate, 1) != b""
    finally:
        os.close(gate)


def write(report: Path, **said: Any) -> None:
    """Leave the report; the exit code still stands if that fails."""
    with suppress(OSError):
        report.write_text(json.dumps(said), encoding="utf-8")


def end_with_the_launcher() -> None:
    """Be told to stop when the launcher is killed; in a pod the kernel does that by itself."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
