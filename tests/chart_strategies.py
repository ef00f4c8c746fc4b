"""Values for the chart out of its own schema: whatever these draw, the schema accepts.

Where a value is handed to Kubernetes as it is, the schema says little (an object), and what is drawn is something that
Kubernetes takes; everything else comes from patterns, enums and limits as they stand in values.schema.json.
"""

import json
import re
from functools import cache

from hypothesis import strategies as st

from charts.tools import schema
from tests.chart_values import ELASTIC, KEYS, RULED, S3, SCRAPED, SHOWN, at, merged

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
CONTAINER = {
    "name": "beside",
    "image": "busybox:1.36",
    "command": ["sh", "-c", "sleep 1"],
    "securityContext": RESTRICTED,
}
SELECTOR = {"matchLabels": {"a": "b"}}
TERM = {"topologyKey": "kubernetes.io/hostname", "labelSelector": SELECTOR}

PASSED_ON = {
    "affinity": [
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [TERM]}},
        {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
                ]
            }
        },
    ],
    "topologySpreadConstraints": [
        [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        [{"maxSkew": 2, "topologyKey": "host", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": SELECTOR}],
    ],
    "podSecurityContext": [None, {"fsGroup": 2000, "supplementalGroups": [1]}, {"sysctls": []}],
    "containerSecurityContext": [None, {"runAsUser": 65532}, {"capabilities": {"add": ["IPC_LOCK"]}}],
    "resources": [
        {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
        {"limits": {"cpu": "100m", "ephemeral-storage": "1Gi", "example.org/nic": 1}},
        {"requests": None, "limits": {"memory": 4000000000}},
        None,
    ],
    "networkPolicy.s3To": [[{"ipBlock": {"cidr": "10.0.0.0/8"}}], [{"namespaceSelector": {}}]],
    "monitoring.endpoint": [{"scrapeTimeout": "5s"}, {"honorLabels": True}, None],
    "networkPolicy.extraIngress": [[{"from": [{"podSelector": SELECTOR}]}], [{}]],
    "networkPolicy.extraEgress": [[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}]],
    "extraEnv": [
        [{"name": "A", "value": "{{ .Release.Name }}"}],
        [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}}],
    ],
    "extraEnvFrom": [[{"secretRef": {"name": "a"}}, {"prefix": "P_", "configMapRef": {"name": "a"}}]],
    "initContainers": [[CONTAINER]],
    "sidecars": [[{**CONTAINER, "name": "aside"}]],
    "extraObjects": [
        [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}, "data": {"a": "b"}}]
    ],
    "config": [
        {"num_epochs": 2, "optim": {"lr": 0.5}},
        {"run": {"name": "Run.1_a-b", "store": "file:///store/below"}},
        {"data": {"path": "/data"}, "telemetry": {"log_every": "every 1 steps"}},
    ],
    "extraVolumes": [[{"name": "more", "emptyDir": {}}]],
    "extraVolumeMounts": [[{"name": "scratch", "mountPath": "/more", "subPath": "more"}]],
}
"""Values that Kubernetes takes, for what the schema does not look into."""

SHAPES = [
    {},
    {"worker": {"replicas": 3}},
    ELASTIC,
    KEYS,
    merged(KEYS, {"networkPolicy": {"enabled": True}}),
    merged(S3, {"s3": {"accessKeyId": "a", "secretAccessKey": "b"}}),
    {"networkPolicy": {"enabled": True}, "monitoring": {"enabled": True}, "podDisruptionBudget": {"enabled": True}},
    merged(SCRAPED, RULED, SHOWN),
    {"preset": "none", "data": {"existingClaim": "recordings"}, "cache": {"existingClaim": "cache"}},
    {"gpu": {"count": 2}, "workloadIdentity": {"aws": {"roleArn": "arn:aws:iam::1:role/a", "audience": "sts"}}},
]


rules_of_all = cache(schema.values_schema)


