"""Where the time goes from applying a job to its first step, and that the trainer's own part of it is small."""

import json
import time
from functools import partial

import yaml

from charts.tools.values_docs import CHART
from tests.e2e.kube import container_of
from tests.e2e.releases import helm, merged
from tests.e2e.runs import PATIENCE

_MARKS = '''
"""Says when the parts of a start began and ended; Python imports a module of this name before anything else."""
import functools, importlib.util, sys, time

WATCHED = {
    "torch": (),
    "torch._dynamo": (),
    "trainer.run": ("join_world", "make_task", "open_attempt", "build_parts"),
    "trainer.engine.fit": ("train_step",),
}


def say(name, begun):
    print("mark", name, begun, time.time(), flush=True)


def told(name, function):
    @functools.wraps(function)
    def call(*arguments, **named):
        begun = time.time()
        try:
            return function(*arguments, **named)
        finally:
            say(name, begun)
    return call


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        load = spec.loader.exec_module

        def exec_module(module):
            begun = time.time()
            load(module)
            say(name, begun)
            for function in WATCHED[name]:
                setattr(module, function, told(function, getattr(module, function)))

        spec.loader.exec_module = exec_module
        return spec


say("python", time.time())
sys.meta_path.insert(0, Finder())
'''
MARKS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "{{ .Release.Name }}-marks"},
    "data": {"sitecustomize.py": _MARKS},
}
TRAINING = {
    "config": {"num_epochs": 2, "threads": 1, "device": "cpu", "telemetry": {"tensorboard": "off"}},
    "extraObjects": [MARKS],
    "extraEnv": [{"name": "PYTHONPATH", "value": "/marks"}],
    "extraVolumes": [{"name": "marks", "configMap": {"name": "{{ .Release.Name }}-marks"}}],
    "extraVolumeMounts": [{"name": "marks", "mountPath": "/marks"}],
}
OWN_SHARE = 2.0
"""The trainer's own part may be so many imports of torch, and its first batch. The aim is 1.5, seen are 1.4 to 1.6: it
is all wall time of a busy node, so this only finds what is grossly too much."""
OWN = ("launcher", "import", "rendezvous", "run", "data", "model", "first batch")
TORCH = ("torch", "torch._dynamo")
"""What every training imports: the second comes with the first optimizer, compiled or not (torch 2.13)."""


def test_one_pod(cluster, make_release, namespace, capsys):
    table, *_ = first_step(cluster, make_release("one", namespace), [], capsys)
    own = sum(table[name] for name in OWN)
    limit = OWN_SHARE * table["of these torch"] + table["data"] + table["first batch"]
    assert own < limit, f"{own:.1f} s of its own, {limit:.1f} s were allowed: {table}"


def test_master_and_worker(cluster, make_release, s3, plain_namespace, capsys):
    s3.make_secret(cluster, plain_namespace)
    more = [s3.values, {"worker": {"replicas": 1}}]
    tables = first_step(cluster, make_release("workers", plain_namespace), more, capsys)
    assert [table["rendezvous"] > 0 for table in tables] == [True, True]


def first_step(cluster, release, values, capsys):
    """Apply the job of a release that is not installed; the table of each pod, which is printed as well."""
    documents = rendered(release, merged(release.base, TRAINING, *values))
    job = next(one for one in documents if one["kind"] == "PyTorchJob")
    name, replicas = job["metadata"]["name"], job["spec"]["pytorchReplicaSpecs"]
    pods = [f"{name}-{kind.lower()}-{index}" for kind in replicas for index in range(replicas[kind]["replicas"])]
    applied = time.time()
    cluster.create(release.namespace, *documents)
    seen = watch_start(cluster, release.namespace, name, pods)
    tables = []
    for pod in pods:
        cluster.follow(release.namespace, pod, "^mark train_step", PATIENCE)
        tables.append(parts(applied, seen[pod], marks_of(cluster.log(release.namespace, pod))))
    with capsys.disabled():
        print("\nseconds from apply to the first step")
        for pod, table in zip(pods, tables, strict=True):
            print(f"  {pod}: {', '.join(f'{name} {seconds:.1f}' for name, seconds in table.items())}")
    return tables


def rendered(release, values):
    """What would be applied."""
    where = [release.name, str(CHART), "--namespace", release.namespace, "--no-hooks"]
    text = helm("template", *where, "--values", "-", given=json.dumps(values))
    return [found for found in yaml.safe_load_all(text) if found]


def watch_start(cluster, namespace, job, pods):
    """When each pod was seen scheduled, and with its container running."""
    seen = {pod: {} for pod in pods}

    def note(_kind, pod):
        times, now = seen.get(pod["metadata"]["name"], {}), time.time()
        if pod["spec"].get("nodeName"):
            times.setdefault("scheduled", now)
        if {"running", "terminated"} & set(container_of(pod)["state"]):
            times.setdefault("running", now)
        return all("running" in times for times in seen.values())

    labels = f"training.kubeflow.org/job-name={job}"
    call = partial(cluster.core.list_namespaced_pod, namespace=namespace, label_selector=labels)
    cluster.until(call, note, PATIENCE, f"pods of job {job} running")
    return seen


def marks_of(log):
    """By name, in order, (begun, ended) of each time that it happened; the first `python` is the launcher's."""
    found = {}
    for line in log.splitlines():
        if line.startswith("mark "):
            _, name, begun, ended = line.split()
            found.setdefault(name, []).append((float(begun), float(ended)))
    return found


def parts(applied, seen, marks):
    """Seconds of each part; they follow each other without a gap. With `precision.compile` the first batch compiles."""
    begun = marks["python"][0][0]
    ends = {
        "scheduling": seen["scheduled"],
        "init": begun,
        "launcher": marks["python"][1][0],
        "import": marks["join_world"][0][0],
        "rendezvous": marks["join_world"][0][1],
        "run": marks["open_attempt"][0][1] if "open_attempt" in marks else marks["join_world"][0][1],
        "data": marks["make_task"][0][1],
        "model": marks["build_parts"][0][1],
        "first batch": marks["train_step"][0][1],
    }
    table, before = {}, applied
    for name, end in ends.items():
        table[name], before = end - before, end
    torch = sum(ended - begun for name in TORCH for begun, ended in marks[name])
    return table | {"in all": before - applied, "of these torch": torch}
