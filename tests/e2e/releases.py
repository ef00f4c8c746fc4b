"""The chart by the real `helm`: a release that is installed, upgraded, rolled back, tested and removed."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import yaml

from charts.tools.values_docs import CHART

Values = dict[str, Any]

HELM_SECONDS = 300

TINY: Values = {
    "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
    "config": {
        "num_epochs": 3,
        "batch_size": 8,
        "model": {"size": "t_1_1"},
        "data": {"synthetic_words": 3, "synthetic_repetitions": 4},
        "output": {"report": False, "export": []},
        "telemetry": {"prometheus": {"linger_seconds": 0}},
    },
}
"""Over the chart's default values: a training of seconds, on one pod, with its store on a volume.

27 recordings train (3 words, 4 repetitions, 4 signers of whom one tests), so an epoch is few steps. For a run that
lasts until something is done to it set `num_epochs` high and `checkpoint.every` to what the test needs.
"""


class HelmError(AssertionError):
    """What helm said when it did not succeed."""


def helm(*arguments: str, given: str = "") -> str:
    """A command of helm; `given` is its standard input. HelmError where it fails."""
    done = subprocess.run(
        ["helm", *arguments], input=given, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
    )
    if done.returncode:
        raise HelmError(f"helm {' '.join(arguments)}: {done.stderr.strip()}\n{done.stdout[-4000:]}")
    return done.stdout


def kubectl(*arguments: str, given: str = "") -> str:
    """A command of kubectl, for what people are told to type; AssertionError where it fails."""
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def missing_command(name: str) -> str | None:
    """Why a test must be skipped."""
    return None if shutil.which(name) else f"the command {name} is not on the path"


def merged(*values: Values) -> Values:
    """Later ones go over earlier ones, as with several `--values`."""
    out: Values = {}
    for one in values:
        for key, value in one.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merged(out[key], value) if both else value
    return out


def image_values(image: str) -> Values:
    """`host:5000/me/trainer:dev` as the chart's values."""
    repository, _, tag = image.rpartition(":")
    return {"image": {"repository": repository, "tag": tag}}


@dataclass(frozen=True)
class Release:
    """One release; `base` goes below the values of every installation and upgrade."""

    name: str
    namespace: str
    base: Values

    def install(self, *values: Values) -> str:
        """Install, or upgrade to exactly these values; what NOTES says."""
        text = json.dumps(merged(self.base, *values))
        where = [self.name, str(CHART), "--namespace", self.namespace]
        return helm("upgrade", "--install", *where, "--values", "-", given=text)

    upgrade = install

    def rollback(self, revision: int) -> None:
        helm("rollback", self.name, str(revision), "--namespace", self.namespace)

    def test(self) -> str:
        return helm("test", self.name, "--namespace", self.namespace, "--timeout", "4m")

    def uninstall(self) -> None:
        helm("uninstall", self.name, "--namespace", self.namespace)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Of the newest revision, hooks left out."""
        text = helm("get", "manifest", self.name, "--namespace", self.namespace)
        return [found for found in yaml.safe_load_all(text) if found]

    @property
    def job(self) -> str:
        """The name of the newest revision's job."""
        return next(found["metadata"]["name"] for found in self.objects if found["kind"] == "PyTorchJob")
