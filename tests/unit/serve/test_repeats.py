"""Answers that are repeated: to the same bytes, for a moment, within limits."""

from __future__ import annotations

import pytest

from quaymirror.serve.access_log import Record
from quaymirror.serve.repeats import Repeat, Repeats, is_one_request

REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"


def repeat(content: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Repeat:
    return Repeat(content, "ping", Record("127.0.0.1", "GET", "/v2/", 200, 0, 0.0))


@pytest.fixture
def now() -> list[float]:
    return [10.0]


@pytest.fixture
def repeats(now: list[float]) -> Repeats:
    return Repeats(lambda: now[0])


def test_an_answer_is_found_by_its_request_until_a_new_moment_begins(repeats: Repeats) -> None:
    kept = repeat()
    repeats.keep(REQUEST, kept, 11.0)
    assert repeats.find(REQUEST) is kept
    assert repeats.find(REQUEST.replace(b"x", b"y")) is None
    repeats.clear()
    assert repeats.find(REQUEST) is None


def test_an_answer_that_was_begun_before_this_moment_is_not_kept(repeats: Repeats, now: list[float]) -> None:
    now[0] = 20.0
    repeats.clear()
    repeats.keep(REQUEST, repeat(), 19.9)
    assert repeats.find(REQUEST) is None


def test_large_answers_and_too_many_are_not_kept(repeats: Repeats) -> None:
    repeats.keep(REQUEST, repeat(b"x" * 100_000), 11.0)
    assert repeats.find(REQUEST) is None
    for number in range(1000):
        repeats.keep(REQUEST + bytes(str(number), "ascii"), repeat(b"x" * 60_000), 11.0)

    found = [repeats.find(REQUEST + bytes(str(number), "ascii")) for number in range(1000)]
    assert 100 < sum(each is not None for each in found) < 300


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (REQUEST, True),
        (REQUEST.replace(b"GET", b"HEAD"), True),
        (REQUEST.replace(b"GET", b"POST"), False),
        (REQUEST + REQUEST, False),
        (REQUEST[:-1], False),
        (REQUEST[:-2], False),
        (REQUEST + b"G", False),
        (b"GET / HTTP/1.1\nHost: x\n\nGET /v2/ HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_the_whole_head_of_one_request_is_repeated(data: bytes, expected: bool) -> None:
    assert is_one_request(data) is expected
