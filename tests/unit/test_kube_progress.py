"""Where the run of a job stands: from its settings in the cluster to its ledger, or to the last line of its log."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import yaml

from tests.unit.telemetry_samples import records_of, run_started, step_done
from trainer.config.sources import load_settings
from trainer.kube.job import Wishes, plan
from trainer.kube.progress import read_progress
from trainer.kube.refusals import NotFoundError


class Cluster:
    """A job's ConfigMap and one pod with a log."""

    def __init__(self, *overrides):
        *_, config_map, self.job = plan(load_settings(config="quick", overrides=overrides), Wishes()).objects
        self.by_name = {config_map["metadata"]["name"]: config_map}

    def config_map(self, name):
        if name not in self.by_name:
            raise NotFoundError(f"there is no configmaps {name} in namespace team")
        return self.by_name[name]

    def pods(self, _job):
        container = {"name": "pytorch", "state": {"running": {}}}
        return [{"metadata": {"name": "one-master-0"}, "status": {"containerStatuses": [container]}}]

    def log(self, _pod, *, tail):
        return SimpleNamespace(data=b"step 40 | loss 0.5\n", close=lambda: None)

    def asking(self, *_):
        return nullcontext()


def write_ledger(folder, run):
    path = folder / run / "ledger" / "1-aa" / "0001.jsonl"
    path.parent.mkdir(parents=True)
    records = records_of(run_started(), step_done(40, loss=0.5, seconds_left=60.0), start=time.time())
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_volume_of_the_cluster_leaves_the_last_line_of_the_log():
    cluster = Cluster("run.name=mine")
    found = read_progress(cluster, cluster.job, [])
    assert (found.run, found.store, found.summary) == ("mine", "file:///store", None)
    assert found.problem == "the store is a volume of the cluster"
    assert found.log_line == "step 40 | loss 0.5"


def test_a_store_that_the_desk_reaches_gives_the_numbers(tmp_path):
    cluster = Cluster("run.name=mine")
    write_ledger(tmp_path, "mine")
    found = read_progress(cluster, cluster.job, [f"run.store=file://{tmp_path}"])
    assert found.problem == ""
    assert (found.summary.step, found.summary.total_steps, found.summary.loss) == (40, 100, 0.5)
    assert found.summary.seconds_left == 60.0


def test_a_store_that_is_away_is_a_problem_and_no_error(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    cluster = Cluster("run.store=s3://bucket/runs", "s3.endpoint=http://127.0.0.1:9", "run.name=mine")
    found = read_progress(cluster, cluster.job, [])
    assert found.summary is None
    assert "127.0.0.1:9" in found.problem
    assert found.log_line


def test_settings_of_another_version_are_a_problem_and_no_error():
    cluster = Cluster()
    config_map = next(iter(cluster.by_name.values()))
    config_map["data"]["config.yaml"] = yaml.safe_dump({"task": "signs", "from_the_future": 1})
    assert "unknown setting 'from_the_future'" in read_progress(cluster, cluster.job, []).problem
    cluster.by_name.clear()
    assert "there is no configmaps" in read_progress(cluster, cluster.job, []).problem


def test_the_environment_of_the_pod_comes_after_its_config_map():
    cluster = Cluster("run.name=mine")
    container = cluster.job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "TRAINER__RUN__STORE", "value": "file:///store/below"})
    assert read_progress(cluster, cluster.job, []).store == "file:///store/below"


def test_the_desk_needs_no_torch():
    script = (
        "import sys; import trainer.kube.control, trainer.kube.logs, trainer.kube.progress, trainer.cli.cluster_text;"
        "sys.exit(', '.join({'torch', 'kubernetes', 'matplotlib', 'boto3'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
