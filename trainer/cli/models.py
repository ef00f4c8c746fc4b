"""`trainer evaluate` and `trainer export`: what can be done with the weights of a run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli.arguments import JsonOption, RunArgument, WhichOption
from trainer.cli.options import SettingsArguments
from trainer.cli.output import print_json, print_table
from trainer.errors import SettingsError

NUM_CHECKED_CLIPS = 32
"""Real samples on which an exported model is compared with the original."""

FormatOption = Annotated[Literal["all", "pth", "onnx"], typer.Option("--format", help="What to write.")]
OutOption = Annotated[Path | None, typer.Option(help="Folder to write to; left out: `export/` of the run.")]


def evaluate(
    given: SettingsArguments, run: RunArgument = None, which: WhichOption = "best", as_json: JsonOption = False
) -> int:
    """Measure a checkpoint on every pass of its task; --data and --set choose other data than the run's."""
    from trainer.cli.runs import find_run
    from trainer.cli.saved import evaluate as measure
    from trainer.cli.saved import open_saved

    found = find_run(run or given.flags.get("--run_name"), given.flags.get("--store"))
    saved = open_saved(found, which, given)
    results = measure(saved)
    if as_json:
        print_json({"run": found.name, "checkpoint": saved.checkpoint.key, "results": results})
        return 0
    print(f"{found.name}, checkpoint {saved.checkpoint.key}")
    metrics = list(dict.fromkeys(name for values in results.values() for name in values))
    cells = [[name, *(_cell(values.get(name)) for values in results.values())] for name in metrics]
    print_table(("metric", *results), cells, right=frozenset(range(1, len(results) + 1)))
    return 0


def export(
    given: SettingsArguments,
    run: RunArgument = None,
    which: WhichOption = "best",
    kind: FormatOption = "all",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a checkpoint's model as .pth and ONNX, the latter compared with the original on real samples."""
    from trainer.cli.runs import find_run
    from trainer.cli.saved import open_saved
    from trainer.tasks import registry

    found = find_run(run or given.flags.get("--run_name"), given.flags.get("--store"))
    saved = open_saved(found, which, given)
    folder = out or _own_folder(found.store.url, found.name)
    samples = saved.task.samples(NUM_CHECKED_CLIPS)  # type: ignore[attr-defined]  # of tasks that export
    written = registry.load(saved.settings.task, "export").export_model(
        saved.settings,
        saved.task.info(),
        saved.weights,
        folder,
        ["pth", "onnx"] if kind == "all" else [kind],
        samples=samples,
        epoch=max(1, saved.checkpoint.epoch),
    )
    if as_json:
        print_json([{"kind": one.kind, "path": one.path, "max_difference": one.max_difference} for one in written])
        return 0
    for one in written:
        checked = (
            ""
            if one.max_difference is None
            else (f"  (largest difference to onnxruntime {one.max_difference:.1e} over {one.num_clips} samples)")
        )
        print(f"{one.kind}  {one.path}{checked}")
    return 0


def _own_folder(url: str, run: str) -> Path:
    """The export folder of a run in a file store; other stores need --out."""
    if not url.startswith("file://"):
        raise SettingsError(f"{url} is no folder; say where to write with --out FOLDER")
    return Path(url.removeprefix("file://")) / run / "export"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