@cache
def leaves():
    """Every value below the root as (dotted path, its rules); `config` and objects without names of ours are leaves."""
    return dict(_walk(rules_of_all(), ""))


def _walk(node, path):
    for name, below in node["properties"].items():
        full = f"{path}.{name}".lstrip(".")
        if "properties" in below and full != "config":
            yield from _walk(below, full)
        else:
            yield full, below


@st.composite
def values(draw):
    """A shape, and up to eight values anywhere over it."""
    drawn = draw(st.sampled_from(SHAPES))
    paths = draw(st.lists(st.sampled_from(sorted(leaves())), max_size=8, unique=True))
    return merged(drawn, *(at(path, draw(value(path))) for path in paths))


def value(path):
    """One value for a path."""
    passed_on = PASSED_ON.get("resources" if path == "test.resources" else path)
    return st.sampled_from(passed_on) if passed_on else from_rules(leaves()[path])


def from_rules(rules):
    """What a node of the schema accepts; only the keywords that values.schema.yaml uses."""
    if "$ref" in rules:
        return from_rules(rules_of_all()["$defs"][rules["$ref"].removeprefix("#/$defs/")])
    if "allOf" in rules and "properties" not in rules and "type" not in rules:
        return from_rules(rules["allOf"][0])
    if "enum" in rules:
        return st.sampled_from(rules["enum"])
    kinds = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
    return st.one_of([_KINDS[kind](rules) for kind in kinds])


def _texts(rules):
    pattern = rules.get("pattern", "^[ -~]*$")
    # `$` of Python also matches before a line's end; that of RE2 and of people's minds does not
    whole, printable = pattern.removesuffix("$") + r"\Z", st.characters(min_codepoint=32, max_codepoint=126)
    return st.from_regex(whole, alphabet=printable).filter(lambda text: len(text) <= rules.get("maxLength", 10_000))


def _numbers(rules):
    return st.integers(rules.get("minimum", -(2**53)), rules.get("maximum", 2**31))


def _lists(rules):
    return st.lists(
        from_rules(rules["items"]),
        min_size=rules.get("minItems", 0),
        max_size=3,
        unique_by=json.dumps if rules.get("uniqueItems") else None,
    ).filter(lambda items: _any_of(rules, items))


def _any_of(rules, items):
    """The one rule about lists: ReadWriteOncePod stands alone."""
    return "anyOf" not in rules or len(items) <= 1 or "ReadWriteOncePod" not in items


def _objects(rules):
    if "properties" in rules:
        return _tolerations() if "tolerationSeconds" in rules["properties"] else _known(rules)
    names, more = rules["propertyNames"], rules["additionalProperties"]
    keys = from_rules(names)
    if "allOf" in names:
        own = re.compile(names["allOf"][1]["not"]["pattern"])
        keys = keys.filter(lambda key: not own.search(key))
    return st.dictionaries(keys, from_rules(more), max_size=3)


def _known(rules):
    members = {name: from_rules(below) for name, below in rules["properties"].items()}
    required = {name: members.pop(name) for name in rules.get("required", [])}
    return st.fixed_dictionaries(required, optional=members)


def _tolerations():
    effects = {"effect": st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])}
    key = {"key": from_rules({"$ref": "#/$defs/qualifiedName"})}
    text = {"value": from_rules({"$ref": "#/$defs/labelValue"})}
    return st.one_of(
        st.just({"operator": "Exists"}),
        st.fixed_dictionaries({"operator": st.just("Exists"), **key}, optional=effects),
        st.fixed_dictionaries(key, optional={"operator": st.just("Equal"), **text, **effects}),
        st.fixed_dictionaries(
            {**key, **text, "effect": st.just("NoExecute"), "tolerationSeconds": st.integers(-5, 2**53 - 1)}
        ),
    )


_KINDS = {
    "string": _texts,
    "integer": _numbers,
    "number": _numbers,
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
    "array": _lists,
    "object": _objects,
}
