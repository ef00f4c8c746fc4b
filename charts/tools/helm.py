"""Renders the chart: by helm-python-sdk where it is installed, else by the command `helm`."""

import json
import shutil
import subprocess
from collections.abc import Sequence
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
    values: dict[str, Any] | None = None,
    name: str = "signs-train",
    namespace: str = "default",
    chart: Path = CHART,
    apis: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The objects of a release, hooks included. ChartError for what schema or templates refuse.

    `apis` are what the cluster has beyond Kubernetes' own, as `group/version`.
    """
    return parsed(text(values or {}, name, namespace, chart, apis))


def text(values: dict[str, Any], name: str, namespace: str, chart: Path = CHART, apis: Sequence[str] = ()) -> str:
    """What `render` takes apart. ChartError as there."""
    if problem := missing():
        raise ChartError(problem)
    make = _by_library if find_spec("helm_python") else _by_command
    return make(values, name, namespace, chart, apis)


def parsed(text: str) -> list[dict[str, Any]]:
    """The objects in a stream of YAML documents."""
    return [found for found in yaml.load_all(text, _LOADER) if found]


def _by_library(values: dict[str, Any], name: str, namespace: str, chart: Path, apis: Sequence[str]) -> str:
    import helm_python
    from helm_python import _native

    # Chart.render() of the library takes no api_versions, the call below it does
    options = {"name": name, "namespace": namespace, "api_versions": list(apis)}
    try:
        loaded = helm_python.Chart.load(str(chart))
        files = json.loads(_native.call_string("helm_render", loaded._raw(), json.dumps(values), json.dumps(options)))
    except helm_python.HelmError as error:
        raise ChartError(str(error)) from None
    return "\n---\n".join(text for path, text in sorted(files.items()) if path.endswith(".yaml"))


def _by_command(values: dict[str, Any], name: str, namespace: str, chart: Path, apis: Sequence[str]) -> str:
    program = str(shutil.which("helm"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "values.json"
        file.write_text(json.dumps(values), "utf-8")
        command = [program, "template", name, str(chart), "--namespace", namespace, "--values", str(file)]
        command += [f"--api-versions={api}" for api in apis]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise ChartError(done.stderr.strip())
    return done.stdout
