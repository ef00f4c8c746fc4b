"""`trainer metrics ...`: what a run shows to Prometheus, and how runs of the past get there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from trainer.cli.arguments import JsonOption, NamedRun, StoreOption
from trainer.cli.options import SetOption, about_store
from trainer.cli.output import print_json, print_table
from trainer.errors import SettingsError

app = typer.Typer(name="metrics", help="What a run shows to Prometheus.", no_args_is_help=True)

OutOption = Annotated[Path, typer.Option("--out", "-o", help="File to write; `-` is standard output.", metavar="FILE")]
EveryOption = Annotated[
    float, typer.Option(min=1.0, max=240.0, help="Seconds between two samples of what does not change.")
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", help="A label for every series, as scraped ones have it.", metavar="NAME=VALUE"),
]
UserArgument = Annotated[str, typer.Argument(help="Name of the user.", metavar="USER")]


@app.command("list", epilog="Example: trainer metrics list --json")
def list_(as_json: JsonOption = False) -> int:
    """Every metric there is: name, kind, labels and meaning."""
    from trainer.telemetry.prometheus.catalogue import FAMILIES

    rows = [
        {"name": one.full_name, "kind": one.kind, "labels": list(one.label_names), "help": one.help} for one in FAMILIES
    ]
    if as_json:
        print_json(rows)
    else:
        headings = ("metric", "kind", "labels", "meaning")
        print_table(headings, [(row["name"], row["kind"], " ".join(row["labels"]), row["help"]) for row in rows])
    return 0


@app.command(
    epilog="Example:\n\n"
    "trainer metrics backfill my-run --store s3://bucket/runs --label namespace=ml -o my-run.txt\n\n"
    "promtool tsdb create-blocks-from openmetrics my-run.txt DATA_FOLDER_OF_PROMETHEUS",
)
def backfill(
    run: NamedRun,
    store: StoreOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("-"),
    every: EveryOption = 60.0,
    labels: LabelOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write the metrics of a whole run with their times, out of its ledger, for Prometheus to take in.

    The text is OpenMetrics: exact at every epoch, pass and checkpoint, all attempts, without what was done again.
    """
    from trainer.cli.runs import find_run
    from trainer.telemetry.prometheus.backfill import replay
    from trainer.telemetry.reading import read_run

    together = dict(_label(text) for text in labels or [])
    found = find_run(run, about_store(store, overrides))
    records = read_run(found.store, found.name)
    if not records:
        raise SettingsError(f"run {found.name} in {found.store.url} has no ledger yet, there is nothing to write")
    recording = replay(records, found.name, every)
    if taken := sorted(recording.label_names & together.keys()):
        raise SettingsError(f"--label {taken[0]} is a label of these metrics already; choose another name")
    with _writing(out) as file:
        for part in recording.text(together):
            file.write(part)
    told = {"run": found.name, "file": str(out), "series": recording.num_series, "samples": recording.num_samples}
    if as_json and str(out) != "-":
        print_json(told)
    elif str(out) != "-":
        print(f"{told['samples']:,} samples of {told['series']} series in {out}")
        print(f"next: promtool tsdb create-blocks-from openmetrics {out} DATA_FOLDER_OF_PROMETHEUS")
    return 0


@app.command(epilog="Example: trainer metrics password prometheus >> users")
def password(user: UserArgument) -> int:
    """Ask for a password and print the line of `telemetry.prometheus.auth_file` that lets a user scrape."""
    from trainer.telemetry.prometheus.auth import hash_line

    if sys.stdin.isatty():
        secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise SettingsError("the password is empty; type one, or give it on standard input")
    try:
        print(hash_line(user, secret))
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return 0


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier() or not name.isascii():
        raise SettingsError(f"--label {text!r} must be NAME=VALUE, with a name such as namespace")
    return name, value


@contextmanager
def _writing(out: Path) -> Iterator[BinaryIO]:
    if str(out) == "-":
        yield sys.stdout.buffer
        return
    try:
        with out.open("wb") as file:
            yield file
    except OSError as error:
        raise SettingsError(f"--out {out} cannot be written: {error.strerror}") from error
