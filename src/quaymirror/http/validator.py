"""Validators of content, for requests of the rest of it."""

from __future__ import annotations

from ..values import dataclass


@dataclass(frozen=True, slots=True)
class Validator:
    """The identity that `host` gives to content it sent: a strong entity tag (RFC 9110, 8.8.3)."""

    host: str
    etag: str
