"""Dates and pauses in HTTP fields."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def parse_http_date(value: str | None) -> datetime | None:
    """Return the time in a field such as Date (RFC 9110, 5.6.7), None if it is not valid."""
    try:
        date = parsedate_to_datetime((value or "").strip())
        # asctime's form, and -0000, have no zone: HTTP's is GMT. Shifting a date far from our era can overflow.
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def parse_retry_after(value: str | None, *, date: str | None = None) -> float | None:
    """Return the seconds that a Retry-After field asks for (RFC 9110, 10.2.3), None if it is not usable.

    A time is counted from `date`, the Date field of the same response, so that only the server's clock matters, or
    from now without one. A time in the past is 0 seconds.
    """
    text = (value or "").strip()
    # int() would also take +5, 1_0 and the digits of other scripts.
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)

    until = parse_http_date(text)
    return None if until is None else max(0.0, (until - (parse_http_date(date) or datetime.now(UTC))).total_seconds())


def parse_reset(value: str | None, date: str | None) -> float | None:
    """Return the seconds until a POSIX time, counted as by `parse_retry_after`; None if it is not usable."""
    text = (value or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None

    return max(0.0, int(text) - (parse_http_date(date) or datetime.now(UTC)).timestamp())
