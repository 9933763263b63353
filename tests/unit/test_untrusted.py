"""JSON documents written by others are bounded, unambiguous, and never quoted in an error."""

from __future__ import annotations

import traceback
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.untrusted import InvalidDocument, parse_object


def test_an_object_is_returned_whether_it_is_bytes_or_text() -> None:
    expected = {"a": [1, 2.5, None], "ü": {"b": True}}
    assert parse_object('{"a": [1, 2.5, null], "ü": {"b": true}}'.encode(), limit=100) == expected
    assert parse_object('{"a": [1, 2.5, null], "ü": {"b": true}}', limit=100) == expected


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"a": NaN}', "is not JSON"),
        (b'{"a": -Infinity}', "is not JSON"),
        (b'{"a": 1e999}', "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": 1, "a": 1}', "has the same key twice in one object"),
        (b'{"x": [{"a": 1, "a": 2}]}', "has the same key twice in one object"),
        (b"\xff\xfe{}", "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b'{"a": ' + b"[" * 100_000, "is not JSON"),
        (b'{"a": "' + b"x" * 200_000 + b'"}', "has 200,009 bytes; the limit is 200,000"),
    ],
)
def test_everything_else_is_refused_with_a_reason(document: bytes, problem: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_object(document, limit=200_000)

    assert str(caught.value) == problem


def test_numbers_that_json_cannot_express_can_be_read_as_text() -> None:
    document = b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": 1.5}'
    assert parse_object(document, limit=100, nan_is_text=True) == {"a": "NaN", "b": "-Infinity", "c": "1e999", "d": 1.5}


def test_an_error_holds_nothing_of_the_document() -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_object('{"auth": "s3cret"', limit=100)

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace('{"auth": "s3cret"', "")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_are_an_object_or_refused(document: bytes | str) -> None:
    with suppress(InvalidDocument):
        assert isinstance(parse_object(document, limit=200), dict)
