"""Signatures as they are found beside an image, none of them verified."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from ..oci import Digest
from ..oci.manifest import Manifest
from ..values import dataclass

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle"
MAX_SIGNATURES = 100
"""The most signatures of one manifest that are judged."""
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_CHAIN = "dev.sigstore.cosign/chain"
_LOG_ENTRY = "dev.sigstore.cosign/bundle"


@dataclass(frozen=True, slots=True)
class SimpleSignature:
    """A signature in a `.sig` image: a layer, and the annotations that belong to it."""

    payload: bytes
    signature: bytes
    certificate: str = ""
    log_entry: str = ""
    chain: str = ""

    @classmethod
    def of(cls, payload: bytes, annotations: Mapping[str, str]) -> SimpleSignature:
        """Return the signature over `payload` that the annotations of its layer have."""
        try:
            signature = base64.b64decode(annotations.get(_SIGNATURE, ""), validate=True)
        except (binascii.Error, ValueError):
            signature = b""

        certificate, entry, chain = (annotations.get(key, "") for key in (_CERTIFICATE, _LOG_ENTRY, _CHAIN))
        return cls(payload, signature, certificate, entry, chain)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All signatures of the manifest with `digest`; `content` is the manifest.

    `bundles` and `messages`, those signed by GPG, are as they were found. `name` is for people: a platform.
    """

    digest: Digest
    content: bytes
    simple: tuple[SimpleSignature, ...] = ()
    bundles: tuple[bytes, ...] = ()
    messages: tuple[bytes, ...] = ()
    name: str = ""


def is_bundle(manifest: Manifest) -> bool:
    """Return True if `manifest` is a referrer that holds a sigstore bundle."""
    return any(layer.media_type.startswith(BUNDLE_TYPE) for layer in manifest.layers)
