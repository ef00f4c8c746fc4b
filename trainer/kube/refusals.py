"""What a cluster said no to, as one line of ours: what was asked, why it failed, what to do.

Clients raise what they like: kubernetes an ApiException with the server's answer, kubeflow-training a RuntimeError
around it, urllib3 its own errors. `translated` looks through all of them.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from trainer.errors import InfrastructureError, SettingsError, TrainerError

_ADMISSION = re.compile(r"admission webhook|exceeded quota|violates PodSecurity|ValidatingAdmissionPolicy")
"""Answers of 403 that are about the object, not about the person."""
_WHO = re.compile(r'User "([^"]+)"')


class ClusterRefusedError(InfrastructureError):
    """The cluster answers and cannot or may not do it; as things stand a retry will not help."""

    exit_code = 5


class NotFoundError(SettingsError):
    """There is no object of that name."""


class ExistsError(SettingsError):
    """There is an object of that name already."""


@dataclass(frozen=True)
class Question:
    """Something asked of the API, in the words of RBAC; `resource` is plural, `name` empty for a list."""

    verb: str
    resource: str
    name: str
    namespace: str
    host: str
    context: str

    @property
    def rule(self) -> str:
        """The RBAC rule that allows it."""
        group = "kubeflow.org" if self.resource == "pytorchjobs" else ""
        return f'apiGroups: ["{group}"], resources: ["{self.resource}"], verbs: ["{self.verb}"]'

    @property
    def object(self) -> str:
        """What it is about, for people."""
        return f"{self.resource} {self.name}".strip() if self.name else self.resource


def translated(error: BaseException, question: Question) -> TrainerError | None:
    """Our error for one of a client's; None if it is not about the cluster."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    for one in _chain(error):
        if isinstance(one, ApiException) and one.status:
            return _answered(int(one.status), _message(one.body), one.body, question)
        if isinstance(one, ApiException | HTTPError | OSError):
            reason = " ".join(str(getattr(one, "reason", None) or one).split())
            return InfrastructureError(
                f"the cluster at {question.host} (context {question.context}) cannot be reached: {reason}; "
                "try `kubectl version`, and look at your network and KUBECONFIG"
            )
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those it was raised from or in."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _answered(code: int, message: str, body: Any, question: Question) -> TrainerError:
    """The error for an answer of the API server."""
    if code == 401:
        return ClusterRefusedError(
            f"the cluster at {question.host} does not accept the credentials of context {question.context}; "
            "log in again"
        )
    if code == 403 and not _ADMISSION.search(message):
        who = _WHO.search(message)
        return ClusterRefusedError(
            f"no permission: {who[1] if who else 'you'} may not {question.verb} {question.resource} in namespace "
            f"{question.namespace}; a Role there needs the rule {question.rule}"
        )
    if code == 404:
        return _missing(body, question)
    if code == 409:
        return ExistsError(f"{question.object} exists in namespace {question.namespace} already")
    if code == 500 and "failed calling webhook" in message:
        return InfrastructureError(f"the webhook of the training operator does not answer, does it run? {message}")
    if code == 429 or code >= 500:
        return InfrastructureError(f"the cluster at {question.host} answered {code} to {question.verb}: {message}")
    return SettingsError(f"the cluster refuses {question.object}: {message}")


def _missing(body: Any, question: Question) -> TrainerError:
    kind = _details(body).get("kind")
    if question.resource == "pytorchjobs" and kind is None:
        return ClusterRefusedError(
            f"the cluster at {question.host} knows no PyTorchJob: install the Kubeflow training operator (v1, 1.9.4)"
        )
    if kind == "namespaces":
        name = question.namespace
        return NotFoundError(f"there is no namespace {name}; `kubectl create namespace {name}` makes it")
    return NotFoundError(f"there is no {question.object} in namespace {question.namespace}")


def _message(body: Any) -> str:
    """The server's own words, on one line."""
    return " ".join(str(_parsed(body).get("message") or body or "no reason given").split())


def _details(body: Any) -> dict[str, Any]:
    return _parsed(body).get("details") or {}


def _parsed(body: Any) -> dict[str, Any]:
    """The Status object of an answer; a path that the server does not know is answered in plain text."""
    try:
        parsed = json.loads(body or "{}")
    except (TypeError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
