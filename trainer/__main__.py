"""`python -m trainer COMMAND` is `trainer COMMAND`."""

from trainer.cli import run_process

run_process()
