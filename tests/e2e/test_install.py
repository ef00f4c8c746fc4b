"""Installing: nothing said, the plain manifest, helm's own test, a strange user, neighbours, bad settings, removal.

All in namespaces that enforce Pod Security `restricted`.
"""

import json
import re
import secrets

import pytest

from charts.tools.manifests import ROOT
from tests.e2e.releases import HelmError, kubectl, missing_command

MANIFEST = ROOT / "manifests" / "pytorchjob.yaml"
DEFAULT_IMAGE = re.compile(r"(?m)^( *image:) signs-trainer:.*$")
WHOLE_SECONDS = 900
"""A training with the chart's own defaults takes 70 s on two idle cores; other things may run there, too."""

needs_kubectl = pytest.mark.skipif(bool(missing_command("kubectl")), reason=str(missing_command("kubectl")))


@pytest.fixture(scope="module")
def manifest(image):
    """The manifest as it is shipped, with an image that the nodes have."""
    text, count = DEFAULT_IMAGE.subn(rf"\1 {image}", MANIFEST.read_text("utf-8"))
    assert count == 1
    return text


@pytest.fixture(scope="module")
def untouched(make_release, namespace):
    """The chart with no values but the image."""
    release = make_release("signs-train", namespace, base={})
    return release, release.install()


@pytest.fixture(scope="module")
def applied(manifest, make_namespace):
    """`kubectl apply` of the manifest; its namespace."""
    namespace = make_namespace("manifest")
    kubectl("apply", "-n", namespace, "-f", "-", given=manifest)
    return namespace


@pytest.fixture(scope="module")
def neighbours(helm):
    """Two small releases side by side, one of them with a user id that nobody has ever seen."""
    uid = 1_000_000_000 + secrets.randbelow(10**6)
    stranger = {"runAsUser": uid, "runAsGroup": uid, "fsGroup": uid + 1}
    return helm("left", {"podSecurityContext": stranger}), helm("right"), uid


def master_of(job):
    return f"{job}-master-0"


def what_lies_in(look, namespace, claim):
    return set(look(namespace, claim, "cd /store && find . -type f -size +0").split())


def assert_whole(cluster, look, namespace, job):
    """Trained to its end with report, model and checkpoints on the volume of the run signs-train."""
    cluster.job_until(namespace, job, "Succeeded", seconds=WHOLE_SECONDS)
    end = cluster.end_of(namespace, master_of(job))
    assert (end["exitCode"], end["message"]) == (0, "complete")
    files = what_lies_in(look, namespace, "signs-train-store")
    assert {"./signs-train/COMPLETE.json", "./signs-train/report/index.html"} <= files
    for kind in ("export/.*[.]onnx", "export/.*[.]pth", "checkpoints/.*/MANIFEST[.]json"):
        assert any(re.fullmatch(f"./signs-train/{kind}", file) for file in files), kind
    complete = json.loads(look(namespace, "signs-train-store", "cat /store/signs-train/COMPLETE.json"))
    assert complete["epoch"] == complete["length"]["num_epochs"] == 24


@needs_kubectl
def test_no_values_at_all_give_a_report_and_a_model(cluster, untouched, applied, namespace, look):
    """`applied` is named so that both whole trainings run at once."""
    release, notes = untouched
    assert f"The job {release.job} starts now: one pod" in notes
    assert_whole(cluster, look, namespace, release.job)


@needs_kubectl
def test_the_manifest_alone_gives_a_report_and_a_model(cluster, applied, look):
    assert_whole(cluster, look, applied, "signs-train-1")


@needs_kubectl
@pytest.mark.parametrize("name", ["base", "overlays/gpu", "overlays/s3", "overlays/elastic"])
def test_the_server_takes_every_kustomization(make_namespace, name):
    said = kubectl("apply", "-n", make_namespace("dry"), "--dry-run=server", "-k", str(ROOT / "manifests" / name))
    assert said.count("(server dry run)") == len(said.splitlines()) >= 3


