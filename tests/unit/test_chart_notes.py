"""What Helm says after an install, what lint says to every example, and which clusters are refused."""

import json

import pytest
import yaml

from charts.tools.values_docs import CHART
from tests.chart_values import ELASTIC, KEYS, S3, SCRAPED, at, merged, render

helm_python = pytest.importorskip("helm_python", reason="Helm as a library: pip install helm-python-sdk")

CASES = sorted((CHART / "ci").glob("*-values.yaml"))


def notes(values, *, is_upgrade=False):
    chart = helm_python.Chart.load(str(CHART))
    files = chart.render(values, name="signs-train", namespace="ml", is_upgrade=is_upgrade, is_install=not is_upgrade)
    return files["trainer/templates/NOTES.txt"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_lint_has_nothing_to_say(path):
    values = yaml.safe_load(path.read_text("utf-8")) or {}
    result = helm_python.lint(str(CHART), values=values, strict=True)
    # 1 is "icon is recommended", for which there is no place on the web
    assert not [message for message in result["messages"] if message["severity"] > 1], result


def test_they_say_what_happens_and_which_commands_to_type():
    text = notes({})
    job = next(found["metadata"]["name"] for found in render({}, namespace="ml") if found["kind"] == "PyTorchJob")
    assert f"The job {job} starts now: one pod, 1 process(es) in each." in text
    assert "run signs-train on generated data (preset quick)" in text
    assert "file:///store/signs-train, on the claim signs-train-store" in text
    for command in (
        "trainer status",
        "trainer logs",
        "trainer wait",
        "helm test",
        "kubectl --namespace ml get pytorchjob",
    ):
        assert command in text
    assert "takes the place" in notes({}, is_upgrade=True)
    assert "config.run.resume_with_changes" in notes({}, is_upgrade=True)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "names no registry"),
        ({"worker": {"replicas": 1}}, "mounted on one node only"),
        (ELASTIC, "mounted on one node only"),
        ({"gpu": {"count": 4}, "nprocPerNode": "1"}, "the others stay idle"),
        (merged(S3, {"s3": {"accessKeyId": "a", "secretAccessKey": "b"}}), "lie in the release's values"),
        (merged(S3, at("workloadIdentity.gcp.serviceAccount", "a@b")), "opens no S3 store by itself"),
        ({"networkPolicy": {"enabled": True}, "config": {"telemetry": {"wandb": "online"}}}, "keeps W&B out of reach"),
        (merged(SCRAPED, at("monitoring.intervalSeconds", 61)), "may miss the last values"),
        (merged(SCRAPED, at("config.telemetry.prometheus.linger_seconds", 5.0)), "may miss the last values"),
    ],
)
def test_they_warn(values, says):
    assert says in notes(values)


def test_they_do_not_cry_wolf():
    calm = merged(KEYS, {"worker": {"replicas": 2}, "image": {"repository": "example.org/me/trainer"}})
    assert "WARNING" not in notes(calm)
    assert "WARNING" not in notes(merged(calm, {"gpu": {"count": 2}}))
    assert "WARNING" not in notes(merged(calm, SCRAPED))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"runPolicy": {"suspend": True}}, "made without pods"),
        ({"kueue": {"queueName": "gpus"}}, "until Kueue's queue gpus admits it"),
        ({"worker": {"replicas": 2}}, "a master and 2 worker(s)"),
        (ELASTIC, "2 elastic worker(s)"),
    ],
)
def test_they_name_the_shape(values, says):
    assert says in notes(values)


def install(version):
    config = helm_python.Config(namespace="ml", storage_driver="memory")
    from helm_python import _native

    options = json.dumps({"dry_run": "client", "kube_version": version})
    chart = helm_python.Chart.load(str(CHART))
    return _native.call_string(
        "helm_install", config._raw(), _native.HANDLE(0), chart._raw(), None, "signs-train", "{}", options
    )


def test_an_old_cluster_is_refused():
    assert "signs-train" in install("v1.28.0-gke.1")
    with pytest.raises(helm_python.HelmError, match=r"1\.28"):
        install("v1.27.9")
