"""Errors that a server reports."""

from __future__ import annotations

from typing import ClassVar

from .base import BROKEN_AT_SOURCE, ExitCode, QuaymirrorError, Scope, Side


class ServiceError(QuaymirrorError):
    """A server rejected the request; `status` is 0 if only the body was wrong."""


class NotFound(ServiceError):
    """The requested object doesn't exist (any more)."""

    advice: ClassVar[str] = BROKEN_AT_SOURCE
    is_lasting: ClassVar[bool] = True


class AccessDenied(ServiceError):
    """The object doesn't exist or access is denied: Quay answers 401 in both cases."""

    is_lasting: ClassVar[bool] = True
    retries: int | None = 2  # of a registry that contradicts its own token service

    advice: ClassVar[str] = ExitCode.CREDENTIALS.advice


class NotGranted(AccessDenied):
    """The token service has not granted the account the right that a request needs."""


class CredentialsRefused(ServiceError):
    """Credentials were given and are wrong. Exit code 4."""

    exit_code = ExitCode.CREDENTIALS
    advice: ClassVar[str] = ExitCode.CREDENTIALS.advice
    is_lasting: ClassVar[bool] = True
    scope = Scope.RUN


class RateLimited(ServiceError):
    """The server asked for fewer requests: 429, or 503 with Retry-After."""

    advice = "the server limits requests: try --max-requests-per-second or a smaller --concurrency"
    scope = Scope.ATTEMPT
    status = 429


class PullsExhausted(RateLimited):
    """The registry allows no more pulls for some time, as Docker Hub does; see `RateLimited`."""

    advice = "run it again when pulls resume: it goes on where this run stopped"
    scope = Scope.IMAGE


class ContentMissing(ServiceError):
    """A registry rejects a manifest, perhaps because content that it points to is missing."""

    side = Side.TARGET


class Unavailable(ServiceError):
    """The server failed (5xx, or an answer that makes no sense); later it may work."""

    scope = Scope.ATTEMPT
