"""The connection of an S3 store: one SDK session and one client per process, and what they are set up with.

Credentials come from the SDK's chain (environment, files, web identity, container) and are never copied out of it, so
whatever the SDK can refresh is refreshed. What it cannot refresh (keys in a file that somebody rewrites) is read anew
when the server calls the old ones stale: `forget` drops the client, the next `client()` makes another.
"""

import os
import re
import threading
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError
from botocore.utils import determine_content_length

from trainer.config.s3 import S3Settings
from trainer.errors import SettingsError

_SPARE_CONNECTIONS = 4
"""Connections beside those of the parts: listings, hints and ownership must not wait for an upload."""

_SMALL_BODY_BYTES = 1 << 16
"""What goes out in one piece; for it nobody need wait until the server says that it will take it."""

_MISSET = (
    sdk.ConfigNotFound,
    sdk.ConfigParseError,
    sdk.InvalidConfigError,
    sdk.InvalidChecksumConfigError,
    sdk.InvalidDefaultsMode,
    sdk.InvalidRetryModeError,
    sdk.InvalidS3AddressingStyleError,
)

_MAX_RETRIES = 20
"""Second tries after which a client is replaced: the SDK grants one client 35 (`botocore.retries.quota`), then none."""

_ORDINARY = frozenset({"NoSuchKey", "NoSuchUpload", "404", "PreconditionFailed", "412", "ConditionalRequestConflict"})
"""Refusals that are answers to what was asked: there is no such object, or (`only_new`) there is one already."""

_HOST = re.compile(r"^(https?://)(?:[^/@\s]*@)?([^/?#\s]+)")


class Connection:
    """Makes clients when they are first needed, one per process: a forked child never uses its parent's sockets.

    Safe to use from several threads.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._clients: dict[tuple[int, bool], Any] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._counting = threading.Lock()
        self._num_retries: Counter[tuple[int, bool]] = Counter()
        self.endpoint = ""
        """The server in use as `scheme://host`, never with credentials; known from the first client on."""
        self.has_answered = False
        """Whether an answer of any kind ever came."""
        self.requests: Counter[str] = Counter()
        """Requests sent so far by operation (`PutObject`, ...), retries included."""
        self.failed: Counter[str] = Counter()
        """Those of them that the server refused or nobody answered, by operation."""

    def client(self, checksums: bool = True) -> Any:
        """The client of this process, without optional checksums where `checksums` is False. Raises SettingsError."""
        key = (os.getpid(), checksums)
        # By process: a lock that another thread held while this process was forked would never be free again.
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if key not in self._clients or self._num_retries[key] >= _MAX_RETRIES:
                self._num_retries[key] = 0
                self._clients[key] = self._make(checksums)
            return self._clients[key]

    def forget(self, client: Any) -> None:
        """Let the next call read the chain of credentials anew; other threads may go on with the old client."""
        for key in [key for key, known in list(self._clients.items()) if known is client]:
            self._clients.pop(key, None)

    def _make(self, checksums: bool) -> Any:
        import boto3
        import botocore.session

        settings = self._settings
        try:
            base = botocore.session.Session(profile=settings.profile)
            base.register_component("data_loader", _descriptions(base.get_config_variable("data_path")))
            bundle = settings.ca_bundle or base.get_config_variable("ca_bundle")
            if bundle and not Path(bundle).exists():
                raise SettingsError(f"s3.ca_bundle (or AWS_CA_BUNDLE) is {bundle}, and there is no such file")
            client = boto3.session.Session(botocore_session=base).client(
                "s3",
                region_name=settings.region,
                endpoint_url=settings.endpoint or _endpoint_outside(base),
                verify=settings.ca_bundle,
                config=_config(settings, checksums),
            )
        except sdk.ProfileNotFound:
            raise SettingsError(
                f"the profile {settings.profile or os.environ.get('AWS_PROFILE', '')!r} (s3.profile or AWS_PROFILE) is "
                "not in the AWS files; name one that is, or leave it out"
            ) from None
        except sdk.InvalidRegionError:
            raise SettingsError("s3.region (or AWS_DEFAULT_REGION) is no name of a region; e.g. eu-central-1") from None
        except _MISSET as error:
            raise SettingsError(f"the AWS settings cannot be used: {' '.join(str(error).split())}") from None
        except ValueError:
            raise SettingsError(
                "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is no URL of a server; write it like https://s3.example.org"
            ) from None
        self.endpoint = origin(client.meta.endpoint_url)
        client.meta.events.register("before-send.s3", partial(self._count, (os.getpid(), checksums)))
        client.meta.events.register("response-received.s3", self._note_answer)
        client.meta.events.register("after-call.s3.CompleteMultipartUpload", _expect_etag)
        client.meta.events.register_last("before-call.s3", _do_not_wait)
        client.meta.events.register("before-send.s3.HeadBucket", _do_not_search)
        return client

    def _count(self, key: tuple[int, bool], event_name: str = "", request: Any = None, **_: Any) -> None:
        with self._counting:
            self.requests[event_name.rpartition(".")[2]] += 1
            if b"attempt=1;" not in request.headers.get("amz-sdk-request", b"attempt=1;"):
                self._num_retries[key] += 1

    def _note_answer(
        self,
        event_name: str = "",
        response_dict: dict[str, Any] | None = None,
        parsed_response: dict[str, Any] | None = None,
        exception: Exception | None = None,
        **_: Any,
    ) -> None:
        self.has_answered = self.has_answered or exception is None
        status = response_dict["status_code"] if response_dict else 0
        code = (parsed_response or {}).get("Error", {}).get("Code")
        if exception is not None or (status >= 400 and code not in _ORDINARY):
            with self._counting:
                self.failed[event_name.rpartition(".")[2]] += 1


@cache
def _descriptions(folders: str | None) -> Any:
    """The SDK's own descriptions of S3. Reading them is most of what a client costs, a tenth of a second."""
    from botocore.loaders import create_loader

    return create_loader(folders)


