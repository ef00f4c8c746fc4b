"""`trainer checkpoints average`: the mean of several checkpoints' weights, as a checkpoint like any other."""

from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.arguments import JsonOption, NamedRun, StoreOption
from trainer.cli.options import SetOption, about_store
from trainer.cli.output import print_json
from trainer.errors import RunError, SettingsError

if TYPE_CHECKING:
    from trainer.checkpoint.inspect import Listed
    from trainer.cli.runs import FoundRun

DEFAULT_LAST = 5
LastOption = Annotated[
    int | None, typer.Option(help=f"The newest so many ({DEFAULT_LAST} if --best is not given either).", min=2)
]
BestOption = Annotated[int | None, typer.Option(help="The best so many, by the metric that chooses the best.", min=2)]
NameOption = Annotated[str | None, typer.Option(help="Name of the new run; left out: RUN-last-K or RUN-best-K.")]


def average(
    run: NamedRun,
    last: LastOption = None,
    best: BestOption = None,
    name: NameOption = None,
    store: StoreOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Average the weights of several checkpoints into a run of its own, for evaluate, export and translate."""
    from trainer.checkpoint import average as rooms
    from trainer.checkpoint.inspect import list_checkpoints
    from trainer.cli.runs import find_run

    if last and best:
        raise SettingsError("--last and --best exclude each other: choose one")
    found = find_run(run, about_store(store, overrides))
    kept = rooms.newest_of_steps(list_checkpoints(found.store, found.name))
    count = best or last or DEFAULT_LAST
    if len(kept) < count:
        raise RunError(
            f"run {found.name} in {found.store.url} has {len(kept)} good checkpoints, {count} are asked for; take "
            f"fewer, or train with checkpoint.keep_last={count}"
        )
    chosen = _best(found, kept, count) if best else kept[-count:]
    target = name or f"{found.name}-{'best' if best else 'last'}-{count}"
    made = rooms.average(found.store, found.name, [one.name for one in chosen], target)
    if as_json:
        print_json({"run": target, "checkpoint": str(made), "averaged": [one.name for one in chosen]})
        return 0
    for one in chosen:
        print(f"averaged {one.name}")
    print(f"{made} is in {found.store.url}/{target}; measure it with: trainer evaluate {target}")
    return 0


def _best(found: "FoundRun", kept: "list[Listed]", count: int) -> "list[Listed]":
    """The checkpoints of the best values of `best.metric`, oldest first. Raises RunError if too few were measured."""
    from trainer.telemetry.reading import effective, read_run, select

    records = effective(read_run(found.store, found.name))
    starts = select(records, "RunStarted")
    pass_name, _, metric = str(starts[-1]["best_metric"]).partition("/") if starts else ("", "", "")
    sign = -1.0 if starts and starts[-1]["metrics"].get(metric) == "max" else 1.0
    values = {
        record["step"]: sign * record["metrics"][metric]
        for record in select(records, "PassDone")
        if record["name"] == pass_name and not record["is_final"] and record["metrics"].get(metric) is not None
    }
    measured = sorted((one for one in kept if one.step in values), key=lambda one: values[one.step])
    if len(measured) < count:
        raise RunError(
            f"run {found.name} measured {pass_name}/{metric} at {len(measured)} of its checkpoints, {count} are asked "
            "for; take fewer, or checkpoint.keep_last more"
        )
    return sorted(measured[:count], key=lambda one: one.step)
