"""`trainer train`: one run, or with --folds one run for every held-out group."""

import os
from typing import Annotated, Literal

import typer

from trainer.cli.arguments import JsonOption
from trainer.cli.options import SettingsArguments
from trainer.cli.output import print_json

FoldsOption = Annotated[
    Literal["signer"] | None,
    typer.Option(help="One run for each of these, which it never sees in training; then a table with mean and spread."),
]


def train(given: SettingsArguments, folds: FoldsOption = None, as_json: JsonOption = False) -> int:
    """Train a model, or go on with an interrupted run of the same settings."""
    settings = given.load().settings
    if folds:
        from trainer.cli.folds import train_folds

        return train_folds(settings, folds, as_json)

    from trainer.run import train_settings

    finished = train_settings(settings)
    if as_json and os.environ.get("RANK", "0") == "0":
        record = {"run": finished.run, "results": finished.results, "paths": finished.paths}
        print_json(record | ({"caveat": finished.caveat} if finished.caveat else {}))
    return 0
