"""`trainer evaluate` and `trainer export`: what can be done with the weights of a run."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.checkpoint.store import chunks_of
from trainer.cli.arguments import JsonOption, RunArgument, WhichOption
from trainer.cli.options import SettingsArguments
from trainer.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trainer.cli.runs import FoundRun

NUM_CHECKED_SAMPLES = 32
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
    from trainer.engine.task import caveat_of

    found = find_run(run or given.flags.get("--run_name"), given)
    saved = open_saved(found, which, given)
    results = measure(saved)
    caveat = caveat_of(saved.task)
    if as_json:
        record = {"run": found.name, "checkpoint": saved.checkpoint.key, "results": results}
        print_json(record | ({"caveat": caveat} if caveat else {}))
        return 0
    print(f"{found.name}, checkpoint {saved.checkpoint.key}")
    metrics = list(dict.fromkeys(name for values in results.values() for name in values))
    cells = [[name, *(_cell(values.get(name)) for values in results.values())] for name in metrics]
    print_table(("metric", *results), cells, right=frozenset(range(1, len(results) + 1)))
    if caveat:
        print(f"no headline: {caveat}")
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
    from trainer.tasks.exporting import write_beside

    found = find_run(run or given.flags.get("--run_name"), given)
    saved = open_saved(found, which, given)
    samples = saved.task.samples(NUM_CHECKED_SAMPLES)  # type: ignore[attr-defined]  # of tasks that export
    own = out or _own_folder(found)
    with tempfile.TemporaryDirectory(prefix="trainer-export-") as scratch:
        written = registry.load(saved.settings.task, "export").export_model(
            saved.settings,
            saved.task.info(),
            saved.weights,
            own or Path(scratch),
            ["pth", "onnx"] if kind == "all" else [kind],
            samples=samples,
            epoch=max(1, saved.checkpoint.epoch),
        )
        written += write_beside(saved.checkpoint.files, own or Path(scratch))
        places = [str(one.path) if own else _put(found, one.path, scratch) for one in written]
    if as_json:
        rows = zip(written, places, strict=True)
        print_json([{"kind": one.kind, "path": place, "max_difference": one.max_difference} for one, place in rows])
        return 0
    for one, place in zip(written, places, strict=True):
        checked = (
            ""
            if one.max_difference is None
            else (f"  (largest difference to onnxruntime {one.max_difference:.1e} over {one.num_samples} samples)")
        )
        print(f"{one.kind}  {place}{checked}")
    return 0


def _own_folder(found: "FoundRun") -> Path | None:
    """The export folder of a run where its store is a folder of this machine."""
    url = found.store.url
    return Path(url.removeprefix("file://")) / found.name / "export" if url.startswith("file://") else None


def _put(found: "FoundRun", path: Path, folder: str) -> str:
    """Put a file of a folder into the run's `export/` in the store; its URL."""
    key = f"{found.name}/export/{path.relative_to(folder).as_posix()}"
    found.store.put(key, chunks_of(path))
    return f"{found.store.url}/{key}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
