"""Arguments that several commands share; nothing heavy is imported here."""

from typing import Annotated

import typer

RunArgument = Annotated[str | None, typer.Argument(help="Name of a run, or its folder; the newest one if left out.")]
NamedRun = Annotated[str, typer.Argument(help="Name of a run, or its folder.", metavar="RUN")]
StoreOption = Annotated[
    str | None, typer.Option(help="Where runs live, as `run.store` of the settings.", metavar="URL")
]
WhichOption = Annotated[
    str, typer.Option("--checkpoint", help="`best`, `latest`, a step, or the name of its folder.", metavar="WHICH")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
