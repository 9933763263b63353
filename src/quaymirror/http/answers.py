"""The meaning of answers: pure functions of status, header fields and body."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from http.client import responses
from typing import Any

from ..errors import (
    AccessDenied,
    ContentError,
    NotFound,
    QuaymirrorError,
    RateLimited,
    Scope,
    ServiceError,
    Unavailable,
)
from ..text import escape_controls, shorten
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass, pattern
from .dates import parse_reset, parse_retry_after
from .exchange import Response

REDIRECTS = frozenset({301, 302, 303, 307, 308})
PROXY_REFUSES = "proxy authentication failed (407)"
SPEAKS_TLS = "speaks TLS, not plain HTTP: write https:// instead of http://, or leave out ?insecure=true"
MAX_ERROR_BODY = 64 * 1024
_TEMPORARY = frozenset({408, 421, 425})
# Refusals: of a method, of the version of HTTP, and for lack of space.
_LASTING = frozenset({501, 505, 507})
_CODE = pattern(r"[A-Za-z_]{1,40}")
_MAX_REASON = 200
# Reasons that say no more than the status does.
_GENERIC = frozenset(
    {
        "access denied",
        "access to the requested resource is not authorized",
        "authentication required",
        "forbidden",
        "requested access to the resource is denied",
        "requires authentication",
        "unauthorized",
    }
)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The body of an answer that is not a success.

    `codes` are its error codes (OCI distribution-spec, "Error Codes", and Quay's `error_type`), `reason` is its first
    message: one line of at most 200 characters that is safe to print. HTML has neither.
    """

    codes: frozenset[str] = frozenset()
    reason: str = ""
    is_json: bool = False


def read_error(body: bytes) -> ErrorBody:
    """Return the parts of an error body, whatever it is."""
    try:
        # Errors are read as far as possible: with repeated keys, too.
        document = parse_object(body, limit=MAX_ERROR_BODY, nan_is_text=True, unique=())
    except InvalidDocument:
        return ErrorBody()

    codes = {code for code in _codes(document) if isinstance(code, str) and _CODE.fullmatch(code)}
    reason = next((text for text in _messages(document) if isinstance(text, str) and text.strip()), "")
    reason = shorten(escape_controls(reason.strip()[: 2 * _MAX_REASON]), _MAX_REASON)
    return ErrorBody(frozenset(codes), reason, is_json=True)


def _codes(document: dict[str, Any]) -> Iterator[Any]:
    yield document.get("error_type")
    for error in _errors(document):
        yield error.get("code")


def _messages(document: dict[str, Any]) -> Iterator[Any]:
    """Iterate over the texts that can be the reason, the most specific one first."""
    for error in _errors(document):
        detail = error.get("detail")
        yield detail.get("message") if isinstance(detail, dict) else None
        yield error.get("message")

    detail = document.get("detail")
    yield detail.get("message") if isinstance(detail, dict) else None
    yield from (document.get(key) for key in ("message", "error_message", "error", "detail"))


def _errors(document: dict[str, Any]) -> list[dict[str, Any]]:
    errors = document.get("errors")
    return [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def is_success(response: Response) -> bool:
    """Return True for a status of 2xx."""
    return 200 <= response.status < 300


def is_throttled(response: Response) -> bool:
    """Return True if the server asks for fewer requests. GitHub may do it with 403."""
    status = response.status
    is_used_up = status == 403 and response.headers.get("X-RateLimit-Remaining") == "0"
    return status == 429 or (status == 503 and "Retry-After" in response.headers) or is_used_up


def retry_after(response: Response) -> float | None:
    """Return the pause in seconds that the server asks for, None if it names none.

    Docker Hub and GitHub name the POSIX time of its end in fields of their own.
    """
    headers = response.headers
    date = headers.get("Date")
    if (seconds := parse_retry_after(headers.get("Retry-After"), date=date)) is not None:
        return seconds

    is_used_up = headers.get("X-RateLimit-Remaining") == "0"
    return parse_reset(headers.get("X-Retry-After") or (headers.get("X-RateLimit-Reset") if is_used_up else ""), date)


def media_type(response: Response) -> str:
    """Return the media type of the body in lower case, without parameters; "" if the server states none."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_proven(response: Response, error: ServiceError, body: ErrorBody) -> bool:
    """Return True if a refusal is the registry's or its API's own, False if a proxy may have answered instead.

    That something does not exist takes the specification's error body. A refusal of access in HTML is none, unless it
    comes with a challenge, as that of a web server in front of a registry.
    """
    if body.codes:
        return True

    if isinstance(error, NotFound):
        return False

    is_page = media_type(response) == "text/html" and not body.is_json
    return not (isinstance(error, AccessDenied) and is_page and "WWW-Authenticate" not in response.headers)


def described(response: Response) -> str:
    """Return the kind of a body that is no answer of a registry: `in HTML`."""
    kind = media_type(response)
    return "in HTML" if kind == "text/html" else f"as {escape_controls(kind[:50])}" if kind else "without a type"


def distorted(error: QuaymirrorError, response: Response) -> QuaymirrorError:
    """Return what `error`, about the content of a success, really means if a proxy has answered or changed it."""
    cause = distortion(response) if isinstance(error, ContentError | Unavailable) else ""
    # Only a page takes the place of an answer; a changed body says nothing of the server.
    status = response.status if media_type(response) == "text/html" else 0
    return Unavailable(f"{response.name}: {cause}", status=status) if cause else error


def distortion(response: Response) -> str:
    """Return why the content of a success may be that of a proxy, or changed by one; "" if nothing suggests that."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if media_type(response) == "text/html":
        return f"{response.status} with a page in HTML, of a proxy or for a login, instead of the registry's answer"

    if encoding in ("", "identity"):
        return ""

    shown = escape_controls(encoding[:50])
    return f"a proxy has changed the answer (Content-Encoding: {shown}): let it pass through as it is"


def to_error(response: Response, body: ErrorBody, *, patience: float) -> ServiceError:
    """Return the error for an answer that is not a success.

    A server that asks for a pause of more than `patience` seconds ends the run.
    """
    status, codes = response.status, body.codes
    message = f"{response.name}: {status} {', '.join(sorted(codes)[:3])}".rstrip()
    message = f"{message}: {body.reason}" if body.reason else message
    if is_throttled(response):
        wait = retry_after(response)
        if wait is not None and wait > patience:
            message = f"{message}, come back in {wait:.0f} s"
            return RateLimited(message, status=status, codes=codes, retry_after=wait, scope=Scope.RUN)

        return RateLimited(message, status=status, codes=codes, retry_after=wait)

    if status == 407:
        return ServiceError(f"{response.name}: {PROXY_REFUSES}", status=status, codes=codes)

    if status in (401, 403):
        says_more = body.reason and body.reason.rstrip(".").lower() not in _GENERIC
        reason = body.reason if says_more else "private, or needs credentials"
        return AccessDenied(
            f"{response.name}: {status} {HTTPStatus(status).phrase}: {reason}", status=status, codes=codes
        )

    if not codes and not body.reason:
        message = f"{message} {responses.get(status, '')}".rstrip()

    return _kind(status)(message, status=status, codes=codes)


def _kind(status: int) -> type[ServiceError]:
    if status in (404, 410):
        return NotFound

    # Other statuses than 4xx are those of a broken server or proxy, such as 304 without a condition or 511 for a login.
    is_broken = not 400 <= status < 500 and status not in _LASTING
    return Unavailable if is_broken or status in _TEMPORARY else ServiceError
