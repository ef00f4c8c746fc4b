"""The door for people and scripts: `trainer COMMAND ...`. Commands are thin; the work is done in the rooms below.

`main` gives the exit code of design 8; `run_process` is the console script and ends the process with it.
"""

from trainer.cli.app import main, run_process

__all__ = ["main", "run_process"]
