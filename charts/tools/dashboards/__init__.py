"""The dashboards of the chart, written in Python: `files()` gives what belongs into charts/trainer/files/dashboards.

grafana.py       panels, rows, variables as Grafana's JSON
promql.py        what "this run", "now" and "the last value" mean in a query
codes.py         words and colours for exit codes, phases, kinds of time
training_run.py  training_fleet.py  gpu.py     the dashboards
answers.py  pictures.py      what a Prometheus answers to them, drawn for the README
"""

from pathlib import Path

from charts.tools.dashboards import gpu, training_fleet, training_run
from charts.tools.values_docs import CHART

FOLDER = CHART / "files" / "dashboards"
DASHBOARDS = {
    "training-run.json": training_run.dashboard,
    "training-fleet.json": training_fleet.dashboard,
    "gpu.json": gpu.dashboard,
}


def files() -> dict[Path, str]:
    """Content of each file by its path."""
    return {FOLDER / name: make().text_of_file() for name, make in DASHBOARDS.items()}
