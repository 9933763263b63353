"""The header Range (RFC 9110, section 14), for one range of bytes."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


class UnsatisfiableRange(ValueError):
    """A range that begins behind the end."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the start and the length of the range, None to send everything.

    A header that is malformed, or names several ranges, is ignored: the whole content is always a right answer.

    :raises UnsatisfiableRange: if no byte of the content is in the range.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None

    if not match[1]:
        count = min(int(match[2]), size)
        if count == 0:
            raise UnsatisfiableRange

        return size - count, count

    start = int(match[1])
    end = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < start:
        return None

    if start >= size:
        raise UnsatisfiableRange

    return start, end - start + 1
