"""How far the run of a job is: out of its ledger where the desk can reach the store, else the last line of its log."""

import time
from dataclasses import dataclass, replace

import yaml

from trainer.checkpoint.stores import open_store
from trainer.config.files import ConfigFile
from trainer.config.settings import CommonSettings
from trainer.config.sources import PREFIX, load_settings
from trainer.errors import TrainerError
from trainer.kube.cluster import Cluster, Object
from trainer.kube.job import training_container
from trainer.kube.pods import has_started
from trainer.telemetry.reading import read_run
from trainer.telemetry.summary import Summary, summary

CONFIG_KEY = "config.yaml"


@dataclass(frozen=True)
class Progress:
    """A run and where it stands; of `summary`, `log_line` and `problem` at least one is there."""

    run: str
    store: str
    summary: Summary | None = None
    problem: str = ""
    """Why there is no summary."""
    log_line: str = ""


def read_progress(cluster: Cluster, job: Object, overrides: list[str]) -> Progress:
    """Where the run of a job stands; `overrides` say what is different at the desk (`s3.endpoint=...`).

    An extra to the status: what fails is a problem of the progress, not an error.
    """
    try:
        settings = job_settings(cluster, job, overrides)
    except TrainerError as error:
        return _from_log(cluster, job, Progress("", "", problem=f"its settings cannot be read here: {error}"))
    run, url = settings.run.name or "", settings.run.store
    is_mounted_here = any(text.startswith("run.store=") for text in overrides)
    if url.startswith("file:") and not is_mounted_here:
        return _from_log(cluster, job, Progress(run, url, problem="the store is a volume of the cluster"))
    # A person waits for the answer.
    settings.s3.tries, settings.s3.connect_seconds, settings.s3.read_seconds = 1, 3.0, 10.0
    try:
        records = read_run(open_store(url, settings.s3), run)
    except TrainerError as error:
        return _from_log(cluster, job, Progress(run, url, problem=str(error)))
    return Progress(run, url, summary(records, now=time.time()))


def job_settings(cluster: Cluster, job: Object, overrides: list[str]) -> CommonSettings:
    """The settings of a job as its pods see them. Raises SettingsError."""
    spec = next(iter(job["spec"]["pytorchReplicaSpecs"].values()))["template"]["spec"]
    variables = training_container(spec).get("env", ())
    environ = {one["name"]: one.get("value", "") for one in variables if one["name"].startswith(PREFIX)}
    names = [volume["configMap"]["name"] for volume in spec.get("volumes", ()) if "configMap" in volume]
    texts = [cluster.config_map(name).get("data", {}).get(CONFIG_KEY) for name in names]
    text = next((text for text in texts if text), "")
    base = ConfigFile(text, f"settings of job {job['metadata']['name']}", (yaml.safe_load(text) or {}).get("task"))
    return load_settings(base=base, environ=environ, overrides=overrides).settings


def _from_log(cluster: Cluster, job: Object, progress: Progress) -> Progress:
    """The same with the last line that the first pod wrote, if it wrote one."""
    started = [pod for pod in cluster.pods(job["metadata"]["name"]) if has_started(pod)]
    if not started:
        return progress
    try:
        text = cluster.log(started[0]["metadata"]["name"], tail=1).data.decode("utf-8", "replace")
    except TrainerError:
        return progress
    return replace(progress, log_line=text.strip())
