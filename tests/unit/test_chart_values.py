"""The chart's values: documented, generated from one source, each with an effect, and strictly checked."""

import json
import re

import pytest

from charts.tools import helm, manifests, readme, schema
from charts.tools.__main__ import chart_files
from charts.tools.values_docs import CHART, values
from tests.chart_values import EFFECTS, refusal, render

needs_helm = pytest.mark.skipif(helm.missing() is not None, reason=str(helm.missing()))


def nodes(node):
    yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from nodes(below)


def test_schema_readme_and_presets_are_those_of_their_sources():
    stale = [path.name for path, text in chart_files().items() if path.read_text("utf-8") != text]
    assert not stale, f"run make chart: {stale}"
    there = {path.relative_to(CHART) for path in (CHART / "files" / "presets").rglob("*.yaml")}
    assert there == {path.relative_to(CHART) for path in chart_files() if path.suffix == ".yaml"}


@needs_helm
def test_manifests_are_the_chart_rendered():
    stale = [str(path) for path, text in manifests.files().items() if path.read_text("utf-8") != text]
    assert not stale, f"run make manifests: {stale}"


def test_every_value_has_a_comment_and_stands_in_the_readme():
    assert not [value.path for value in values() if len(value.text) < 8]
    text = readme.text()
    assert not [value.path for value in values() if f"| `{'.'.join(value.path)}` |" not in text]


def test_names_of_values_are_frozen():
    assert {".".join(value.path) for value in values()} == set(EFFECTS)


@needs_helm
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"imagee": {}}, "imagee"),
        ({"image": {"tagg": "x"}}, "tagg"),
        ({"monitoring": {"podMonitors": {}}}, "podMonitors"),
        ({"nprocPerNode": 2}, "nprocPerNode"),
        ({"nprocPerNode": "many"}, "nprocPerNode"),
        ({"master": {"replicas": 2}}, "master/replicas"),
        ({"worker": {"replicas": 1.5}}, "worker/replicas"),
        ({"worker": {"replicas": -1}}, "worker/replicas"),
        ({"runPolicy": {"cleanPodPolicy": "Runing"}}, "cleanPodPolicy"),
        ({"runPolicy": {"restartPolicy": "Never"}}, "restartPolicy"),
        ({"elastic": {"standalone": True}}, "standalone"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"image": {"repository": "Trainer:1"}}, "repository"),
        ({"shm": {"size": "1 GB"}}, "shm/size"),
        ({"store": {"accessModes": []}}, "accessModes"),
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "podLabels"),
        ({"podAnnotations": {"a": True}}, "podAnnotations"),
        ({"tolerations": [{"key": "a", "operator": "Exist"}]}, "tolerations"),
        ({"tolerations": [{"value": "a"}]}, "tolerations"),
        ({"preset": "slow"}, "preset"),
        ({"config": {"optim": {"lrr": 1}}}, "lrr"),
        ({"config": {"optim": {"lr": "1e-3"}}}, "config/optim/lr"),
        ({"config": {"optim": {"lr": 0}}}, "config/optim/lr"),
        ({"config": {"optim": {"betas": [0.9, 0.9, 0.9]}}}, "betas"),
        ({"config": {"checkpoint": {"every": "often"}}}, "checkpoint/every"),
        ({"config": {"task": "cooking"}}, "config/task"),
        ({"fullnameOverride": "Signs"}, "fullnameOverride"),
        ({"fullnameOverride": "s" * 42}, "fullnameOverride"),
        ({"workloadIdentity": {"aws": {"roleArn": "trainer"}}}, "roleArn"),
        ({"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds"),
    ],
)
def test_the_schema_refuses(wrong, says):
    assert says in refusal(wrong)


@needs_helm
def test_a_parent_chart_may_say_global_and_enabled():
    assert render({"enabled": True, "global": {"of-another-chart": {"a": 1}}}) == render({})


@needs_helm
def test_config_takes_what_the_trainer_takes():
    config = {
        "num_epochs": 3,
        "max_steps": None,
        "optim": {"lr": 0.01, "betas": [0.9, 0.99], "clip": None},
        "passes": {"val": "every 10 steps"},
        "schedule": {"name": "curve", "curve": "1 @ 0, 0.1 @ 100% cosine", "warmup": 5},
        "checkpoint": {"every": "at 10%, 50% and end", "spool": "off"},
    }
    assert render({"config": config})


def test_the_schema_is_of_the_draft_that_all_helms_know():
    whole = json.loads(schema.OUTPUT.read_text("utf-8"))
    assert whole["$schema"].startswith("http://json-schema.org/draft-07/")
    dicts = [node for node in nodes(whole) if isinstance(node, dict)]
    assert [node for node in dicts if "$defs" in node] == [whole]
    unknown = {"prefixItems", "unevaluatedProperties", "dependentRequired", "discriminator", "matters", "flag"}
    assert not [node for node in dicts if unknown & node.keys() and "properties" not in node]
    references = {node["$ref"] for node in dicts if isinstance(node.get("$ref"), str)}
    assert {name.removeprefix("#/$defs/") for name in references} == set(whole["$defs"])
    # draft 07 reads nothing beside a reference, so nothing that restricts may stand there
    assert not [node for node in dicts if "$ref" in node and node.keys() - {"$ref", "description", "default"}]
    patterns = [node["pattern"] for node in dicts if isinstance(node.get("pattern"), str)]
    assert len(patterns) > 30
    for pattern in patterns:
        assert not re.search(r"\(\?[=!<]|\\[1-9]|\(\?>", pattern), pattern


def test_every_object_of_ours_is_closed():
    whole = json.loads(schema.OUTPUT.read_text("utf-8"))

    def open_ones(node, path):
        if "properties" in node and path not in ("config", "global"):
            if node.get("additionalProperties") is not False:
                yield path
            for name, below in node["properties"].items():
                yield from open_ones(below, f"{path}.{name}".lstrip("."))

    assert not list(open_ones(whole, ""))
