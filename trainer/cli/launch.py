"""`trainer launch`: the entrypoint of the image; everything behind it is for `trainer train`."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from trainer.cli.options import SettingsArguments, normalise, what_is_wrong, with_settings
from trainer.cli.train import train
from trainer.config.settings import CommonSettings
from trainer.errors import SettingsError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command: options that it does not know belong to the training."""

TrainingArguments = Annotated[
    list[str] | None,
    typer.Argument(
        help="Arguments of `trainer train`, passed on as they are; behind `--` also those with names of ours.",
        metavar="[ARGS]...",
    ),
]
SkipOption = Annotated[bool, typer.Option("--no-preflight", help="Start without a look at store, network and limits.")]


def launch(args: TrainingArguments = None, no_preflight: SkipOption = False) -> int:
    """Train in a pod: find the ranks, check the world, start torchrun, and say how it ended.

    Reads what the training operator sets (PET_NNODES, MASTER_ADDR, ...); without any of it this machine is all there
    is. SIGTERM is passed on once, and a checkpoint published within run.grace_seconds. The reason of the end goes to
    /dev/termination-log.
    """
    from trainer.kube.launch import launch as run

    given = args or []
    return run(given, lambda: settings_of(given), with_preflight=not no_preflight)


def settings_of(arguments: Sequence[str]) -> CommonSettings:
    """The settings that `trainer train ARGUMENTS` would have. Raises SettingsError, for a wrong command line, too."""
    found: list[CommonSettings] = []

    def read(given: SettingsArguments, **_others: Any) -> int:
        found.append(given.load().settings)
        return 0

    read.__signature__ = inspect.signature(train, eval_str=True)  # type: ignore[attr-defined]
    reader = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    reader.command()(with_settings(read))
    try:
        reader(normalise(arguments), prog_name="trainer launch", standalone_mode=False)
    except typer.TyperException as error:
        raise SettingsError(what_is_wrong(error)) from None
    if not found:
        raise SettingsError("the help of the training is `trainer train --help`")
    return found[0]
