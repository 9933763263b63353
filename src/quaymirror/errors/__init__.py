"""Errors, the same as values, and the exit codes that they lead to.

An error has three properties that every handler needs:

- its *scope*: whether another attempt can help, or the image or the whole run fails;
- its *side*: the source, the target, or the local disk;
- its *phase*: the step during which it happened.

Errors are immutable; `replace` returns a changed copy. A `Failure` is an error as a value: it is shared and stored,
since an exception keeps the stack frames of its traceback alive.

Messages are one line, name the object they are about, and never hold a secret: they may contain hosts and digests, but
neither header values nor the query of a URL.
"""

from .base import ExitCode, Failure, Phase, QuaymirrorError, Scope, Side, from_os_error, is_lack, most_severe, reason_of
from .content import ContentError, DigestMismatch, PlatformNotFound, SizeMismatch, UnsupportedContent
from .run import (
    BucketDenied,
    BucketFailed,
    DiscoveryIncomplete,
    DoesNotFit,
    EmitFailed,
    LockHeld,
    MirrorDamaged,
    SelectionEmpty,
    StoreError,
    from_system,
)
from .service import (
    AccessDenied,
    ContentMissing,
    CredentialsRefused,
    NotFound,
    NotGranted,
    PullsExhausted,
    RateLimited,
    ServiceError,
    Unavailable,
)
from .transport import (
    CertificateRefused,
    ConnectFailed,
    HostDown,
    HostUnusable,
    NameUnknown,
    RangeRefused,
    ReadInterrupted,
    RealmRefused,
    TimedOut,
    TransportError,
    UnsafeRedirect,
)
from .usage import ConfigError, InvalidName, TargetRefused

__all__ = [
    "AccessDenied",
    "BucketDenied",
    "BucketFailed",
    "CertificateRefused",
    "ConfigError",
    "ConnectFailed",
    "ContentError",
    "ContentMissing",
    "CredentialsRefused",
    "DigestMismatch",
    "DiscoveryIncomplete",
    "DoesNotFit",
    "EmitFailed",
    "ExitCode",
    "Failure",
    "HostDown",
    "HostUnusable",
    "InvalidName",
    "LockHeld",
    "MirrorDamaged",
    "NameUnknown",
    "NotFound",
    "NotGranted",
    "Phase",
    "PlatformNotFound",
    "PullsExhausted",
    "QuaymirrorError",
    "RangeRefused",
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
    "from_os_error",
    "from_system",
    "is_lack",
    "most_severe",
    "reason_of",
]
