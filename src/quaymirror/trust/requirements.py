"""The requirements of a policy, as values."""

from __future__ import annotations

from ..values import dataclass
from .identity import SignedIdentity


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Keys as a policy has them: `label` is for people."""

    label: str
    content: bytes


@dataclass(frozen=True, slots=True)
class AcceptAnything:
    """Every image is accepted, signed or not."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Every image is refused."""


@dataclass(frozen=True, slots=True)
class SignedByKeys:
    """One of `keys` signed the image; if there are `logs`, keys of transparency logs, one of them recorded that."""

    keys: tuple[KeyFile, ...]
    identity: SignedIdentity
    logs: tuple[KeyFile, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedByIdentity:
    """A person or a workflow signed the image, with a certificate of `authority` (Fulcio) that a log recorded."""

    authority: KeyFile
    issuer: str
    subject: str
    identity: SignedIdentity
    logs: tuple[KeyFile, ...]


@dataclass(frozen=True, slots=True)
class SignedByGPG:
    """One of the GPG keys in `keyrings` signed the image."""

    keyrings: tuple[KeyFile, ...]
    identity: SignedIdentity


Requirement = AcceptAnything | Reject | SignedByKeys | SignedByIdentity | SignedByGPG
