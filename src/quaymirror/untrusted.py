"""The one parser for JSON documents that were written by others: servers, helper programs, and files on disk."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container
from functools import partial
from typing import Any

__all__ = ["InvalidDocument", "parse_array", "parse_object"]


class InvalidDocument(ValueError):
    """A document that is not acceptable; the message continues a sentence ("is not JSON") and quotes nothing of it."""


def parse_object(
    document: bytes | str, *, limit: int, nan_is_text: bool = False, unique: Container[str] | None = None
) -> dict[str, Any]:
    """Return the JSON object that `document`, of at most `limit` bytes of UTF-8, holds.

    With `nan_is_text`, numbers that JSON can't express (NaN, Infinity, 1e999) are read as text, since null can have a
    meaning. `unique` are the keys, in lower case, that must not occur twice in an object; all of them by default.

    :raises InvalidDocument: if it is larger, not UTF-8, not JSON (RFC 8259), nested too
        deeply, not an object, or has a key twice in one object, of which parsers choose different values.
    """
    value = _parse(document, limit, nan_is_text=nan_is_text, unique=unique)
    if isinstance(value, dict):
        return value

    raise InvalidDocument("is not a JSON object")


def parse_array(document: bytes | str, *, limit: int, nan_is_text: bool = False) -> list[Any] | None:
    """Return the JSON array that `document` holds, None for `null`, as which Go writes an empty one.

    :raises InvalidDocument: as `parse_object`, for a document that is neither.
    """
    value = _parse(document, limit, nan_is_text=nan_is_text, unique=None)
    if value is None or isinstance(value, list):
        return value

    raise InvalidDocument("is not a JSON array")


def _parse(document: bytes | str, limit: int, *, nan_is_text: bool, unique: Container[str] | None) -> object:
    if len(document) > limit:
        raise InvalidDocument(f"has {len(document):,} bytes; the limit is {limit:,}")

    problem = "is not JSON"
    try:
        # json would also guess UTF-16 and UTF-32, which no other tool accepts.
        text = document if isinstance(document, str) else document.decode()
        number = _finite_or_text if nan_is_text else _finite
        return json.loads(
            text, object_pairs_hook=partial(_checked, unique=unique), parse_constant=number, parse_float=number
        )
    except InvalidDocument as error:
        problem = str(error)
    except (ValueError, RecursionError):
        pass

    # Raised outside of the handlers: the errors of json hold the whole text, which may contain secrets.
    raise InvalidDocument(problem)


def _checked(pairs: list[tuple[str, Any]], unique: Container[str] | None) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        repeated = Counter(key for key, _ in pairs) - Counter(list(fields))
        if unique is None or any(key.casefold() in unique for key in repeated):
            raise InvalidDocument("has the same key twice in one object")

    return fields


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _finite(text: str) -> float:
    number = _finite_or_text(text)
    if isinstance(number, str):
        raise ValueError("not a finite number")

    return number
