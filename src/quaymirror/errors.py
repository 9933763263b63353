"""Every exception that quaymirror raises on purpose.

An error knows three things its catchers need and nobody else can know as well as the raiser:

- its *scope*: is another attempt worth it, is this image lost, or is the whole run?
- its *side*: was it the source, the target, or the disk here?
- its *phase*: what was being done.

Messages are one line, name the object they are about, and never hold a secret: whoever raises puts in hosts and
digests, never header values and never the query of a URL.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "AccessDenied",
    "CertificateRefused",
    "ConfigError",
    "ConnectFailed",
    "ContentError",
    "CredentialsRefused",
    "DigestMismatch",
    "DiscoveryIncomplete",
    "EmitFailed",
    "HostDown",
    "InvalidName",
    "LockHeld",
    "MirrorDamaged",
    "NotFound",
    "Phase",
    "PlatformNotFound",
    "QuaymirrorError",
    "RateLimited",
    "ReadInterrupted",
    "RealmRefused",
    "Scope",
    "SelectionEmpty",
    "ServiceError",
    "Side",
    "SizeMismatch",
    "StoreError",
    "TargetRefused",
    "TimedOut",
    "TransportError",
    "Unavailable",
    "UnsafeRedirect",
    "UnsupportedContent",
]


class Scope(Enum):
    """How far the damage of an error reaches."""

    ATTEMPT = "attempt"
    """Trying the same thing again can help."""
    IMAGE = "image"
    """This image fails; the others are not concerned."""
    RUN = "run"
    """Nothing else of this run can succeed: stop."""


class Side(Enum):
    """Where an error came from: the first question of whoever runs a mirror."""

    SOURCE = "source"
    TARGET = "target"
    STORE = "store"


class Phase(Enum):
    """What was being done when an error happened."""

    DISCOVER = "discover"
    RESOLVE = "resolve"
    FETCH = "fetch"
    STORE = "land"
    COMMIT = "commit"


class QuaymirrorError(Exception):
    """The root of the tree: one line for a person, a scope for the program.

    `scope`, `side` and `phase` have a default per class; pass another one where the raiser knows better.
    """

    scope: Scope = Scope.IMAGE
    side: Side = Side.SOURCE
    phase: Phase | None = None

    def __init__(
        self, message: str, *, scope: Scope | None = None, side: Side | None = None, phase: Phase | None = None
    ) -> None:
        super().__init__(message)
        if scope is not None:
            self.scope = scope

        if side is not None:
            self.side = side

        if phase is not None:
            self.phase = phase

    @property
    def message(self) -> str:
        """The one line."""
        return str(self.args[0])


class ConfigError(QuaymirrorError):
    """What the user asked for can't be: a bad option, selection or target. Exit code 2."""

    scope = Scope.RUN


class InvalidName(ConfigError, ValueError):
    """Text that is no valid digest, reference, platform or name of the OCI specifications."""

    scope = Scope.IMAGE


class TargetRefused(ConfigError):
    """The place where images should land can't be used: not a layout, not a directory, not writable."""

    side = Side.STORE


class LockHeld(QuaymirrorError):
    """Another run is working on the same mirror. Exit code 7."""

    scope = Scope.RUN
    side = Side.STORE


class SelectionEmpty(QuaymirrorError):
    """The selection matched no image. Exit code 9."""

    scope = Scope.RUN


class DiscoveryIncomplete(QuaymirrorError):
    """The listing could not be read to its end, or can't be believed. Exit code 5."""

    scope = Scope.RUN
    phase = Phase.DISCOVER


class TransportError(QuaymirrorError):
    """Something broke below HTTP's meaning: no answer, or not a whole one."""

    scope = Scope.ATTEMPT


class ConnectFailed(TransportError):
    """No connection: refused, unreachable, name unknown, or the TLS handshake failed."""


class CertificateRefused(ConnectFailed):
    """The other side does not prove that it is who it says: the TLS certificate is expired, or of nobody we trust."""

    scope = Scope.IMAGE


class TimedOut(TransportError):
    """The other side was silent for too long."""


class ReadInterrupted(TransportError):
    """A body ended early, or what came was not HTTP."""


class HostDown(TransportError):
    """The host answers nobody just now. Nobody's tries count until it is back, or was given up."""


class UnsafeRedirect(QuaymirrorError):
    """A server named an address that a mirror must not follow: plain HTTP after HTTPS, a private address, a loop."""


class RealmRefused(UnsafeRedirect):
    """A registry named a token service that can't be trusted with credentials: no token can be had."""


class ServiceError(QuaymirrorError):
    """A server answered, and the answer is no. `status` is the HTTP status, or 0 where the body was the trouble."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        scope: Scope | None = None,
        side: Side | None = None,
        phase: Phase | None = None,
    ) -> None:
        super().__init__(message, scope=scope, side=side, phase=phase)
        self.status = status
        self.codes: frozenset[str] = frozenset()
        """The registry's own words for it, such as `BLOB_UNKNOWN` (OCI distribution-spec, "Error Codes")."""


class NotFound(ServiceError):
    """What was asked for is not there (any more)."""


class AccessDenied(ServiceError):
    """Not there, or not for us: Quay answers 401 for both."""


class CredentialsRefused(ServiceError):
    """Credentials were given and are wrong. Exit code 4."""

    scope = Scope.RUN


class RateLimited(ServiceError):
    """The server asked for patience: 429, or 503 with Retry-After. `retry_after` is in seconds, None if not said."""

    scope = Scope.ATTEMPT

    def __init__(
        self, message: str, *, status: int = 429, retry_after: float | None = None, scope: Scope | None = None
    ) -> None:
        super().__init__(message, status=status, scope=scope)
        self.retry_after = retry_after


class ContentMissing(ServiceError):
    """A registry refuses a manifest, maybe since something that it points to is not there although it should be."""

    side = Side.TARGET


class Unavailable(ServiceError):
    """The server has a fault of its own (5xx, or an answer that makes no sense): later it may be better."""

    scope = Scope.ATTEMPT


class ContentError(QuaymirrorError):
    """Bytes arrived, but not the right ones."""


class DigestMismatch(ContentError):
    """The bytes don't have the digest they were asked for by."""

    scope = Scope.ATTEMPT


class SizeMismatch(ContentError):
    """More or fewer bytes than the descriptor promised."""

    scope = Scope.ATTEMPT


class UnsupportedContent(ContentError):
    """A manifest of a kind that can't be mirrored, or one that breaks the rules of the image specification."""


class PlatformNotFound(ContentError):
    """An index has none of the platforms asked for."""


class EmitFailed(QuaymirrorError):
    """A filter or an output of occystrap failed, or its result did not pass its own check."""

    side = Side.TARGET
    phase = Phase.STORE


class MirrorDamaged(QuaymirrorError):
    """What is in the mirror is not what its names say, so that nothing can be built on it. Exit code 8."""

    scope = Scope.RUN
    side = Side.STORE


class StoreError(QuaymirrorError):
    """The local disk said no: full, read-only, an I/O error. Exit code 6."""

    scope = Scope.RUN
    side = Side.STORE
