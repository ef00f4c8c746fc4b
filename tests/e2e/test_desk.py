"""The desk's commands against the cluster of the current context: real API server, operator, kubelet, and S3 server.

The image is `signs-trainer:dev` or E2E_IMAGE; the S3 server is named by S3_ENDPOINT_URL (from here),
S3_ENDPOINT_URL_IN_CLUSTER (from pods), S3_BUCKET and the AWS keys. Each part that is missing is a skip that says so.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
import time

import pytest
import yaml

from trainer.checkpoint.stores import open_store
from trainer.cli import main
from trainer.config.s3 import S3Settings

kubernetes = pytest.importorskip("kubernetes", reason="the extra kube is not installed")

IMAGE = os.environ.get("E2E_IMAGE", "signs-trainer:dev")
DATA = ["--set", "data.synthetic_words=3", "--set", "data.synthetic_repetitions=4"]
SMALL = ["--config", "quick", "--cpu", "10m", "--memory", "1Gi", *DATA]
PLAIN = ["--set", "output.report=false", "--set", "output.export=[]"]
LONG = ["--num_epochs", "4000", "--set", "checkpoint.every=every 200 steps"]


@pytest.fixture(scope="module")
def core():
    """A client of the cluster that the tests own a namespace of."""
    try:
        kubernetes.config.load_config()
        core = kubernetes.client.CoreV1Api()
        nodes = core.list_node(_request_timeout=5).items
    except Exception as error:
        pytest.skip(f"no cluster: {str(error).splitlines()[0]}")
    names = {name for node in nodes for image in node.status.images for name in image.names or ()}
    if not any(name.endswith(IMAGE) for name in names):
        pytest.skip(f"no node has the image {IMAGE}; `make image`, load it, or set E2E_IMAGE")
    return core


@pytest.fixture(scope="module")
def namespace(core):
    """One for all tests here, gone with them."""
    name = f"desk-{secrets.token_hex(3)}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture(scope="module")
def s3(core, namespace):
    """Settings of a store in S3 as pods see it; its keys are in the Secret `keys`."""
    wanted = (
        "S3_ENDPOINT_URL",
        "S3_ENDPOINT_URL_IN_CLUSTER",
        "S3_BUCKET",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    )
    if missing := [name for name in wanted if name not in os.environ]:
        pytest.skip(f"no S3 server: {', '.join(missing)} not set")
    data = {key: base64.b64encode(os.environ[key].encode()).decode() for key in wanted[3:]}
    core.create_namespaced_secret(namespace, {"metadata": {"name": "keys"}, "data": data})
    url = f"s3://{os.environ['S3_BUCKET']}/{namespace}"
    yield ["--store", url, "--set", f"s3.endpoint={os.environ['S3_ENDPOINT_URL_IN_CLUSTER']}", "--secret", "keys"]
    store = open_store(url, S3Settings(endpoint=os.environ["S3_ENDPOINT_URL"]))
    store.delete([entry.key for entry in store.entries("")])


@pytest.fixture
def desk(namespace, capsys):
    """A command line in the namespace: (exit code, stdout, stderr)."""

    def run(command, *arguments):
        capsys.readouterr()
        code = main([command, *arguments, "-n", namespace])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def submitted(desk):
    """`submit` of a small training; gives the name of the job. Its pods go with the test."""
    jobs = []

    def submit(run, *arguments):
        code, out, err = desk("submit", "--run_name", run, "--image", IMAGE, *SMALL, *PLAIN, *arguments, "--json")
        assert code == 0, err
        jobs.append(json.loads(out)["job"])
        return jobs[-1]

    yield submit
    for job in jobs:
        desk("stop", job)


def until(what, seconds=120):
    """Ask again until there is an answer."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(1)
    return answer


def status_of(desk, job, *arguments):
    code, out, err = desk("status", job, "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


def at_desk():
    return ["--set", f"s3.endpoint={os.environ['S3_ENDPOINT_URL']}"]


def test_a_training_from_submit_to_its_numbers_in_s3(desk, s3):
    given = ["--run_name", "whole", "--image", IMAGE, *SMALL, *PLAIN, *s3, "--num_epochs", "2"]
    code, out, err = desk("submit", *given, "--wait", "--timeout", "240")
    assert code == 0, err
    assert out.endswith(": Succeeded\n")
    job = out.partition(":")[0]
    found = status_of(desk, job, *at_desk())
    assert (found["state"], found["code"]) == ("Succeeded", 0)
    progress = found["progress"]["summary"]
    assert progress["status"] == "complete"
    assert progress["step"] == progress["total_steps"] > 0
    assert progress["passes"]["val"]["loss"] > 0
    assert desk("status", "whole", *at_desk())[1].count("complete") >= 1
    code, out, _ = desk("logs", "whole")
    assert code == 0
    assert all(line.startswith("[master-0] ") for line in out.splitlines())
    assert "complete" in out
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in out
    code, _, err = desk("submit", *given)
    assert code == 2
    assert f"job {job} is there already" in err
    assert desk("wait", job)[0] == 0
    assert "is complete" in desk("resume", job)[2]


def test_stop_publishes_and_resume_goes_on_from_there(desk, submitted, s3):
    job = submitted("paused", *s3, *LONG)
    reached = until(lambda: (status_of(desk, job, *at_desk())["progress"]["summary"] or {}).get("checkpoint"), 180)
    code, out, err = desk("stop", job)
    assert code == 0, err
    assert "its checkpoint published" in out
    stopped = status_of(desk, job, *at_desk())
    assert (stopped["state"], stopped["pods"]) == ("Suspended", [])
    assert stopped["progress"]["summary"]["status"] == "stopped"
    assert stopped["progress"]["summary"]["checkpoint"] > reached
    assert "stopped already" in desk("stop", job)[1]
    assert desk("resume", job)[0] == 0
    now = until(
        lambda: (one := status_of(desk, job, *at_desk())["progress"]["summary"])["num_attempts"] == 2 and one,
        seconds=180,
    )
    assert now["highest_step"] >= stopped["progress"]["summary"]["step"]


def test_following_goes_on_over_a_pod_that_was_deleted(desk, submitted, core, namespace):
    job = submitted("followed", *LONG)
    until(lambda: "step" in status_of(desk, job)["progress"]["log_line"], 180)
    command = [sys.executable, "-m", "trainer", "logs", job, "-f", "-n", namespace]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(follower.stdout), daemon=True)
    reader.start()
    try:
        until(lambda: any("step" in line for line in lines))
        core.delete_namespaced_pod(f"{job}-master-0", namespace)
        until(lambda: any("attempt 2" in line for line in lines), 180)
        assert any("ends with 143" in line for line in lines)
        pod = status_of(desk, job)["pods"][0]
        assert (pod["restarts"], pod["earlier_codes"]) == (1, [143])
    finally:
        follower.terminate()
        follower.wait()


