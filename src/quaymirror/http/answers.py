"""The meaning of answers: pure functions of status, header fields and body."""

from __future__ import annotations

import re
from http import HTTPStatus

from ..errors import AccessDenied, NotFound, RateLimited, Scope, ServiceError, Unavailable
from .dates import parse_retry_after
from .exchange import Response

REDIRECTS = frozenset({301, 302, 303, 307, 308})
PROXY_REFUSES = "proxy authentication failed (407)"
_TEMPORARY = frozenset({408, 425, 500, 502, 503, 504, *range(520, 525)})
_CODE = re.compile(rb'"(?:code|error_type)"\s*:\s*"([A-Za-z_]{1,40})"')


def is_success(response: Response) -> bool:
    """Return True for a status of 2xx."""
    return 200 <= response.status < 300


def is_throttled(response: Response) -> bool:
    """Return True if the server asks for fewer requests."""
    return response.status == 429 or (response.status == 503 and "Retry-After" in response.headers)


def retry_after(response: Response) -> float | None:
    """Return the pause in seconds that the server asks for, None if it names none."""
    return parse_retry_after(response.headers.get("Retry-After"), date=response.headers.get("Date"))


def error_codes(body: bytes) -> frozenset[str]:
    """Return the error codes in the body of an answer (OCI distribution-spec, "Error Codes"); HTML has none."""
    return frozenset(code.decode() for code in _CODE.findall(body))


def is_own_answer(response: Response, codes: frozenset[str]) -> bool:
    """Return False if a page of HTML says that something does not exist: that is no answer of a registry or its API."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return bool(codes) or media_type != "text/html"


def to_error(response: Response, codes: frozenset[str], *, patience: float) -> ServiceError:
    """Return the error for an answer that is not a success.

    A server that asks for a pause of more than `patience` seconds ends the run.
    """
    status = response.status
    message = f"{response.name}: {status} {', '.join(sorted(codes)[:3])}".rstrip()
    if is_throttled(response):
        wait = retry_after(response)
        if wait is not None and wait > patience:
            message = f"{message}, come back in {wait:.0f} s"
            return RateLimited(message, status=status, codes=codes, retry_after=wait, scope=Scope.RUN)

        return RateLimited(message, status=status, codes=codes, retry_after=wait)

    if status == 407:
        return ServiceError(f"{response.name}: {PROXY_REFUSES}", status=status, codes=codes)

    if status in (401, 403):
        message = f"{response.name}: {status} {HTTPStatus(status).phrase}: private, or needs credentials"
        return AccessDenied(message, status=status, codes=codes)

    return _kind(status)(message, status=status, codes=codes)


def _kind(status: int) -> type[ServiceError]:
    if status in (404, 410):
        return NotFound

    return Unavailable if status in _TEMPORARY else ServiceError
