"""No answer from an S3 server, or half of one: what happened, in words.

Nothing here repeats the request: its head holds a key id and a signature.
"""

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as sdk

from trainer.checkpoint.s3.client import origin
from trainer.errors import InfrastructureError, StoreRefusedError

Explained = tuple[type[InfrastructureError], str]
"""Which error of ours it is, and the reason with the next step."""

KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile, the mounted secret, the role)"


_NO_TLS = ("WRONG_VERSION_NUMBER", "record layer failure", "HTTP_REQUEST")
_NO_CERTIFICATES = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "PEM lib", "No such file or directory")
"""What OpenSSL says of a plain answer, and of a file of certificates that holds none."""
_HANDSHAKE_SECONDS = 2.0


def without_answer(error: Exception, endpoint: str, has_answered: bool = False) -> Explained:
    """Explains an error of the SDK or the network that carries no answer.

    `endpoint` is the server's `scheme://host`; `has_answered` whether it once did, so that it speaks what it should.
    """
    return _before(error) or _on_the_way(error, endpoint, has_answered)


def _before(error: Exception) -> Explained | None:
    """Errors before any request: there are no credentials, they cannot be got, or the request cannot be made."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: older SDKs lack some
    name = type(error).__name__
    if kinds & {"NoCredentialsError", "NoAuthTokenError"}:
        ways = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the pod a role"
        return StoreRefusedError, f"there are no credentials ({name}); {ways}"
    if isinstance(error, sdk.PartialCredentialsError):
        return StoreRefusedError, f"half of the credentials is missing ({error.kwargs.get('cred_var')}); {KEYS}"
    if kinds & {"SSOError", "LoginError"}:
        return StoreRefusedError, f"the login has ended ({name}); run `aws sso login` or `aws login`"
    if kinds & {"CredentialRetrievalError", "MetadataRetrievalError", "TokenRetrievalError"}:
        whence = getattr(error, "kwargs", {}).get("provider", "the metadata service")
        return InfrastructureError, f"no credentials come from {whence} ({name}); check that service"
    if kinds & {"ParamValidationError", "InvalidConfigError", "InvalidDNSNameError", "UnsupportedS3ConfigurationError"}:
        return StoreRefusedError, f"the SDK does not take it ({name}); correct run.store or s3.addressing"
    return None


def _on_the_way(error: Exception, endpoint: str, has_answered: bool) -> Explained:
    where = origin(str(getattr(error, "kwargs", {}).get("endpoint_url") or "")) or endpoint
    cause = _cause(error)
    if isinstance(error, sdk.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            return StoreRefusedError, f"the certificate of {where} is not trusted; set s3.ca_bundle (or AWS_CA_BUNDLE)"
        if any(text in cause for text in _NO_TLS):
            return StoreRefusedError, f"{where} speaks no TLS; write http:// in s3.endpoint"
        if any(text in cause for text in _NO_CERTIFICATES):
            return StoreRefusedError, f"s3.ca_bundle (or AWS_CA_BUNDLE) holds no certificates ({cause}); correct it"
    if isinstance(error, sdk.ConnectionClosedError) and not has_answered and speaks_tls(where):
        return StoreRefusedError, f"{where} speaks TLS; write https:// in s3.endpoint"
    if isinstance(error, sdk.ProxyConnectionError):
        return InfrastructureError, f"no connection to the HTTP proxy ({cause}); check HTTPS_PROXY and NO_PROXY"
    if isinstance(error, sdk.EndpointConnectionError | sdk.ConnectTimeoutError):
        advice = "check that the server runs and s3.endpoint (or AWS_ENDPOINT_URL_S3) names it"
        return InfrastructureError, f"no connection to {where} ({cause}); {advice}"
    if isinstance(error, sdk.ReadTimeoutError):
        return InfrastructureError, f"{where} is silent for longer than s3.read_seconds; check the server"
    return InfrastructureError, f"the connection to {where} broke ({cause}); try again"


def _cause(error: BaseException) -> str:
    """The operating system's or OpenSSL's word for what happened where there is one, else the name of the error."""
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        one = todo.pop(0)
        if not isinstance(one, BaseException) or any(one is known for known in seen):
            continue
        seen.append(one)
        if isinstance(one, ssl.SSLError):
            return str(one.reason or one.strerror or type(one).__name__)
        if isinstance(one, OSError) and one.strerror:
            return str(one.strerror)
        inner = one.kwargs.get("error") if isinstance(one, sdk.BotoCoreError) else None
        todo += [inner, *one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return type(error).__name__


def speaks_tls(endpoint: str) -> bool:
    """Whether an `http://` server is one that wants TLS: such a one hangs up, as a broken one does."""
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or not parts.hostname:
        return False
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent; it is only asked for its language
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 80), timeout=_HANDSHAKE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except OSError:
        return False
