"""Errors of the cluster's clients as one line of ours with the right exit code; the bodies are a real server's."""

import json
import sys

import pytest

pytest.importorskip("kubernetes", reason="the extra kube is not installed")

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import NewConnectionError

from trainer.errors import SettingsError
from trainer.kube.cluster import connect
from trainer.kube.refusals import ExistsError, NotFoundError, Question, translated

ASKED = Question("get", "pytorchjobs", "one", "team", "https://cluster:6443", "work")


def answer(code, body, question=ASKED):
    error = ApiException(status=code, reason="Reason")
    error.body = body if isinstance(body, str) else json.dumps(body)
    return translated(error, question)


def test_no_permission_names_the_rule_that_is_missing():
    words = 'pytorchjobs.kubeflow.org "one" is forbidden: User "ann" cannot get resource "pytorchjobs" in API group ...'
    error = answer(403, {"kind": "Status", "message": words})
    assert error.exit_code == 5
    assert str(error) == (
        "no permission: ann may not get pytorchjobs in namespace team; a Role there needs the rule "
        'apiGroups: ["kubeflow.org"], resources: ["pytorchjobs"], verbs: ["get"]'
    )


@pytest.mark.parametrize(
    ("code", "body", "exit_code", "says"),
    [
        (404, "404 page not found\n", 5, "knows no PyTorchJob: install the Kubeflow training operator"),
        (
            404,
            {"message": "not found", "details": {"name": "one", "kind": "pytorchjobs"}},
            2,
            "there is no pytorchjobs one",
        ),
        (404, {"message": "not found", "details": {"kind": "namespaces"}}, 2, "kubectl create namespace team"),
        (401, {"message": "Unauthorized"}, 5, "does not accept the credentials of context work"),
        (409, {"message": "exists"}, 2, "exists in namespace team already"),
        (403, {"message": 'admission webhook "v" denied the request: Master.replicas must be 1'}, 2, "Master.replicas"),
        (403, {"message": "exceeded quota: compute, requested: count=1"}, 2, "exceeded quota"),
        (422, {"message": "spec.nprocPerNode: Invalid value"}, 2, "spec.nprocPerNode: Invalid value"),
        (500, {"message": 'failed calling webhook "v": connection refused'}, 170, "webhook of the training operator"),
        (503, {"message": "etcd is away"}, 170, "answered 503 to get: etcd is away"),
        (500, "", 170, "no reason given"),
    ],
)
def test_every_answer_is_one_line_with_its_code(code, body, exit_code, says):
    error = answer(code, body)
    assert error.exit_code == exit_code
    assert says in str(error)
    assert "\n" not in str(error)


def test_absence_and_presence_can_be_told_apart():
    assert isinstance(answer(404, {"details": {"kind": "pytorchjobs"}}), NotFoundError)
    assert isinstance(answer(409, {}), ExistsError)


def test_the_reason_is_found_behind_what_the_training_client_makes_of_it():
    inner = ApiException(status=503, reason="Reason")
    inner.body = json.dumps({"message": "overloaded"})
    outer = RuntimeError("Failed to update PyTorchJob: team/one")
    outer.__context__ = inner  # raised while it was handled, without `from`
    assert "overloaded" in str(translated(outer, ASKED))


def test_a_cluster_that_is_not_there_is_worth_a_retry():
    error = translated(NewConnectionError(None, "Connection refused"), ASKED)
    assert error.exit_code == 170
    assert "https://cluster:6443 (context work) cannot be reached" in str(error)


def test_a_defect_of_ours_stays_one():
    assert translated(KeyError("status"), ASKED) is None


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kubeflow.training", None)
    with pytest.raises(SettingsError, match=r"install the extra, pip install 'signs-trainer\[kube\]'"):
        connect()


def test_no_kubeconfig_is_said_before_anything_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SettingsError, match="no cluster: there is no kubeconfig at"):
        connect()
    (tmp_path / "none").write_text("{}")
    with pytest.raises(SettingsError, match="the kubeconfig cannot be used"):
        connect()
