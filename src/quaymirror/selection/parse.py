"""Parsing of the user's words: lists with commas, `quay://` addresses, dates and durations. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from ..errors import ConfigError
from .grammar import quoted

SCHEME = "quay://"
_FORM = "quay://ORG/GLOB:TAG[?since=YYYY-MM-DD]"

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_MOMENT = re.compile(rf"{_DATE}(?:T{_TIME}(?:Z|[+-][0-9]{{2}}:[0-9]{{2}})?)?")
_DURATION = re.compile(r"([0-9]+)([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def split_words(words: str | Iterable[str]) -> tuple[str, ...]:
    """Return `words` one by one; a string is a list separated by commas."""
    return tuple(words.split(",") if isinstance(words, str) else words)


def split_address(text: str, *, now: datetime) -> tuple[str, str, str, datetime | None]:
    """Return organization, globs, tags and `since` of a `quay://` address, not checked yet; see `Selection.parse_uri`.

    :raises ConfigError: if it has another form, or its query makes no sense.
    """
    if "@" in text:
        # Not quoted: a password may stand before it.
        raise ConfigError(f"an '@' in the address: it takes no credentials and no digest; write {_FORM}")

    if not text.startswith(SCHEME):
        raise ConfigError(f"not a quay:// address: {quoted(text)}; write {_FORM}")

    path, query = _split_query(text.removeprefix(SCHEME))
    name, _, tags = path.rpartition(":") if ":" in path else (path, "", "latest")
    organization, _, globs = name.partition("/") if "/" in name else (name, "", "*")
    since = None if query is None else parse_since(_since_of_query(query, text), now=now)
    return organization, globs, tags, since


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


def _since_of_query(query: str, text: str) -> str:
    parts = query.split("&")
    for part in parts:
        if not part.startswith("since="):
            raise ConfigError(f"unknown query: {quoted(part)} in {quoted(text)}; only ?since=YYYY-MM-DD is known")

    if len(parts) > 1:
        raise ConfigError(f"since is given twice: {quoted(text)}; write it once")

    return query.removeprefix("since=")
