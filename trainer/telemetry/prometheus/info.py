"""The two metrics that say what is running: their labels are the news, their value is always 1."""

import os
from typing import Any

from trainer.telemetry.events import RunStarted
from trainer.telemetry.prometheus.values import Values, label_value

GIT_SHA = "TRAINER_GIT_SHA"
"""The variable that the image sets to the commit it was built from."""


def set_info(values: Values, event: RunStarted) -> None:
    """Set `build_info` and `run_info` of this attempt."""
    versions, environment = event.versions, event.environment
    build = (versions.get("trainer"), os.environ.get(GIT_SHA), versions.get("torch"), environment.get("cuda"))
    values.set("build_info", 1, *(label_value(value or "") for value in build))
    run: tuple[Any, ...] = (event.attempt, event.task, event.model, dataset_of(event.config), event.world_size)
    values.set("run_info", 1, *(label_value(value) for value in (*run, event.precision, event.device)))


def dataset_of(config: dict[str, Any]) -> str:
    """What the data are called: the last part of `data.path`, else what `data.layout` says."""
    data = config.get("data")
    if not isinstance(data, dict):
        return ""
    path = str(data.get("path") or "").rstrip("/")
    return path.rpartition("/")[2] or str(data.get("layout") or "")
