"""Errors of connections and redirects."""

from __future__ import annotations

from .base import QuaymirrorError, Scope


class TransportError(QuaymirrorError):
    """No HTTP answer, or an incomplete one."""

    scope = Scope.ATTEMPT


class ConnectFailed(TransportError):
    """No connection: refused, unreachable, unknown name, or a failed TLS handshake."""


class HostUnusable(ConnectFailed):
    """The host can't be used as it was named, and another attempt does not help: it speaks no TLS, for instance."""

    is_lasting = True
    scope = Scope.IMAGE


class CertificateRefused(HostUnusable):
    """The TLS certificate of the host is expired or not trusted."""


class NameUnknown(HostUnusable):
    """The name service knows no address of the host."""


class TimedOut(TransportError):
    """The host sent nothing for too long, or too little."""


class ReadInterrupted(TransportError):
    """A body ended early, or the answer was not valid HTTP."""


class RangeRefused(ReadInterrupted):
    """The server doesn't continue where it was asked to: the blob has to start over, without a range."""


class HostDown(TransportError):
    """The host currently fails every request. Retries don't count until it is back or was given up."""


class UnsafeRedirect(QuaymirrorError):
    """A server named an address that must not be followed: plain HTTP after HTTPS, a private address, or a loop."""

    is_lasting = True


class RealmRefused(UnsafeRedirect):
    """A registry named a token service that is not trusted with credentials."""

    advice = "for a token service that you trust pass --allow-realm"
