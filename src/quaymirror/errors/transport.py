"""Errors of connections and redirects."""

from __future__ import annotations

from .base import QuaymirrorError, Scope


class TransportError(QuaymirrorError):
    """No HTTP answer, or an incomplete one."""

    scope = Scope.ATTEMPT


class ConnectFailed(TransportError):
    """No connection: refused, unreachable, unknown name, or a failed TLS handshake."""


class CertificateRefused(ConnectFailed):
    """The TLS certificate of the host is expired or not trusted."""

    scope = Scope.IMAGE


class TimedOut(TransportError):
    """The host sent nothing for too long."""


class ReadInterrupted(TransportError):
    """A body ended early, or the answer was not valid HTTP."""


class RangeRefused(ReadInterrupted):
    """The server doesn't continue where it was asked to: the blob has to start over, without a range."""


class HostDown(TransportError):
    """The host currently fails every request. Retries don't count until it is back or was given up."""


class UnsafeRedirect(QuaymirrorError):
    """A server named an address that must not be followed: plain HTTP after HTTPS, a private address, or a loop."""


class RealmRefused(UnsafeRedirect):
    """A registry named a token service that is not trusted with credentials."""
