"""Writes, or with --check compares, what is generated: `chart` (schema, README, presets, dashboards), `manifests`."""

import argparse
import sys
from pathlib import Path

from charts.tools import dashboards, manifests, readme, schema
from charts.tools.values_docs import CHART
from trainer.config.sources import TASK_SETTINGS

PRESETS = CHART / "files" / "presets"


def chart_files() -> dict[Path, str]:
    """Content of the chart's generated files by their paths."""
    made = {schema.OUTPUT: schema.text(), readme.OUTPUT: readme.text()} | dashboards.files()
    for task in TASK_SETTINGS:
        for file in sorted((manifests.ROOT / "trainer/tasks" / task / "presets").glob("*.yaml")):
            made[PRESETS / task / file.name] = file.read_text("utf-8")
    return made


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m charts.tools", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["chart", "manifests", "all"], default="all")
    parser.add_argument("--check", action="store_true", help="change nothing, name what differs, end with 1")
    given = parser.parse_args()
    stale = 0
    # the manifests are rendered from the chart as it then is
    for kind, make in (("chart", chart_files), ("manifests", manifests.files)):
        if given.what not in (kind, "all"):
            continue
        for path, text in make().items():
            if path.is_file() and path.read_text("utf-8") == text:
                continue
            stale += 1
            print(path.relative_to(manifests.ROOT))
            if not given.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
    if given.check and stale:
        print(f"{stale} generated file(s) differ; run make chart manifests", file=sys.stderr)
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
