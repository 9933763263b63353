"""The results of `verify --json` and `check --json`."""

from __future__ import annotations

from typing import NotRequired

from .common import FilesJson, TypedDict


class DamageJson(TypedDict):
    """Content and the images that need it. `kind` is "missing", "damaged", "replaced" (a tag at a registry that points
    elsewhere), or "unlisted" (a referrer at a registry that clients can't find).
    """

    kind: str
    digest: str
    images: list[str]


class RefusalJson(TypedDict):
    """An image that a signature policy refuses, with a reason per key or identity."""

    image: str
    digest: str
    reasons: list[str]


class SignaturesJson(TypedDict):
    """The verdicts of a signature policy: the number of images that it accepts, and those that it refuses."""

    accepted: int
    refused: list[RefusalJson]


class VerificationJson(TypedDict):
    """The result of `verify --json`. `fast` is true if only manifests were hashed.

    `refused` is the number of images of a registry that could not be checked, because access was denied. `signatures`
    are the verdicts, with --signature-policy.
    """

    images: int
    blobs: int
    bytes: int
    fast: bool
    refused: int
    damages: list[DamageJson]
    orphans: FilesJson
    partials: FilesJson
    signatures: NotRequired[SignaturesJson]


class CheckJson(TypedDict):
    """The result of `check --json`: the number of images that were looked for, and the references that are missing."""

    images: int
    missing: list[str]
