"""Errors of received content."""

from __future__ import annotations

from .base import BROKEN_AT_SOURCE, QuaymirrorError, Scope


class ContentError(QuaymirrorError):
    """The received bytes are wrong."""

    advice = BROKEN_AT_SOURCE

    retries: int | None = 2


class DigestMismatch(ContentError):
    """The bytes don't have the requested digest."""

    scope = Scope.ATTEMPT


class SizeMismatch(ContentError):
    """The content is longer or shorter than its descriptor says."""

    scope = Scope.ATTEMPT


class UnsupportedContent(ContentError):
    """A manifest of a kind that can't be mirrored, or one that violates the image specification."""

    is_lasting = True


class PlatformNotFound(ContentError):
    """An index has none of the requested platforms."""
