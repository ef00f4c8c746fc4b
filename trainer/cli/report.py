"""`trainer report`: the pages of a run that is done, going on, or dead."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.arguments import JsonOption, RunArgument, StoreOption
from trainer.cli.options import SetOption, about_store
from trainer.cli.output import print_json

OutOption = Annotated[Path | None, typer.Option(help="Folder to write to; left out: the run's own, in the store.")]


def report(
    run: RunArgument = None,
    store: StoreOption = None,
    overrides: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Make the HTML report of a run from its ledger."""
    from trainer.cli.runs import find_run
    from trainer.report.build import write_report

    found = find_run(run, about_store(store, overrides))
    files = write_report(found.store, found.name, out)
    places = files if out else [f"{found.store.url.removeprefix('file://')}/{key}" for key in files]
    if as_json:
        print_json({"run": found.name, "files": places})
        return 0
    for place in places:
        print(place)
    return 0
