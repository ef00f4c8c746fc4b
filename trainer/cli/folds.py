"""`trainer train --folds signer`: one run for each held-out group, then a table with mean and spread.

The runs are named `<base>-<fold>`, base being `run.name` or made of the settings' digest. So the same command goes on
where it was interrupted, and prints the table at once when all folds are complete. They run one after the other in this
process. The table and a page of it are stored under `folds/<base>/`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from trainer.checkpoint.store import Store
from trainer.cli.output import print_json, print_table
from trainer.cli.runs import store_of
from trainer.config.digest import digest, matters
from trainer.config.settings import CommonSettings
from trainer.errors import SettingsError
from trainer.report.html import page
from trainer.run import train_settings
from trainer.tasks import registry
from trainer.tasks.page import Section, Table, Text, Tile, Tiles
from trainer.telemetry.events import Metrics
from trainer.telemetry.reading import effective, read_run, select

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Fold:
    """One complete run: what was held out, its name, and the metrics of its final passes by `pass/metric`."""

    held_out: str
    run: str
    metrics: Metrics


@dataclass(frozen=True)
class Spread:
    """One metric over the folds; `deviation` is that of a sample (n - 1), 0 for a single one."""

    mean: float
    deviation: float
    least: float
    greatest: float


def train_folds(settings: CommonSettings, by: str, as_json: bool) -> int:
    """Train every fold, show and store the table. Raises what the first fold raises that does not complete."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("--folds trains its runs one after the other in one process; start it without torchrun")
    task = getattr(settings, "task", "")
    base = settings.run.name or f"{task}-folds-{digest(matters(settings))[:8]}"
    store = store_of(settings)
    done: list[Fold] = []
    parts = registry.load(task, "folds").folds(settings)
    for number, (held_out, own) in enumerate(parts, start=1):
        own.run.name = f"{base}-{_UNSAFE.sub('-', held_out)}"
        if not as_json:
            print(f"fold {number} of {len(parts)}: {by} {held_out} held out, run {own.run.name}", flush=True)
        train_settings(own)
        done.append(Fold(held_out, own.run.name, _final_metrics(store, own.run.name)))
    _present(store, base, by, done, as_json)
    return 0


def spread(folds: list[Fold]) -> dict[str, Spread]:
    """Mean and spread of every metric that all folds have, in their order."""
    shared = [name for name in folds[0].metrics if all(fold.metrics.get(name) is not None for fold in folds)]
    columns = {name: [value for fold in folds if (value := fold.metrics[name]) is not None] for name in shared}
    return {
        name: Spread(mean(values), stdev(values) if len(values) > 1 else 0.0, min(values), max(values))
        for name, values in columns.items()
    }


def _final_metrics(store: Store, run: str) -> Metrics:
    """Metrics of the final passes by `pass/metric`, out of the ledger, which also knows runs completed before."""
    final = [record for record in select(effective(read_run(store, run)), "PassDone") if record["is_final"]]
    return {f"{one['name']}/{metric}": value for one in final for metric, value in one["metrics"].items()}


def _present(store: Store, base: str, by: str, folds: list[Fold], as_json: bool) -> None:
    """The table on stdout, and as JSON and HTML in the store."""
    spreads = spread(folds)
    record: dict[str, Any] = {
        "by": by,
        "folds": [asdict(fold) for fold in folds],
        "spread": {name: asdict(one) for name, one in spreads.items()},
    }
    store.put(f"folds/{base}/folds.json", [json.dumps(record, indent=1).encode()])
    store.put(f"folds/{base}/report.html", [_page(base, by, folds, spreads).encode()])
    if as_json:
        print_json(record)
        return
    rows = [[fold.held_out, *(f"{fold.metrics[name]:.4f}" for name in spreads)] for fold in folds]
    rows.append(["mean", *(f"{one.mean:.4f}" for one in spreads.values())])
    rows.append(["deviation", *(f"{one.deviation:.4f}" for one in spreads.values())])
    print()
    print_table([by, *spreads], rows, right=frozenset(range(1, len(spreads) + 1)))
    print(f"\nreport  {store.url}/folds/{base}/report.html")


def _page(base: str, by: str, folds: list[Fold], spreads: Mapping[str, Spread]) -> str:
    """One page with the table; the runs have pages of their own."""
    rows: list[list[str | float | None]] = [[f.held_out, f.run, *(f.metrics[name] for name in spreads)] for f in folds]
    rows.append(["mean", "", *(one.mean for one in spreads.values())])
    rows.append(["deviation", "", *(one.deviation for one in spreads.values())])
    tiles = [
        Tile(name, f"{one.mean:.4f}", f"± {one.deviation:.4f} over {len(folds)} folds") for name, one in spreads.items()
    ]
    table = Table([by, "run", *spreads], rows, marked=frozenset({len(folds), len(folds) + 1}))
    text = (
        f"Each run was trained without one {by} and evaluated with its best weights. Deviations are those of a sample."
    )
    return page(f"{base}: one {by} left out", [Tiles(tiles)], [Section("Folds", [Text(text), table])], base)
