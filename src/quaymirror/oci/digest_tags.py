"""Tags that name a digest: `sha256-<hex>.sig` for what belongs to it, `sha256-<hex>` for the list of its referrers."""

from __future__ import annotations

from ..values import pattern
from .digest import Digest

PATTERN = "sha256-*"
"""A glob for the digest tags of a repository; those of other algorithms are not looked for."""
SUFFIXES = (".sig", ".att", ".sbom")
"""The ends of the tags for signatures, attestations and SBOMs, as cosign writes them."""
_TAG = pattern(r"(?:sha256|sha512)-[0-9a-f]{64,128}(?:\.[a-z]+)?")
_MOST_ALGORITHM = 32
_MOST_ENCODED = 64


def is_digest_tag(tag: str) -> bool:
    """Return True if `tag` belongs to a digest: it names no image of its own."""
    return _TAG.fullmatch(tag) is not None


def selects_digest_tags(pattern: str) -> bool:
    """Return True if a tag or a glob for tags asks for digest tags: `sha256-*` does, `*` does not."""
    return pattern.startswith(("sha256-", "sha512-"))


def fallback_tag(digest: Digest) -> str:
    """Return the tag for the list of referrers where a registry has no API for it (distribution-spec)."""
    algorithm, _, encoded = str(digest).partition(":")
    return f"{algorithm[:_MOST_ALGORITHM]}-{encoded[:_MOST_ENCODED]}"


def digest_tags(digest: Digest) -> tuple[str, ...]:
    """Return the tags of signatures, attestations and SBOMs of `digest`."""
    start = str(digest).replace(":", "-")
    return tuple(start + suffix for suffix in SUFFIXES)