def test_a_training_that_fails_ends_wait_with_its_code_and_its_reason(desk, submitted):
    job = submitted("nodata", "--set", "data.layout=auto", "--data", "/data/none")
    code, out, _ = desk("wait", job, "--timeout", "240")
    assert code == 3
    assert "3: bad data" in out
    assert "/data/none" in out
    before = status_of(desk, job)
    assert before["code"] == 3
    code, _, err = desk("resume", job)
    assert code == 0
    assert "made anew" in err
    assert desk("wait", job, "--timeout", "240")[0] == 3


def test_status_names_what_is_missing(desk, submitted):
    image = submitted("noimage", "--image", "local/nothing:9")
    claim = submitted("noclaim", "--data-volume", "nodata", "--store-volume", "nostore")
    huge = submitted("huge", "--memory", "9000Gi")
    secret = submitted("nosecret", "--store", "s3://nowhere/runs", "--secret", "nokeys")
    for job, words in (
        (image, "the image local/nothing:9 cannot be pulled"),
        (claim, 'persistentvolumeclaim "nostore" not found'),
        (huge, "Insufficient memory"),
        (secret, 'secret "nokeys" not found'),
    ):
        until(lambda job=job, words=words: any(words in pod["why"] for pod in status_of(desk, job)["pods"]), 60)
    listed = desk("status")[1]
    assert all(job in listed for job in (image, claim, huge, secret))
    code, _, err = desk("wait", image, "--timeout", "1")
    assert code == 170
    assert "Created after 1 s" in err
    code, _, err = desk("logs", image)
    assert (code, "has a log (yet)" in err) == (0, True)


def test_a_dry_run_is_what_the_server_accepts(desk, namespace, s3):
    for more in ([], [*s3, "--workers", "2", "--nproc", "2", "--gpus", "1"]):
        code, text, err = desk("submit", "--run_name", "dry", "--image", IMAGE, *SMALL, *more, "--dry-run")
        assert code == 0, err
        client = kubernetes.dynamic.DynamicClient(kubernetes.client.ApiClient())
        for item in yaml.safe_load_all(text):
            api = client.resources.get(api_version=item["apiVersion"], kind=item["kind"])
            api.create(item, namespace=namespace, dry_run="All", query_params=[("fieldValidation", "Strict")])


def test_a_wrong_name_or_namespace_is_said(desk, submitted, capsys):
    job = submitted("named", "--image", "local/nothing:9")
    code, _, err = desk("status", f"{job}x")
    assert (code, f"did you mean {job}?" in err) == (2, True)
    assert main(["submit", *SMALL, "-n", "no-such-namespace"]) == 2
    assert "kubectl create namespace no-such-namespace" in capsys.readouterr().err
    assert main(["status", "--context", "nowhere"]) == 2
    assert "there is no context 'nowhere'" in capsys.readouterr().err


def test_without_permission_the_missing_rule_is_named(desk, core, namespace, monkeypatch, tmp_path):
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "nobody"}})
    token = core.create_namespaced_service_account_token("nobody", namespace, {"spec": {}}).status.token
    config = kubernetes.client.Configuration.get_default_copy()
    cluster = {"server": config.host, "certificate-authority": config.ssl_ca_cert}
    kubeconfig = {
        "current-context": "nobody",
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "nobody", "user": {"token": token}}],
        "contexts": [{"name": "nobody", "context": {"cluster": "it", "user": "nobody"}}],
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    code, _, err = desk("submit", *SMALL)
    assert code == 5
    assert "nobody may not create pytorchjobs" in err
    assert 'apiGroups: ["kubeflow.org"], resources: ["pytorchjobs"], verbs: ["create"]' in err
    kubeconfig["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    code, _, err = desk("status")
    assert (code, "https://127.0.0.1:1 (context nobody) cannot be reached" in err) == (170, True)
