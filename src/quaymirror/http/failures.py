"""Errors of connections and exchanges as our own, without texts that can hold headers or signed URLs."""

from __future__ import annotations

import os
import socket
import ssl

from ..errors import (
    CertificateRefused,
    ConnectFailed,
    HostUnusable,
    NameUnknown,
    QuaymirrorError,
    ReadInterrupted,
    Scope,
    StoreError,
    TimedOut,
    UnsafeRedirect,
    is_lack,
    reason_of,
)
from .guard import AddressRefused
from .origin import Origin

NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_PLAIN_HTTP = "for plain HTTP write http:// instead of https://, or add ?insecure=true"


def lack(error: Exception, host: str) -> StoreError | None:
    """Return the error for a connection that this machine lacks something for; other ones may give it back soon."""
    if isinstance(error, OSError) and is_lack(error):
        return StoreError(f"{host}: cannot connect: {reason_of(error)}", scope=Scope.ATTEMPT)

    return None


def certificate_refused(host: str, error: Exception) -> QuaymirrorError:
    """Return the error for a certificate that is not trusted."""
    return CertificateRefused(
        f"{host}: the TLS certificate is not trusted: {reason(error)} (--cafile names other authorities)"
    )


def tls_failed(host: str, error: Exception) -> QuaymirrorError:
    """Return the error for a host that does not speak TLS as expected."""
    return HostUnusable(f"{host} does not speak TLS as expected ({reason(error)}): {_PLAIN_HTTP}")


def private_address(host: str) -> QuaymirrorError:
    """Return the error for a redirect into the local network."""
    return UnsafeRedirect(f"a server redirected to {host}, which is a private address: refused")


def unresolved(error: Exception) -> str:
    """Return the text for a name without an address."""
    return f"cannot resolve the host name: {reason(error)}; check its spelling, and the name service"


def unconnected(error: Exception) -> str:
    """Return the text for a connection that was refused."""
    advice = "check the address, the network, and whether a proxy is needed (HTTPS_PROXY)"
    return f"cannot connect: {reason(error)}; {advice}"


def connection_timed_out(host: str) -> QuaymirrorError:
    """Return the error for a host that does not answer."""
    return TimedOut(f"{host}: the connection timed out")


def silent(name: str) -> QuaymirrorError:
    """Return the error for an answer of which nothing has arrived for too long."""
    return TimedOut(f"{name}: the server sent nothing for too long")


def invalid(name: str) -> QuaymirrorError:
    """Return the error for an answer that can't be parsed."""
    return ReadInterrupted(f"{name}: the answer is not valid HTTP")


def broken(name: str) -> QuaymirrorError:
    """Return the error for a broken connection."""
    return ReadInterrupted(f"{name}: the connection broke")


def broken_before_answer(name: str) -> QuaymirrorError:
    """Return the error for a connection without TLS that broke before an answer."""
    return ReadInterrupted(f"{name}: the connection broke before an answer; if the server speaks TLS, write https://")


def ended_early(name: str) -> QuaymirrorError:
    """Return the error for an incomplete body."""
    return ReadInterrupted(f"{name}: the answer ended early")


def of_connection(error: Exception, origin: Origin) -> QuaymirrorError:
    """Return the error for a connection that could not be made."""
    host = origin.netloc
    match error:
        case ssl.SSLCertVerificationError():
            return certificate_refused(host, error)
        case ssl.SSLError():
            return tls_failed(host, error)
        case AddressRefused():
            return private_address(host)
        case TimeoutError():
            return connection_timed_out(host)
        case socket.gaierror():
            kind = NameUnknown if error.errno in NO_SUCH_NAME else ConnectFailed
            return kind(f"{host}: {unresolved(error)}")
        case OSError():
            return lack(error, host) or ConnectFailed(f"{host}: {unconnected(error)}")
        case _:
            return UnsafeRedirect(f"{host}: not a usable URL")


def of_exchange(error: Exception, origin: Origin, name: str) -> QuaymirrorError:
    """Return the error for a request without a usable answer."""
    match error:
        case TimeoutError():
            return silent(name)
        case ssl.SSLError():
            return tls_failed(origin.netloc, error)
        case ConnectionError() if not origin.is_secure:  # also if the server closed it
            return broken_before_answer(name)
        case OSError():
            return lack(error, origin.netloc) or broken(name)
        case EOFError():
            return ended_early(name)
        case _:
            return invalid(name)


def of_body(error: Exception, name: str) -> QuaymirrorError:
    """Return the error for a body that ended early."""
    match error:
        case TimeoutError():
            return silent(name)
        case OSError():
            return broken(name)
        case EOFError():
            return ended_early(name)
        case _:
            return invalid(name)


def reason(error: Exception) -> str:
    """Return the words of the operating system or of OpenSSL, which contain neither headers nor URLs."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0 and not isinstance(cause, ssl.SSLError):
        return os.strerror(number).lower()

    return str(getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or type(cause).__name__)
