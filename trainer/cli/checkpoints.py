"""`trainer checkpoints ...`: look at the checkpoints of runs, check, copy, keep and remove them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.arguments import JsonOption, NamedRun, RunArgument, StoreOption, WhichOption
from trainer.cli.average import average
from trainer.cli.options import SetOption, SettingsArguments, about_store
from trainer.cli.output import print_json, print_table, size

if TYPE_CHECKING:
    from trainer.checkpoint.inspect import Listed

app = typer.Typer(name="checkpoints")

DAMAGED_CODE = 4
ToOption = Annotated[Path, typer.Option("--out", help="Folder that becomes a store holding the run.", metavar="FOLDER")]
KeepOption = Annotated[int, typer.Option(help="How many of the newest stay.", min=1)]
KeepBestOption = Annotated[bool, typer.Option(help="Whether the best one stays.")]


@app.callback(invoke_without_command=True)
def runs(context: typer.Context) -> int:
    """List, verify, copy, keep and remove checkpoints; alone it lists the runs there are."""
    return _list_runs(about_store(None, None), as_json=False) if context.invoked_subcommand is None else 0


@app.command("list", epilog="Example: trainer checkpoints list signs-s_4_2-20260801-120000")
def list_(
    run: RunArgument = None, store: StoreOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> int:
    """The checkpoints of a run; without one, the runs of the store."""
    from trainer.checkpoint.inspect import list_checkpoints
    from trainer.cli.runs import find_run

    given = about_store(store, overrides)
    if run is None:
        return _list_runs(given, as_json)
    found = find_run(run, given)
    return _show(list_checkpoints(found.store, found.name), as_json)


@app.command(epilog="Example: trainer checkpoints verify --json")
def verify(
    run: RunArgument = None, store: StoreOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> int:
    """Check every byte of every checkpoint of a run; ends with 4 if one is damaged."""
    from trainer.checkpoint.inspect import verify_checkpoints
    from trainer.cli.runs import find_run

    found = find_run(run, about_store(store, overrides))
    listed = verify_checkpoints(found.store, found.name)
    _show(listed, as_json)
    return DAMAGED_CODE if any(one.is_damaged for one in listed) else 0


@app.command(epilog="Example: trainer checkpoints pull my-run --store s3://bucket/runs --checkpoint best --out here")
def pull(
    run: NamedRun,
    out: ToOption,
    store: StoreOption = None,
    overrides: SetOption = None,
    which: WhichOption = "latest",
    as_json: JsonOption = False,
) -> int:
    """Copy a run with one checkpoint from its store into a folder; --store file://FOLDER then uses it."""
    from trainer.checkpoint.stores import open_store
    from trainer.cli.runs import find_run
    from trainer.cli.transfer import copy_run

    found = find_run(run, about_store(store, overrides))
    target = open_store(f"file://{out}")
    name = copy_run(found.store, target, found.name, which)
    return _done(as_json, f"{target.url}/{found.name}", str(name), "copied to")


@app.command(epilog="Example: trainer checkpoints push here/my-run --store s3://bucket/runs")
def push(
    run: Annotated[str, typer.Argument(help="Folder of a run on this machine.", metavar="FOLDER")],
    store: StoreOption = None,
    overrides: SetOption = None,
    which: WhichOption = "latest",
    as_json: JsonOption = False,
) -> int:
    """Copy a run with one checkpoint from a folder of this machine into a store, where training can go on."""
    from trainer.cli.runs import find_run, the_store
    from trainer.cli.transfer import copy_run

    found = find_run(run, about_store(None, overrides))
    target = the_store(about_store(store, overrides))
    name = copy_run(found.store, target, found.name, which)
    return _done(as_json, f"{target.url}/{found.name}", str(name), "copied to")


@app.command(epilog="Example: trainer checkpoints prune my-run --keep-last 1")
def prune(
    run: NamedRun,
    keep_last: KeepOption = 3,
    keep_best: KeepBestOption = True,
    store: StoreOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove old checkpoints of a run that nobody is training, as its own retention would."""
    from trainer.checkpoint.inspect import prune_checkpoints
    from trainer.cli.runs import find_run

    found = find_run(run, about_store(store, overrides))
    gone = prune_checkpoints(found.store, found.name, keep_last, keep_best)
    if as_json:
        print_json({"removed": gone})
        return 0
    for name in gone:
        print(f"removed {name}")
    print(f"{len(gone)} removed")
    return 0


@app.command(epilog="Example: trainer checkpoints promote my-run --checkpoint 5000")
def promote(
    run: NamedRun,
    store: StoreOption = None,
    overrides: SetOption = None,
    which: WhichOption = "best",
    as_json: JsonOption = False,
) -> int:
    """Keep a checkpoint for good: it becomes a milestone, which retention and prune leave alone."""
    from trainer.cli.runs import find_run
    from trainer.cli.transfer import promote as keep

    found = find_run(run, about_store(store, overrides))
    name = keep(found.store, found.name, which)
    return _done(as_json, f"{found.store.url}/{found.name}", str(name), "is a milestone now in")


app.command(epilog="Example: trainer checkpoints average my-run --last 5")(average)


def _list_runs(given: SettingsArguments, as_json: bool) -> int:
    """One line a run, the newest last; counted by one listing each, however many checkpoints there are."""
    from trainer.checkpoint.retention import list_folders
    from trainer.cli.runs import all_runs, the_store

    rows = []
    for run in all_runs(the_store(given)):
        steps = [folder.name.step for folder in list_folders(run.store, run.name).values() if folder.has_manifest]
        rows.append(
            {
                "run": run.name,
                "task": run.record.get("task"),
                "created": run.record.get("created"),
                "checkpoints": len(steps),
                "step": max(steps, default=None),
                "complete": run.is_complete,
            }
        )
    if as_json:
        print_json(rows)
    else:
        headings = ("run", "task", "created", "checkpoints", "step", "complete")
        print_table(headings, [[_cell(row[name]) for name in headings] for row in rows], right=frozenset({3, 4}))
    return 0


def _show(listed: "list[Listed]", as_json: bool) -> int:
    if as_json:
        print_json([asdict(one) for one in listed])
        return 0
    rows = []
    for one in listed:
        marks = {"best": one.is_best, "latest": one.is_latest, "milestone": one.milestone}
        kind = " ".join(mark for mark, is_so in marks.items() if is_so)
        weight = "-" if one.size_bytes is None else size(one.size_bytes)
        rows.append((one.name, _cell(one.epoch), weight, _cell(one.created), kind or "-", one.problem or "ok"))
    print_table(("checkpoint", "epoch", "size", "created", "kind", "state"), rows, right=frozenset({1, 2}))
    return 0


def _done(as_json: bool, place: str, checkpoint: str, what: str) -> int:
    if as_json:
        print_json({"checkpoint": checkpoint, "place": place})
    else:
        print(f"{checkpoint} {what} {place}")
    return 0


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
