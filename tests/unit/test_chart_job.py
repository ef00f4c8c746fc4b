"""What the chart renders: shapes of the job, its name, what an upgrade starts, and what is refused."""

import re

import pytest

from charts.tools import helm
from tests.chart_values import ELASTIC, KEYS, S3, at, merged, render

pytestmark = pytest.mark.skipif(helm.missing() is not None, reason=str(helm.missing()))

RUN = {"preset": "none", "config": {"data": {"path": "/data"}}}


def objects(values=None, **release):
    return {found["kind"]: found for found in render(values or {}, **release)}


def job(values=None, **release):
    return objects(values, **release)["PyTorchJob"]


def pod(values=None, kind="Master"):
    return job(values)["spec"]["pytorchReplicaSpecs"][kind]["template"]["spec"]


def env(values=None, kind="Master"):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in pod(values, kind)["containers"][0]["env"]}


def settings(values=None):
    import yaml

    return yaml.safe_load(objects(values)["ConfigMap"]["data"]["config.yaml"])


def name(values=None):
    return job(values)["metadata"]["name"]


def test_without_values_one_pod_trains_generated_data_on_a_volume():
    made = objects()
    assert set(made) == {"ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "PyTorchJob", "Pod"}
    spec = made["PyTorchJob"]["spec"]
    assert set(spec["pytorchReplicaSpecs"]) == {"Master"}
    assert spec["pytorchReplicaSpecs"]["Master"]["replicas"] == 1
    assert spec["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "ExitCode"
    assert spec["runPolicy"] == {"cleanPodPolicy": "Running"}
    assert spec["nprocPerNode"] == "1"
    config = settings()
    assert config["data"]["layout"] == "synthetic"
    assert config["run"] == {"name": "signs-train", "store": "file:///store", "grace_seconds": 120}
    (container,) = pod()["containers"]
    assert container["name"] == "pytorch"
    assert container["args"] == ["--config", "/etc/trainer/config.yaml"]
    assert "command" not in container
    assert container["ports"] == [
        {"name": "pytorchjob-port", "containerPort": 23456, "protocol": "TCP"},
        {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
    ]
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & container.keys()


def test_the_pod_sees_settings_store_and_memory():
    mounts = {mount["mountPath"]: mount["name"] for mount in pod()["containers"][0]["volumeMounts"]}
    assert mounts == {"/etc/trainer": "config", "/scratch": "scratch", "/dev/shm": "shm", "/store": "store"}
    volumes = {volume.pop("name"): volume for volume in pod()["volumes"]}
    assert volumes["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    assert volumes["store"] == {"persistentVolumeClaim": {"claimName": "signs-train-store"}}
    assert volumes["config"] == {"configMap": {"name": name()}}
    seen = env()
    assert seen["TRAINER__RUN__NAME"] == "signs-train"
    assert seen["TRAINER__RUN__GRACE_SECONDS"] == "120"
    assert pod()["terminationGracePeriodSeconds"] == 120
    assert {"POD_NAME", "POD_NAMESPACE", "NODE_NAME", "JOB_NAME"} <= set(seen)


@pytest.mark.parametrize(
    ("values", "replicas"),
    [
        ({}, {"Master": 1}),
        ({"worker": {"replicas": 2}}, {"Master": 1, "Worker": 2}),
        ({"master": {"replicas": 1}, "worker": {"replicas": 1}}, {"Master": 1, "Worker": 1}),
        (ELASTIC, {"Worker": 2}),
        (merged(ELASTIC, {"master": {"replicas": 0}}), {"Worker": 2}),
    ],
)
def test_shapes(values, replicas):
    specs = job(values)["spec"]["pytorchReplicaSpecs"]
    assert {kind: spec["replicas"] for kind, spec in specs.items()} == replicas
    assert len({str(spec["template"]) for spec in specs.values()}) == 1


def test_elastic_workers_meet_under_the_jobs_name():
    policy = job(ELASTIC)["spec"]["elasticPolicy"]
    assert policy == {
        "rdzvBackend": "c10d",
        "rdzvId": name(ELASTIC),
        "minReplicas": 2,
        "maxReplicas": 2,
        "maxRestarts": 10,
    }
    conf = [{"key": "join_timeout", "value": "600"}]
    assert job(merged(ELASTIC, at("elastic.rdzvConf", conf)))["spec"]["elasticPolicy"]["rdzvConf"] == conf
    assert "elasticPolicy" not in job()["spec"]


def test_gpus_are_limits_and_processes():
    values = {"gpu": {"count": 4}, "resources": {"limits": {"memory": "64Gi"}}}
    assert pod(values)["containers"][0]["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 4}
    assert job(values)["spec"]["nprocPerNode"] == "4"
    assert job({**values, "nprocPerNode": "2"})["spec"]["nprocPerNode"] == "2"
    assert job({**values, "nprocPerNode": "auto"})["spec"]["nprocPerNode"] == "auto"


def test_settings_go_over_the_preset_key_by_key():
    config = settings({"config": {"optim": {"lr": 0.5, "clip": None}, "data": {"split": {"test_signers": []}}}})
    assert config["optim"] == settings()["optim"] | {"lr": 0.5, "clip": None}
    assert config["data"]["split"]["test_signers"] == []
    assert config["num_epochs"] == settings()["num_epochs"]
    plain = settings({"preset": "none", "config": {"num_epochs": 1000000}})
    assert plain == {"num_epochs": 1000000, "run": settings()["run"]}


@pytest.mark.parametrize(
    ("task", "preset"), [(None, "quick"), ("translation", "quick"), ("translation", "tiny"), ("hierarchy", "quick")]
)
def test_settings_mean_the_same_as_the_trainers_own_preset(tmp_path, task, preset):
    from trainer.config.digest import digest, matters
    from trainer.config.sources import load_settings

    file, given = tmp_path / "config.yaml", {"config": {"task": task}} if task else {}
    file.write_text(objects({"preset": preset, **given})["ConfigMap"]["data"]["config.yaml"], "utf-8")
    loaded = load_settings(config=str(file)).settings
    preset = load_settings(config=preset, task=task).settings
    assert loaded.task == (task or "signs")
    assert digest(matters(loaded)) == digest(matters(preset))
    assert loaded.num_epochs == preset.num_epochs


def test_a_claim_with_data_is_where_the_data_are():
    values = {"preset": "none", "data": {"existingClaim": "recordings", "subPath": "packed"}}
    assert settings(values)["data"]["path"] == "/data"
    mount = next(one for one in pod(values)["containers"][0]["volumeMounts"] if one["name"] == "data")
    assert mount == {"name": "data", "mountPath": "/data", "subPath": "packed", "readOnly": True}
    assert settings(merged(values, at("config.data.path", "/data/sub")))["data"]["path"] == "/data/sub"


def test_the_name_of_a_run_outlives_the_jobs():
    assert settings({"config": {"num_epochs": 3}})["run"]["name"] == settings()["run"]["name"] == "signs-train"
    own = at("config.run.name", "KArSL.502")
    assert settings(own)["run"]["name"] == env(own)["TRAINER__RUN__NAME"] == "KArSL.502"


MATTERS = {
    "config": {"num_epochs": 30},
    "image.tag": "0.2.0",
    "worker.replicas": 1,
    "nprocPerNode": "2",
    "resources": {"limits": {"memory": "8Gi"}},
    "terminationGracePeriodSeconds": 600,
    "shm.size": "2Gi",
    "extraEnv": [{"name": "A", "value": "b"}],
    "nodeSelector": {"disk": "ssd"},
    "store.existingClaim": "other",
    "kueue.queueName": "gpus",
    "schedulingPolicy": {"queue": "a"},
    "preflight": False,
}
DOES_NOT = {
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "commonLabels": {"a": "b"},
    "commonAnnotations": {"a": "b"},
    "store.size": "10Gi",
    "store.keep": False,
    "runPolicy.ttlSecondsAfterFinished": 60,
    "runPolicy.backoffLimit": 3,
    "runPolicy.suspend": True,
    "networkPolicy.enabled": True,
    "podDisruptionBudget.enabled": True,
    "test.enabled": False,
    "checkpointSeconds": 90,
    "monitoring": {"requireApi": False, "podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "monitoring.annotations.enabled": True,
    "monitoring.intervalSeconds": 60,
    "serviceAccount.annotations": {"a": "b"},
    "extraObjects": ["{apiVersion: v1, kind: Secret, metadata: {name: a}}"],
}


@pytest.mark.parametrize("path", MATTERS)
def test_what_matters_makes_a_new_job(path):
    assert name(at(path, MATTERS[path])) != name()


@pytest.mark.parametrize("path", DOES_NOT)
def test_what_does_not_matter_starts_nothing(path):
    assert name(at(path, DOES_NOT[path])) == name()


def test_changed_keys_in_a_secret_of_the_charts_start_nothing():
    keys = merged(S3, {"s3": {"accessKeyId": "a", "secretAccessKey": "b"}})
    assert name(keys) == name(merged(keys, at("s3.secretAccessKey", "c")))


def test_the_id_can_be_pinned():
    assert name({"jobId": "7"}) == name({"jobId": "7", "config": {"num_epochs": 3}}) == "signs-train-7"
    assert re.fullmatch(r"signs-train-[0-9a-f]{8}", name())


def test_two_releases_share_nothing():
    one, two = render({}, name="one"), render({}, name="two")
    names = {(found["kind"], found["metadata"]["name"]) for found in one}
    assert not names & {(found["kind"], found["metadata"]["name"]) for found in two}


@pytest.mark.parametrize(
    ("values", "release", "says"),
    [
        (merged(ELASTIC, at("master.replicas", 1)), "a", "workers only"),
        ({"elastic": {"enabled": True}}, "a", "worker.replicas of at least 1"),
        (at("master.replicas", 0), "a", "master.replicas: 0 works with elastic.enabled only"),
        (merged(ELASTIC, at("elastic.minReplicas", 3)), "a", "between elastic.minReplicas"),
        (merged(ELASTIC, at("elastic.maxReplicas", 1)), "a", "between elastic.minReplicas"),
        ({}, "a" * 42, "51 characters"),
        ({}, "7th", "must begin with a letter"),
        ({}, "v1.2", "must begin with a letter"),
        ({"terminationGracePeriodSeconds": 80}, "a", "set it to at least 90"),
        (at("config.run.grace_seconds", 30), "a", "is terminationGracePeriodSeconds in a pod"),
        (at("config.telemetry.prometheus.port", 9191), "a", "is monitoring.port in a pod"),
        (at("monitoring.port", 23456), "a", "are both 23456"),
        (at("config.run.store", "file://checkpoints"), "a", "ends with the pod"),
        (at("config.run.store", "file:///storeroom"), "a", "ends with the pod"),
        (S3, "a", "nothing says who may write there"),
        (merged(KEYS, {"s3": {"accessKeyId": "a", "secretAccessKey": "b"}}), "a", "keep one"),
        (merged(S3, {"s3": {"accessKeyId": "a"}}), "a", "go together"),
        (at("workloadIdentity.aws.audience", "sts"), "a", "needs workloadIdentity.aws.roleArn"),
        (
            {"workloadIdentity": {"gcp": {"serviceAccount": "a@b"}}, "serviceAccount": {"create": False}},
            "a",
            "annotate yours",
        ),
        (at("data.existingClaim", "recordings"), "a", "data.layout: synthetic, which makes data up"),
        (at("config.data.path", "/data"), "a", "data.layout: synthetic, which makes data up"),
        ({"config": {"task": "hierarchy", "data": {"path": "/data"}}}, "a", "data.layout: t1, which makes data up"),
        (merged(at("config.task", "translation"), at("data.existingClaim", "b")), "a", "embedded, which makes data up"),
        ({"preset": "small", "config": {"task": "hierarchy"}}, "a", "one of its own (anuran, quick)"),
        ({"gpu": {"count": 1}, "nprocPerNode": "2"}, "a", "a GPU of its own"),
        (at("resources.limits.cpu", "400m"), "a", "resources.requests.cpu is 500m, more than the limit of 400m"),
        (at("resources.requests.memory", 4_000_000_000), "a", "more than the limit of 3Gi"),
        (at("test.resources.limits.memory", "200Mi"), "a", "test.resources.requests.memory is 256Mi"),
        (at("resources.limits", {"nvidia.com/gpu": 1}), "a", "say it as gpu.count"),
        (at("schedulingPolicy.minAvailable", 2), "a", "would never start"),
        ({"extraEnv": [{"name": "PET_NNODES", "value": "2"}]}, "a", "set by the operator itself"),
        ({"extraEnv": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "s3cr3t"}]}, "a", "use valueFrom.secretKeyRef"),
        ({"extraVolumes": [{"name": "store", "emptyDir": {}}]}, "a", "choose another"),
        ({"extraVolumeMounts": [{"name": "b", "mountPath": "/store"}]}, "a", "choose another"),
        ({"initContainers": [{"name": "init-pytorch", "image": "a"}]}, "a", "has already"),
        ({"preset": "quick", "config": {"task": "signs", "data": {"path": "x"}}}, "a", "set preset to none"),
    ],
)
def test_what_cannot_run_is_refused_in_words(values, release, says):
    with pytest.raises(helm.ChartError) as caught:
        render(values, name=release)
    assert says in str(caught.value)
    assert "nil pointer" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "limit"), [("500m", 0.5), ("1Gi", "1.1G"), ("1024Ki", "1Mi"), (2, "2000m"), ("3000M", "3G")]
)
def test_quantities_are_compared_as_kubernetes_does(asked, limit):
    assert job({"resources": {"requests": {"memory": asked}, "limits": {"memory": limit}}})


def test_the_longest_name_fits():
    made = job(name="a" * 41)
    assert len(made["metadata"]["name"]) == 50


def test_as_a_part_of_another_chart_it_is_called_after_it_too():
    assert job({"nameOverride": "eu"})["metadata"]["name"].startswith("signs-train-eu-")
    assert job({"fullnameOverride": "karsl"})["metadata"]["name"].startswith("karsl-")
    assert objects({"namespaceOverride": "ml"})["ConfigMap"]["metadata"]["namespace"] == "ml"
