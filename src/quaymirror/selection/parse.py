"""Parsing of the user's words: lists with commas, `quay://` addresses, dates and durations. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from ..errors import ConfigError
from ..values import dataclass, pattern
from .grammar import quoted

SCHEME = "quay://"
_FORM = "quay://ORG/GLOB:TAG[?since=YYYY-MM-DD]"

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_MOMENT = pattern(rf"{_DATE}(?:T{_TIME}(?:Z|[+-][0-9]{{2}}:[0-9]{{2}})?)?")
_DURATION = pattern(r"([0-9]+)([mhdw])")
# The query at the end of an address; a `?` in it is written %3F.
_QUERY = pattern(r"\?([a-z-]+=[^?]*)\Z")
# Schemes of all sources, as users write them.
_ADDRESSES = "registry://, harbor://, hub://, ghcr://, gitlab://, ocidir://, s3://, gs:// or az://"
_SCHEME = pattern(r"([A-Za-z][A-Za-z0-9+.-]{0,49})://.*", re.DOTALL)
_KEYS = ("since", "newest", "exclude-tag", "image-label")
_KNOWN = f"one of {', '.join(_KEYS)}"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def split_words(words: str | Iterable[str]) -> tuple[str, ...]:
    """Return `words` one by one; a string is a list separated by commas."""
    return tuple(words.split(",") if isinstance(words, str) else words)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """The part of an address that narrows its selection, not checked yet."""

    since: str | None = None
    newest: int | None = None
    exclude_tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def split_narrowing(text: str) -> tuple[str, Narrowing]:
    """Return the address `text` without the keys that narrow the selection, and their values.

    :raises ConfigError: if a key is repeated that can be given once, or has no usable value.
    """
    query = _QUERY.search(text)
    if query is None:
        return text, Narrowing()

    values: dict[str, list[str]] = {}
    others = []
    for part in query[1].split("&"):
        key, _, value = part.partition("=")
        if key in _KEYS:
            values.setdefault(key, []).append(unquote(value))
        else:
            others.append(part)

    if others and text.startswith(SCHEME):
        raise ConfigError(f"unknown query: {quoted(others[0])} in {quoted(text)}; write {_KNOWN}")

    for key in ("since", "newest"):
        if len(values.get(key, ())) > 1:
            raise ConfigError(f"{key} is given twice: {quoted(text)}; write it once")

    newest = values.get("newest", [None])[0]
    if newest is not None and not (newest.isascii() and newest.isdigit() and int(newest[:9]) > 0):
        raise ConfigError(f"newest is a number of tags, not {quoted(newest)}")

    rest = f"?{'&'.join(others)}" if others else ""
    return text[: query.start()] + rest, Narrowing(
        values.get("since", [None])[0],
        int(newest) if newest is not None else None,
        tuple(values.get("exclude-tag", ())),
        tuple(values.get("image-label", ())),
    )


def split_address(text: str) -> tuple[str, str, str]:
    """Return organization, globs and tags of a `quay://` address, not checked yet; see `Selection.parse_uri`.

    :raises ConfigError: if it has another form, or an unknown query.
    """
    if "@" in text:
        # Not quoted: a password may stand before it.
        raise ConfigError(f"an '@' in the address: it takes no credentials and no digest; write {_FORM}")

    if not text.startswith(SCHEME):
        if found := _SCHEME.fullmatch(text):
            advice = f"write ORG GLOB TAG, {SCHEME}ORG/GLOB:TAG, or an address with {_ADDRESSES}"
            raise ConfigError(f"unknown kind of source: {found[1]!r}; {advice}")

        raise ConfigError(f"not a quay:// address: {quoted(text)}; write {_FORM}")

    path, query = _split_query(text.removeprefix(SCHEME))
    if query is not None:
        raise ConfigError(f"unknown query: {quoted(query)} in {quoted(text)}; write {_KNOWN}")

    name, _, tags = path.rpartition(":") if ":" in path else (path, "", "latest")
    organization, _, globs = name.partition("/") if "/" in name else (name, "", "*")
    return organization, globs, tags


def parse_since(text: str, *, now: datetime) -> datetime:
    """Return the moment, in UTC, that `text` spells: a date, a date with time, or a duration before `now`.

    Dates are as in ISO 8601 (`2025-06-30`, `2025-06-30T12:00`, `2025-06-30T12:00:00+02:00`); without a time zone they
    are UTC. Durations are `90m`, `12h`, `7d` and `2w`. `now` has to have a time zone.

    :raises ConfigError: for another form, a date that the calendar doesn't have, a moment after `now`, or a duration of
        nothing or of more than the calendar.
    """
    try:
        if _DURATION.fullmatch(text):
            return (now - _duration(text)).astimezone(UTC)

        if not _MOMENT.fullmatch(text):
            raise ConfigError(
                f"not a date or duration: {quoted(text)}; "
                "write 2025-06-30, 2025-06-30T12:00, or a number and m, h, d or w"
            )

        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f"no such date or duration: {quoted(text)}; write one as 2025-06-30 or 7d") from None

    if moment > now:
        raise ConfigError(f"in the future: {quoted(text)}; write a date that has passed (UTC), or a duration as 7d")

    return moment


def parse_duration(text: str) -> timedelta:
    """Return the duration that `90m`, `12h`, `7d` or `2w` spells.

    :raises ConfigError: for another form, and for a duration of nothing.
    """
    try:
        return _duration(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"not a duration: {quoted(text)}; write a number and m, h, d or w") from None


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError(text)

    return int(match[1]) * _UNITS[match[2]]


def _split_query(text: str) -> tuple[str, str | None]:
    """Split the text after the scheme into path and query; None: it has no query.

    1. With a `=`, which only a query can have, the query begins at the last `?` before it.
    2. Without one, a `?` after the last `:` can't belong to the glob either: it follows a tag.
    3. Any other `?` stands for one character of a name.
    """
    before, equals, _ = text.partition("=")
    start = before.rfind("?") if equals else text.find("?", text.rfind(":")) if ":" in text else -1
    return (text, None) if start < 0 else (text[:start], text[start + 1 :])