def test_the_namespace_lets_nothing_in_that_is_not_restricted(cluster, namespace):
    """Else the tests here would prove nothing about it."""
    import kubernetes

    pod = {"metadata": {"name": "loose"}, "spec": {"containers": [{"name": "loose", "image": "none"}]}}
    with pytest.raises(kubernetes.client.ApiException, match="violates PodSecurity"):
        cluster.core.create_namespaced_pod(namespace, pod, dry_run="All")


def test_neighbours_keep_to_their_own(cluster, neighbours, namespace, look):
    for release in neighbours[:2]:
        cluster.job_until(namespace, release.job, "Succeeded")
        files = what_lies_in(look, namespace, f"{release.name}-store")
        assert f"./{release.name}/COMPLETE.json" in files
        assert {file.split("/")[1] for file in files} == {release.name}
        mine = cluster.pods(
            namespace, f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component=training"
        )
        assert [pod["metadata"]["name"] for pod in mine] == [master_of(release.job)]


def test_any_user_id_trains(cluster, neighbours, namespace, look):
    left, _, uid = neighbours
    cluster.job_until(namespace, left.job, "Succeeded")
    owners = look(namespace, "left-store", "stat -c %u /store/left/COMPLETE.json /store/left/run.json")
    assert set(owners.split()) == {str(uid)}


def test_helm_test_passes(cluster, neighbours):
    left, *_ = neighbours
    assert re.search("Phase: +Succeeded", left.test())


def test_a_failed_helm_test_leaves_a_pod_that_names_the_cause(cluster, helm, s3, namespace):
    s3.make_secret(cluster, namespace)
    nowhere = {"config": {"run": {"store": "s3://no-bucket-of-this-name/runs"}}, "runPolicy": {"suspend": True}}
    release = helm("nowhere", s3.values, nowhere)
    with pytest.raises(HelmError, match="nowhere-test"):
        release.test()
    assert "no-bucket-of-this-name" in cluster.log(namespace, "nowhere-test", container="preflight")
    assert cluster.pods_of(namespace, release.job) == []


@pytest.mark.parametrize(
    ("name", "config", "code", "reason"),
    [
        ("early", {"model": {"residual": "legacy"}}, 2, "model.final_norm works with"),
        ("late", {"best": {"metric": "val/accuracy"}}, 2, "best.metric is 'val/accuracy'"),
        ("nodata", {"data": {"layout": "open", "path": "/data/none"}}, 3, "/data/none"),
    ],
)
def test_bad_settings_end_the_job_at_once(cluster, helm, namespace, name, config, code, reason):
    job = helm(name, {"config": config}).job
    cluster.job_until(namespace, job, "Failed")
    end = cluster.end_of(namespace, master_of(job))
    assert end["exitCode"] == code
    assert reason in end["message"]
    assert len(end["message"].splitlines()) == 1
    assert cluster.num_created(namespace, job) == 1
    assert cluster.job(namespace, job)["status"]["replicaStatuses"]["Master"]["failed"] == 1


@needs_kubectl
def test_a_typo_in_the_manifest_is_named_at_once(cluster, manifest, make_namespace):
    namespace = make_namespace("typo")
    kubectl("apply", "-n", namespace, "-f", "-", given=manifest.replace("num_epochs: 24", "num_epoch: 24"))
    cluster.job_until(namespace, "signs-train-1", "Failed")
    end = cluster.end_of(namespace, master_of("signs-train-1"))
    assert end["exitCode"] == 2
    assert "num_epochs" in end["message"]
    assert len(end["message"].splitlines()) == 1
    assert cluster.num_created(namespace, "signs-train-1") == 1


def test_uninstall_leaves_nothing_but_the_store(cluster, make_release, make_namespace):
    namespace = make_namespace("gone")
    before = cluster.inventory(namespace)
    release = make_release("gone", namespace)
    release.install()
    job = release.job
    cluster.job_until(namespace, job, "Succeeded")
    release.uninstall()
    kept = before | {("PersistentVolumeClaim", "gone-store")}
    assert cluster.only_left(namespace, kept) == kept
    release.install()
    assert release.job == job
    assert "is complete already" in cluster.follow(namespace, master_of(job), "complete")
    cluster.job_until(namespace, job, "Succeeded")
