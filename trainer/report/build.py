"""Ledger records in, a report out: one HTML page and the files beside it.

    build_report(records, task=...) -> {"index.html": ..., "<run>-Model_Diagnostics.jpg": ..., ...}    pure
    write_report(store, run_name, folder) -> where the files are

A ledger may be of a run that is going on, was killed, diverged or has not begun: the page says what there is.
Building takes a few seconds (pictures), so it belongs after training or into a process of its own.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.checkpoint.store import Store
from trainer.config.schema import table
from trainer.config.sources import TASK_SETTINGS
from trainer.errors import RunError
from trainer.report import html
from trainer.report.curves import curve_sections
from trainer.report.diagnostics import classification_csv, diagnostics_picture
from trainer.report.draw import Pencil
from trainer.report.overview import header, results_section, warnings_section
from trainer.report.profile import profile_section
from trainer.report.story import story_sections
from trainer.report.view import RunView
from trainer.tasks import classification_pages, registry
from trainer.tasks.page import Classification, Draw, Pages, RunFacts
from trainer.telemetry.reading import Record, read_records
from trainer.telemetry.rules import Rule
from trainer.telemetry.thresholds import adjusted

PAGE = "index.html"
TABLE = "classification_report.csv"


def build_report(records: Sequence[Record], *, task: str, now: float | None = None) -> dict[str, bytes]:
    """Content of every file of a report by its relative name.

    `records` are all of the run's, as `read_records` gives them; `task` chooses the task's pages (any other name
    gets those of a plain classifier). With `now` (seconds since the epoch) a silent run is told from a living one.
    """
    view, draw = RunView(records, now), Pencil()
    pages = _task_pages(task)(view.facts(), draw)
    top = [
        section
        for section in (results_section(view), warnings_section(view, _rules(task, view)))
        if section is not None
    ]
    story = story_sections(view, draw, _defaults(task))
    profile = [section for section in (profile_section(view),) if section is not None]
    sections = [*top, *curve_sections(view, draw), *pages.sections, *profile, *story]
    footer = f"Made by signs-trainer from the ledger of {view.name}, {len(view.all):,} records."
    files = {PAGE: html.page(view.name, header(view), sections, footer).encode()}
    if pages.classification is not None and pages.classification.confusion.any():
        files |= classification_files(pages.classification, view.name)
    return files


def classification_files(classification: Classification, stem: str) -> dict[str, bytes]:
    """The diagnostics picture and the classification table of any classifier; `stem` begins the picture's name."""
    return {
        f"{stem}-Model_Diagnostics.jpg": diagnostics_picture(classification, stem),
        TABLE: classification_csv(classification),
    }


def write_report(store: Store, run_name: str, folder: Path | None = None) -> list[str]:
    """Read the ledger of a run and write its report into `folder`, or to `<run>/report/` in the store.

    Returns the paths or keys of the files, the page first. Raises RunError when the store has no such run.
    """
    records = read_records(
        lambda prefix: (entry.key for entry in store.entries(prefix)), store.get, run_prefix=f"{run_name}/"
    )
    if not records and not any(True for _ in store.entries(f"{run_name}/")):
        raise RunError(f"there is no run {run_name!r} in {store.url}; `trainer checkpoints` lists the runs there are")
    task = next((str(record["task"]) for record in reversed(records) if record["event"] == "RunStarted"), "")
    files = build_report(records, task=task, now=time.time())
    if folder is None:
        for name, content in files.items():
            store.put(f"{run_name}/report/{name}", [content])
        return [f"{run_name}/report/{name}" for name in files]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in files]


def _task_pages(task: str) -> Callable[[RunFacts, Draw], Pages]:
    """The page function of a task; a foreign model is a plain classifier, or nothing more than its curves."""
    if task not in registry.TASKS:
        return classification_pages.pages
    found: Callable[[RunFacts, Draw], Pages] = registry.load(task, "pages").pages
    return found


def _rules(task: str, view: RunView) -> list[Rule]:
    """The warning rules of a task, as the run had them."""
    changes = (view.start.get("config", {}).get("telemetry") or {}).get("rules") or {}
    return adjusted(registry.rules(task), changes)


def _defaults(task: str) -> dict[str, object]:
    """The default of every setting by dotted name; empty for a task without settings of its own."""
    return {row["name"]: row["default"] for row in table(task)} if task in TASK_SETTINGS else {}
