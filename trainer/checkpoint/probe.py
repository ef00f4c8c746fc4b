"""Does a store let this program do what training needs? Everything is tried once, below an own name that goes again.

    probe(store, s3) -> [Check, Check, ...]      facts; nothing is printed, and no error of the store is raised
    verdict(store.url, checks) -> None or the error with which a start should end: refused (5) or unreachable (170)
    policy(store.url, checks, s3) -> the IAM statement that would give the rights which were refused

A step that others build on (the server answers, the bucket is there) ends the row when it fails; the others go on, so
that one look tells all that is missing.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.probe_files import FileProbe
from trainer.checkpoint.probe_steps import Check, try_all
from trainer.checkpoint.store import Store
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError

_OF_BUCKETS = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
_OF_OBJECTS = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
_OF_KEYS = {"kms:GenerateDataKey", "kms:Decrypt"}
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
"""Begin of a region's name -> the partition that its ARNs name."""


def probe(store: Store, s3: S3Settings | None = None) -> list[Check]:
    """Try all that training asks of a store, in order, and remove every trace of it.

    `s3` are the settings the store was opened with. Takes seconds; of a server that is away about as long as
    `s3.connect_seconds`.
    """
    name = f".preflight-{secrets.token_hex(6)}"
    if isinstance(store, FileStore):
        with FileProbe(store, name) as files:
            return try_all(files.steps())
    from trainer.checkpoint.s3.probe import S3Probe

    with S3Probe(store.url, name, s3 or S3Settings()) as objects:
        return try_all(objects.steps())


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
