"""Renders the chart: by helm-python-sdk where it is installed, else by the command `helm`."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from charts.tools.values_docs import CHART

SECONDS = 60
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times as fast, which counts over hundreds of renderings."""


class ChartError(Exception):
    """What Helm says to values or a template, as it says it."""


def missing() -> str | None:
    """Why the chart cannot be rendered here, None if it can."""
    if find_spec("helm_python") or shutil.which("helm"):
        return None
    return "rendering the chart needs helm: pip install helm-python-sdk, or the command helm on the path"


def render(
    values: dict[str, Any] | None = None, name: str = "signs-train", namespace: str = "default", chart: Path = CHART
) -> list[dict[str, Any]]:
    """The objects of a release, hooks included. ChartError for what schema or templates refuse."""
    if problem := missing():
        raise ChartError(problem)
    make = _by_library if find_spec("helm_python") else _by_command
    text = make(values or {}, name, namespace, chart)
    return [found for found in yaml.load_all(text, _LOADER) if found]


def _by_library(values: dict[str, Any], name: str, namespace: str, chart: Path) -> str:
    import helm_python

    try:
        files = helm_python.Chart.load(str(chart)).render(values, name=name, namespace=namespace)
    except helm_python.HelmError as error:
        raise ChartError(str(error)) from None
    return "\n---\n".join(text for path, text in sorted(files.items()) if path.endswith(".yaml"))


def _by_command(values: dict[str, Any], name: str, namespace: str, chart: Path) -> str:
    program = str(shutil.which("helm"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "values.json"
        file.write_text(json.dumps(values), "utf-8")
        command = [program, "template", name, str(chart), "--namespace", namespace, "--values", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise ChartError(done.stderr.strip())
    return done.stdout
