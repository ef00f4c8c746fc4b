"""What an S3 server, its bucket and the keys in use let the `s3://` store do.

Every request goes to keys below `<prefix>/.preflight-<hex>/`; only one listing of the prefix itself asks for one name.
"""

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

from trainer.checkpoint.probe_steps import Finding, Step, Untried
from trainer.checkpoint.s3.probe_requests import Refused, Requests, encryption
from trainer.config.s3 import S3Settings

_MOST_SKEW_SECONDS = 900.0
"""Servers refuse what was signed earlier or later (Amazon S3 `RequestTimeTooSkewed`, Swift `allowable_clock_skew`)."""
_LEAST_PART_BYTES = 5 << 20
"""Least size of a part that is not the last (Amazon S3 multipart upload limits)."""
_CONTENT = b"trainer preflight\n"
_NEWER = b"trainer preflight, second time\n"
_SOURCES = {
    "env": "environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "file of credentials",
    "config-file": "AWS configuration file",
    "assume-role": "role of a profile",
    "assume-role-with-web-identity": "web identity",
    "container-role": "container",
    "iam-role": "instance metadata",
    "custom-process": "process of a profile",
    "sso": "single sign-on",
}
"""What botocore calls the places where it finds credentials, and what people do."""


class S3Probe:
    """Tries one bucket and prefix; what it makes there goes when the context ends."""

    def __init__(self, url: str, name: str, settings: S3Settings) -> None:
        self._settings = settings
        self._requests = Requests(url, name, settings)
        self._date = ""
        self._answered_at = 0.0
        self._upload: str | None = None
        self._can_list = self._can_put = self._can_delete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._requests.clean()

    def steps(self) -> list[Step]:
        """In the order in which they are tried."""
        unencrypted = None if self._settings.encryption_required else "objects are written without it"
        sweep = "what killed attempts left of uploads stays until a lifecycle rule of the bucket removes it"
        look = "the trainer looks whether a name is free before it writes; whose a run is never depends on that"
        return [
            Step("endpoint", self._reach, is_gate=True),
            Step("credentials", self._find_credentials, is_gate=True),
            Step("clock", self._measure_clock),
            Step("bucket", self._find_bucket, is_gate=True),
            Step("list", self._list),
            Step("put", self._put_first),
            Step("get", self._get_first),
            Step("ranged get", self._get_range),
            Step("multipart", self._put_parts),
            Step("list uploads", self._list_uploads, sweep),
            Step("abort upload", self._abort_upload),
            Step("conditional put", self._put_only_new, look),
            Step("overwrite", self._overwrite),
            Step("delete", self._delete_one),
            Step("delete of many", self._delete_many, "objects are deleted one by one"),
            Step("encryption", self._put_encrypted, unencrypted),
            Step("list after put", self._list_fresh),
        ]

    def _reach(self) -> str:
        """Name, connection, TLS, and any answer at all; unsigned, so that keys do not matter yet."""
        try:
            self._requests.reach(self._note_date)
        except Refused as refused:
            if refused.retry_helps:
                raise
        return self._requests.endpoint

    def _note_date(self, http_response: Any, **_: Any) -> None:
        self._answered_at = time.time()
        self._date = http_response.headers.get("Date", "")

    def _find_credentials(self) -> str:
        """Where the SDK's chain finds them; a role is assumed, a token exchanged."""
        from botocore.exceptions import NoCredentialsError
        from botocore.session import Session

        with self._requests.explained():
            found = Session(profile=self._settings.profile).get_credentials()
            if found is None:
                raise NoCredentialsError
            found.get_frozen_credentials()
        return f"from {_SOURCES.get(found.method, found.method)}"

    def _measure_clock(self) -> str:
        try:
            server = parsedate_to_datetime(self._date).timestamp()
        except ValueError:
            raise Untried("the server sends no date") from None
        seconds = self._answered_at - server
        where = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the server's"
        if abs(seconds) > _MOST_SKEW_SECONDS:
            raise Finding(f"the clock of this machine is {where}, and servers refuse more than 15 min; set it (NTP)")
        return where if abs(seconds) > 2 else ""

    def _find_bucket(self) -> str:
        """The first signed request: whether the keys are accepted and the bucket is there."""
        try:
            self._requests.page(self._requests.folder, MaxKeys=1)
        except Refused as refused:
            if not refused.is_denied:
                raise
            return "whether it is there is not told to these keys"
        return ""

    def _list(self) -> str:
        """As the store looks for runs."""
        try:
            self._requests.page(self._requests.top, Delimiter="/", MaxKeys=1)
        except Finding:
            self._can_list = False
            raise
        return ""

    def _put_first(self) -> str:
        """With all that is asked for, but without what the server lacks."""
        remark = ""
        while True:
            try:
                self._requests.put("object", _CONTENT)
            except Refused as refused:
                if self._requests.extra and (refused.is_unsupported or refused.is_denied):
                    self._requests.extra = {}  # the step `encryption` says so
                elif refused.is_unsupported and self._settings.checksums == "auto" and self._requests.has_checksums:
                    self._requests.has_checksums = False
                    remark = "without checksums on the wire, which the server does not know"
                else:
                    self._can_put = False
                    raise
            else:
                return remark

    def _get_first(self) -> str:
        try:
            found = self._requests.get("object")
        except Refused as refused:
            # Of an object that is missing, who may list hears so, and only who may neither list nor read is refused.
            if self._can_put or (refused.is_denied and self._can_list):
                raise
            raise Untried("put failed") from None
        if found != _CONTENT:
            raise Finding("the server gives back other bytes than were put; use another store")
        return ""

    def _get_range(self) -> str:
        self._need_put()
        if self._requests.get("object", "bytes=8-16") != _CONTENT[8:17]:
            raise Finding("the server does not give a part of an object, as large files need it; use another store")
        return ""

    def _put_parts(self) -> str:
        """Two parts, and what lies on both sides of their border."""
        self._need_put()
        pattern = bytes(range(256)) * (_LEAST_PART_BYTES // 256)
        self._requests.finish_upload("parts", self._requests.begin_upload("parts"), [pattern, b"!"])
        if self._requests.get("parts", f"bytes={_LEAST_PART_BYTES - 2}-") != b"\xfe\xff!":
            raise Finding("the parts of an object do not come back as they were put; use another store")
        return ""

    def _list_uploads(self) -> str:
        if not self._can_put:
            self._requests.open_uploads()
            return ""
        self._upload = self._requests.begin_upload("aborted")
        if ("aborted", self._upload) not in self._requests.open_uploads():
            raise Finding("the server does not list an upload that was begun")
        return ""

    def _abort_upload(self) -> str:
        """Also of one that never was, where none could be begun: who has no right to abort hears that first."""
        try:
            self._requests.abort("aborted", self._upload or "none")
        except Refused as refused:
            if self._upload or refused.is_denied:
                raise
            raise Untried("no upload could be begun") from None
        is_listed = False
        with suppress(Refused):  # that there is no such list was said before
            is_listed = ("aborted", self._upload) in self._requests.open_uploads()
        if is_listed:
            raise Finding("an upload that was aborted is still listed; its parts take space until they are removed")
        return ""

    def _put_only_new(self) -> str:
        self._need_put()
        self._requests.put("only-new", _CONTENT, IfNoneMatch="*")
        try:
            self._requests.put("only-new", _NEWER, IfNoneMatch="*")
        except Refused as refused:
            if refused.status in (409, 412):
                return ""
            raise
        raise Finding("the server overwrites an object in spite of If-None-Match")

    def _overwrite(self) -> str:
        self._need_put()
        self._requests.put("object", _NEWER)
        if self._requests.get("object") != _NEWER:
            raise Finding("an object that was overwritten still has its old bytes; use another store")
        return ""

    def _delete_one(self) -> str:
        """Also where nothing could be put: that an object is missing is no error, but the right is needed."""
        try:
            answer = self._requests.delete("object")
        except Refused as refused:
            self._can_delete = False
            if not self._requests.num_left:
                raise
            refused.args = (f"{refused}; then remove {self._requests.url}, which stays now",)
            raise
        with suppress(Refused):
            self._requests.get("object")
            raise Finding("an object that was deleted is still there; use another store")
        return "the bucket keeps old versions: only a lifecycle rule frees their space" if "VersionId" in answer else ""

    def _delete_many(self) -> str:
        if not self._can_delete:
            raise Untried("delete failed")
        self._requests.delete_many(["only-new", "parts"])
        return ""

    def _put_encrypted(self) -> str:
        wanted = self._settings.encryption
        if wanted == "none":
            raise Untried("s3.encryption is none")
        self._need_put()
        has_key = wanted == "aws:kms"
        write, read = ("kms:GenerateDataKey", "kms:Decrypt") if has_key else ("s3:PutObject", "s3:GetObject")
        answer = self._requests.put("encrypted", _CONTENT, write, **encryption(self._settings))
        if answer.get("ServerSideEncryption") != wanted:
            raise Finding("the server takes the request and does not encrypt")
        self._requests.get("encrypted", action=read)
        return wanted

    def _list_fresh(self) -> str:
        self._need_put()
        if not self._can_list:
            raise Untried("list failed")
        self._requests.put("fresh", _CONTENT)
        found = self._requests.page(self._requests.folder).get("Contents", [])
        if f"{self._requests.folder}fresh" not in [entry["Key"] for entry in found]:
            raise Finding("an object is not listed right after it was put; whose a run is depends on that")
        return ""

    def _need_put(self) -> None:
        if not self._can_put:
            raise Untried("put failed")
