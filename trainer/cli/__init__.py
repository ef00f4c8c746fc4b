"""The door for people and scripts: `trainer COMMAND ...`. Commands are thin; the work is done in the rooms below.

`main` is the console script; `train_command` is behind `python -m trainer.train`. Both give the exit code of design 8.
"""

from trainer.cli.app import main, train_command

__all__ = ["main", "train_command"]