def origin(url: str) -> str:
    """`scheme://host:port` of a URL, without user, password, path and query."""
    found = _HOST.match(url)
    return f"{found[1]}{found[2]}" if found else ""


def _endpoint_outside(base: Any) -> str | None:
    """The server that environment or profile name, with the SDK's own order of places."""
    from botocore.configprovider import ConfiguredEndpointProvider

    if base.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    found = ConfiguredEndpointProvider(base.full_config, base.get_scoped_config(), "s3").provide()
    if found and "@" in found.partition("://")[2].partition("/")[0]:
        raise SettingsError(
            "the endpoint URL of the environment or profile must not hold credentials; they belong into "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the AWS files"
        )
    return found or None


def _config(settings: S3Settings, checksums: bool) -> Any:
    """What is left out the SDK knows: bucket in the path and us-east-1 where an endpoint is set, else as AWS has it."""
    from botocore.config import Config

    style = None if settings.addressing == "auto" else {"addressing_style": settings.addressing}
    mode = "when_required" if not checksums else None if settings.checksums == "auto" else settings.checksums
    return Config(
        s3=style,
        retries={"mode": "standard", "total_max_attempts": settings.tries},
        connect_timeout=settings.connect_seconds,
        read_timeout=settings.read_seconds,
        max_pool_connections=settings.parallel + _SPARE_CONNECTIONS,
        request_checksum_calculation=mode,
        response_checksum_validation=mode,
        tcp_keepalive=True,
        user_agent_extra="trainer",
    )


def _do_not_wait(params: dict[str, Any], **_: Any) -> None:
    """Without `Expect: 100-continue` a small object is one round trip, not two (or a second, where it is ignored)."""
    size = determine_content_length(params.get("body"))
    if size is not None and size <= _SMALL_BODY_BYTES:
        params["headers"].pop("Expect", None)


def _expect_etag(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    """The transfer manager takes any answer of 200 for a finished upload, even a web page."""
    if http_response.status_code == 200 and "ETag" not in parsed:
        raise ResponseParserError


def _do_not_search(**_: Any) -> None:
    """The SDK asks for a bucket's region after a redirect that names none, and for that one's, without end.

    Servers of S3 name it; web servers that redirect to a page do not.
    """
    raise sdk.ClientError({"Error": {}, "ResponseMetadata": {"HTTPHeaders": {}}}, "HeadBucket")
