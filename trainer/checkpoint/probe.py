"""Does a store let this program do what training needs? Everything is tried once, below an own name that goes again.

    probe(store, s3) -> [Check, Check, ...]      facts; nothing is printed, and no error of the store is raised
    verdict(store.url, checks) -> None or the error with which a start should end: refused (5) or unreachable (170)
    policy(store.url, checks, s3) -> the IAM statement that would give the rights which were refused

A step that others build on (the server answers, the bucket is there) ends the row when it fails; the others go on, so
that one look tells all that is missing.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.store import Store
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError

_OF_BUCKETS = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
_OF_OBJECTS = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
_OF_KEYS = {"kms:GenerateDataKey", "kms:Decrypt"}
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
"""Begin of a region's name -> the partition that its ARNs name."""

Result = Literal["ok", "missing", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """None: it could not be tried; `advice` says why."""
    needed: bool
    """Training cannot do without; of the others `advice` says what happens in their place."""
    milliseconds: float
    advice: str
    """What is wrong and what to do; of what is right a remark, or nothing."""
    refused_action: str | None = None
    """The IAM action that the server refused, e.g. `s3:PutObject`."""
    retry_helps: bool = False
    """The store could not be reached or was busy: later the answer may be another."""

    @property
    def result(self) -> Result:
        """In one word. What was not answered has failed, needed or not."""
        if self.ok is None:
            return "skipped"
        if self.ok:
            return "ok"
        return "failed" if self.needed or self.retry_helps else "missing"


class Finding(Exception):
    """A step did not go as it should; the text says what is wrong, and what to do unless `mend` does."""

    def __init__(self, advice: str, *, mend: str = "", action: str | None = None, retry_helps: bool = False) -> None:
        super().__init__(advice)
        self.mend = mend
        """What to do where the trainer cannot do without."""
        self.action = action
        self.retry_helps = retry_helps
        self.is_fatal = False
        """The trainer cannot do without, although it could if the store lacked this in another way."""


class Untried(Exception):
    """A step cannot be tried; the text says why."""


@dataclass(frozen=True)
class Step:
    """Something to try: returns a remark, raises Finding or Untried."""

    name: str
    attempt: Callable[[], str]
    instead: str | None = None
    """What the trainer does without it; None: it cannot do without."""
    is_gate: bool = False
    """Nothing behind it can be tried when it fails."""


def probe(store: Store, s3: S3Settings | None = None) -> list[Check]:
    """Try all that training asks of a store, in order, and remove every trace of it.

    `s3` are the settings the store was opened with. Takes seconds; of a server that is away about as long as
    `s3.connect_seconds`.
    """
    name = f".preflight-{secrets.token_hex(6)}"
    if isinstance(store, FileStore):
        from trainer.checkpoint.probe_files import FileProbe

        with FileProbe(store, name) as files:
            return try_all(files.steps())
    from trainer.checkpoint.s3.probe import S3Probe

    with S3Probe(store.url, name, s3 or S3Settings()) as objects:
        return try_all(objects.steps())


def try_all(steps: Sequence[Step]) -> list[Check]:
    """Try the steps in order."""
    checks: list[Check] = []
    closed = ""
    for step in steps:
        if closed:
            checks.append(Check(step.name, None, step.instead is None, 0.0, closed))
            continue
        check = _try(step)
        if check.ok is False and (step.is_gate or check.retry_helps):
            closed = f"{step.name} failed"
        checks.append(check)
    return checks


def verdict(url: str, checks: Sequence[Check]) -> InfrastructureError | None:
    """The error, in one line, with which a start on this store should end; None when all that is needed is there."""
    failed = [check for check in checks if check.result == "failed"]
    if not failed:
        return None
    kind = InfrastructureError if all(check.retry_helps for check in failed) else StoreRefusedError
    first = next(check for check in failed if kind is InfrastructureError or not check.retry_helps)
    others = [check.name for check in failed if check is not first]
    return kind(f"{url}: {first.name}: {first.advice}" + (f" (and {', '.join(others)})" if others else ""))


def policy(url: str, checks: Sequence[Check], s3: S3Settings | None = None) -> dict[str, Any] | None:
    """One statement of an IAM policy with the actions that were refused and no other; None when there is none."""
    actions = [check.refused_action for check in checks if check.refused_action]
    if not actions:
        return None
    settings = s3 or S3Settings()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    partition = next((name for begin, name in _PARTITIONS.items() if (settings.region or "").startswith(begin)), "aws")
    resources = {
        f"arn:{partition}:s3:::{bucket}": _OF_BUCKETS,
        f"arn:{partition}:s3:::{bucket}/{prefix}/*" if prefix else f"arn:{partition}:s3:::{bucket}/*": _OF_OBJECTS,
        _kms_arn(partition, settings.kms_key): _OF_KEYS,
    }
    return {
        "Effect": "Allow",
        "Action": list(dict.fromkeys(actions)),
        "Resource": [name for name, known in resources.items() if not known.isdisjoint(actions)],
    }


def _kms_arn(partition: str, key: str | None) -> str:
    if key and key.startswith("arn:"):
        return key
    return f"arn:{partition}:kms:*:*:key/{key or '*'}"


def _try(step: Step) -> Check:
    is_needed = step.instead is None
    begun = time.perf_counter()
    try:
        remark = step.attempt()
    except Untried as reason:
        return Check(step.name, None, is_needed, 0.0, str(reason))
    except Finding as finding:
        is_needed |= finding.is_fatal
        rest = finding.mend if is_needed else "" if finding.retry_helps else step.instead
        advice = f"{finding}; {rest}" if rest else str(finding)
        passed = (time.perf_counter() - begun) * 1000
        return Check(step.name, False, is_needed, passed, advice, finding.action, finding.retry_helps)
    return Check(step.name, True, is_needed, (time.perf_counter() - begun) * 1000, remark)
