"""The meaning of answers, by status, header fields and body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.errors import (
    AccessDenied,
    NotFound,
    QuaymirrorError,
    RateLimited,
    Scope,
    ServiceError,
    Unavailable,
)
from quaymirror.http.answers import ErrorBody, is_success, is_throttled, read_error, retry_after, to_error


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = "https://quay.io/v2/"
    name: str = "quay.io/v2/"
    held: float = 0.0
    threaded: None = None
    has_arrived: bool = True

    def all_headers(self, name: str) -> list[str]:
        return []

    def close(self) -> None:
        pass

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""

    async def read(self, limit: int) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("answer", "kind", "scope"),
    [
        (Answer(401), AccessDenied, Scope.IMAGE),
        (Answer(403), AccessDenied, Scope.IMAGE),
        (Answer(404), NotFound, Scope.IMAGE),
        (Answer(410), NotFound, Scope.IMAGE),
        (Answer(407), ServiceError, Scope.IMAGE),
        (Answer(418), ServiceError, Scope.IMAGE),
        (Answer(429), RateLimited, Scope.ATTEMPT),
        (Answer(429, {"Retry-After": "3600"}), RateLimited, Scope.RUN),
        (Answer(503, {"Retry-After": "5"}), RateLimited, Scope.ATTEMPT),
        (Answer(408), Unavailable, Scope.ATTEMPT),
        (Answer(502), Unavailable, Scope.ATTEMPT),
        (Answer(503), Unavailable, Scope.ATTEMPT),
        (Answer(522), Unavailable, Scope.ATTEMPT),
        (Answer(501), ServiceError, Scope.IMAGE),
        (Answer(505), ServiceError, Scope.IMAGE),
        (Answer(507), ServiceError, Scope.IMAGE),
        *((Answer(status), Unavailable, Scope.ATTEMPT) for status in (101, 300, 304, 421, 511, 529, 599, 999)),
    ],
    ids=lambda value: f"{value.status} {dict(value.headers)}" if isinstance(value, Answer) else "",
)
def test_each_status_has_an_error_with_its_scope(answer: Answer, kind: type[QuaymirrorError], scope: Scope) -> None:
    error = to_error(answer, ErrorBody(frozenset({"DENIED"})), patience=900)
    assert (type(error), error.scope, error.status, error.codes) == (kind, scope, answer.status, frozenset({"DENIED"}))
    assert error.message.startswith("quay.io/v2/: ")


def test_messages_begin_with_the_meaning() -> None:
    assert to_error(Answer(403), ErrorBody(), patience=1).message == (
        "quay.io/v2/: 403 Forbidden: private, or needs credentials"
    )
    assert to_error(Answer(404), ErrorBody(frozenset({"MANIFEST_UNKNOWN"})), patience=1).message == (
        "quay.io/v2/: 404 MANIFEST_UNKNOWN"
    )
    assert to_error(Answer(429, {"Retry-After": "7200"}), ErrorBody(), patience=900).message == (
        "quay.io/v2/: 429, come back in 7200 s"
    )


def test_only_a_pause_that_is_asked_for_makes_a_503_a_rate_limit() -> None:
    assert is_throttled(Answer(429))
    assert is_throttled(Answer(503, {"Retry-After": "1"}))
    assert not is_throttled(Answer(503))
    assert not is_throttled(Answer(502, {"Retry-After": "1"}))
    assert retry_after(Answer(429)) is None
    assert retry_after(Answer(429, {"Retry-After": "1"})) == 1.0


@given(st.integers(100, 599))
def test_every_status_is_a_success_or_an_error(status: int) -> None:
    assert is_success(Answer(status)) == (200 <= status < 300)
    assert to_error(Answer(status), ErrorBody(), patience=900).message


def test_codes_are_those_of_the_registry_or_of_its_api() -> None:
    assert read_error(b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "x"}, {"code" : "DENIED"}]}').codes == {
        "BLOB_UNKNOWN",
        "DENIED",
    }
    assert read_error(b'{"error_type": "invalid", "code": "other"}').codes == {"invalid"}
    assert not read_error(b'<html>"code": "UNKNOWN"</html>').codes


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"errors": [{"code": "DENIED", "message": "quota exceeded", "detail": {}}]}', "quota exceeded"),
        (b'{"errors": [{"message": "invalid", "detail": {"message": "Unknown blob"}}]}', "Unknown blob"),
        (b'{"errors": [null, {}, {"message": " second "}]}', "second"),
        (b'{"detail": "Not Found", "error_message": "gone"}', "gone"),
        (b'{"message": {"limit": "too many"}, "error": "an error"}', "an error"),
        (b'{"message": "\\u001b[2Jred\\nline"}', "\\x1b[2Jred\\x0aline"),
        (b'{"message": "' + b"x" * 1000 + b'"}', "x" * 199 + "…"),
        (b"<html>no</html>", ""),
        (b"", ""),
    ],
)
def test_the_reason_is_the_first_message_of_the_body(body: bytes, reason: str) -> None:
    assert read_error(body).reason == reason


@given(st.binary())
def test_no_body_breaks_the_search_for_codes(body: bytes) -> None:
    assert all(code.isascii() and len(code) <= 40 for code in read_error(body).codes)
