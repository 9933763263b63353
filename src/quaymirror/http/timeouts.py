"""Timeouts of HTTP exchanges."""

from __future__ import annotations

from ..values import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds until a connection, the head of a response, the next byte, or a small response must have arrived.

    The transfer of a blob has no total limit: a slow link is not an error, silence is.
    """

    connect: float = 10.0
    headers: float = 60.0
    stall: float = 60.0
    total: float = 60.0
