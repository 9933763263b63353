"""Dates in HTTP fields."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def parse_http_date(value: str | None) -> datetime | None:
    """Return the moment that a field such as Date names (RFC 9110, 5.6.7), None if it names none."""
    try:
        date = parsedate_to_datetime((value or "").strip())
        # asctime's form, and -0000, have no zone: HTTP's is GMT. Far from our era, shifting a date can overflow.
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
