"""The referrers that are wanted."""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase

from ..values import dataclass

# Signatures and attestations, whichever tool made them.
SIGNATURE_TYPES = (
    "application/vnd.dev.sigstore.bundle*",
    "application/vnd.dev.cosign.*",
    "application/vnd.cncf.notary.signature*",
    "application/vnd.in-toto*",
    "application/vnd.dsse*",
    "application/vnd.docker.attestation.manifest*",
)
# Nothing refers to them in practice: their own referrers are not asked for.
_LEAVES = (
    "application/vnd.dev.sigstore.bundle*",
    "application/vnd.dev.cosign.simplesigning*",
    "application/vnd.cncf.notary.signature*",
)


class ReferrerMode(Enum):
    """The referrers to mirror with images."""

    NONE = "none"
    SIGNATURES = "signatures"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class ReferrerChoice:
    """The wanted referrers: all digest tags, and the manifests whose type matches one of `types`, if `mode` allows any.

    Without `types`, `signatures` means `SIGNATURE_TYPES`, and `all` every type.
    """

    mode: ReferrerMode = ReferrerMode.SIGNATURES
    types: tuple[str, ...] = ()

    @property
    def is_none(self) -> bool:
        """True if none are wanted."""
        return self.mode is ReferrerMode.NONE

    @property
    def fingerprint(self) -> str:
        """The same text for the same choice, as the state records it."""
        return " ".join([self.mode.value, *sorted(self.types)])

    def wants(self, artifact_type: str) -> bool:
        """Return True if referrers of this type are wanted."""
        globs = self.types or (SIGNATURE_TYPES if self.mode is ReferrerMode.SIGNATURES else ("*",))
        return not self.is_none and _matches(artifact_type, globs)

    def wants_any(self, tag: str, artifact_type: str) -> bool:
        """Return True if a referrer is wanted that has this digest tag, "" for none, or this type."""
        return self.wants(artifact_type) if not tag else not self.is_none


BUNDLES = ReferrerChoice(ReferrerMode.SIGNATURES, ("application/vnd.dev.sigstore.bundle*",))
"""The referrers that a signature policy judges: bundles, and digest tags."""


def with_bundles(choice: ReferrerChoice) -> ReferrerChoice:
    """Return `choice` with everything that a signature policy judges."""
    if choice.is_none:
        return BUNDLES

    return ReferrerChoice(choice.mode, (*choice.types, *BUNDLES.types)) if choice.types else choice


def is_leaf(artifact_type: str) -> bool:
    """Return True if referrers of this type have no referrers themselves."""
    return _matches(artifact_type, _LEAVES)


def _matches(text: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text.lower(), glob.lower()) for glob in globs)
