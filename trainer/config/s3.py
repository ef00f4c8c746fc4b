"""Settings of S3-compatible storage; the keys are never among them (environment, files, web identity, container)."""

from typing import Literal

from pydantic import field_validator, model_validator

from trainer.config.base import Section, setting


class S3Settings(Section):
    """How `s3://` URLs are reached; what is left out comes from the usual AWS variables and files."""

    endpoint: str | None = setting(None, matters=False)
    """URL of a server other than AWS, e.g. `https://s3.example.org`; default `AWS_ENDPOINT_URL_S3`, then AWS."""
    region: str | None = setting(None, matters=False)
    """Default `AWS_DEFAULT_REGION` or the profile's; `us-east-1` where an endpoint is set and nothing says it."""
    profile: str | None = setting(None, matters=False)
    """Profile of the shared AWS files; default `AWS_PROFILE`."""
    addressing: Literal["auto", "path", "virtual"] = setting("auto", matters=False)
    """`auto`: bucket in the path where an endpoint is set (MinIO, Ceph, Swift), in the host name on AWS."""
    ca_bundle: str | None = setting(None, matters=False)
    """File of certificates that sign the server's; default `AWS_CA_BUNDLE`."""
    checksums: Literal["auto", "when_supported", "when_required"] = setting("auto", matters=False)
    """Checksums on the wire beside our own digests; `auto` sends them until the server turns out not to know them."""
    encryption: Literal["none", "AES256", "aws:kms"] = setting("none", matters=False)
    """Server-side encryption asked for with every object; `none` leaves it to the bucket's default."""
    kms_key: str | None = setting(None, matters=False)
    """Key id for `aws:kms`; default the account's."""
    encryption_required: bool = setting(False, matters=False)
    """Refuse a server that cannot encrypt, in place of one line that says so."""
    storage_class: str | None = setting(None, matters=False)
    """Storage class of the objects, e.g. `STANDARD_IA`; default the bucket's."""
    part_mib: int = setting(8, ge=5, le=5120, matters=False)
    """Size of a part of a large file in MiB; a file has at most 10,000 parts (1,000 on a stock Swift)."""
    parallel: int = setting(4, ge=1, le=64, matters=False)
    """Parts on their way at once; memory beside the checkpoint's own copy is this times the size of a part."""
    connect_seconds: float = setting(10.0, gt=0, matters=False)
    """Longest wait for a connection."""
    read_seconds: float = setting(60.0, gt=0, matters=False)
    """Longest silence of a server that was asked something."""
    tries: int = setting(5, ge=1, matters=False)
    """Tries of one request (with growing pauses) before the operation counts as failed; publishing tries longer."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        kind, _, rest = value.partition("://")
        if kind not in ("http", "https") or not rest:
            raise ValueError("s3.endpoint must be a URL such as https://s3.example.org or http://127.0.0.1:9000")
        if "@" in rest:
            raise ValueError("s3.endpoint must not hold credentials; they come from the environment or AWS files")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_key(self) -> "S3Settings":
        if self.kms_key is not None and self.encryption != "aws:kms":
            raise ValueError("s3.kms_key is a key of aws:kms, so s3.encryption must be aws:kms")
        return self
