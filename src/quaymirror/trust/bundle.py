"""Sigstore bundles, version 0.3 (sigstore/protobuf-specs): a signature with everything that is needed to verify it."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

from ..oci import Digest
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .payload import Claim, InvalidClaim

MAX_BUNDLE_BYTES = 4 * 1024 * 1024
_MEDIA_TYPES = ("application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json;version=0.3")
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_SIGNATURE = "https://sigstore.dev/cosign/sign/v1"


@dataclass(frozen=True, slots=True)
class Bundle:
    """The parts of a bundle, none of them verified.

    `signed` are the bytes that `signature` is over, None for a signature over the manifest itself. `payload` is the
    statement in an envelope. `has_certificate` is False for a signature by a key. `entries` are those of logs.
    """

    raw: bytes
    signature: bytes
    has_certificate: bool
    signed: bytes | None = None
    payload: bytes = b""
    entries: tuple[dict[str, Any], ...] = ()

    @property
    def has_envelope(self) -> bool:
        """True if the signature is over a statement in an envelope."""
        return self.signed is not None


def parse_bundle(raw: bytes) -> Bundle:
    """Return the bundle in `raw`.

    :raises InvalidClaim: if it is malformed, or of another version.
    """
    try:
        document = parse_object(raw, limit=MAX_BUNDLE_BYTES)
    except InvalidDocument as error:
        raise InvalidClaim(f"the bundle {error}") from None

    if document.get("mediaType") not in _MEDIA_TYPES:
        raise InvalidClaim(f"the bundle is not of version 0.3: {str(document.get('mediaType'))[:80]!r}")

    material = _table(document, "verificationMaterial")
    kinds = [key for key in ("publicKey", "certificate", "x509CertificateChain") if key in material]
    if kinds not in (["publicKey"], ["certificate"]):
        raise InvalidClaim("the bundle needs either a publicKey or a certificate")

    entries = material.get("tlogEntries", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidClaim("the bundle is malformed: tlogEntries")

    has_certificate = kinds == ["certificate"]
    if ("dsseEnvelope" in document) == ("messageSignature" in document):
        raise InvalidClaim("the bundle needs either a dsseEnvelope or a messageSignature")

    if "messageSignature" in document:
        signature = decoded(_table(document, "messageSignature"), "signature")
        return Bundle(raw, signature, has_certificate, entries=tuple(entries))

    envelope = _table(document, "dsseEnvelope")
    payload, kind = decoded(envelope, "payload"), envelope.get("payloadType")
    signatures = envelope.get("signatures")
    if kind != _IN_TOTO or not isinstance(signatures, list) or len(signatures) != 1:
        raise InvalidClaim("the envelope of the bundle is not a signed in-toto statement with one signature")

    signature = decoded(signatures[0] if isinstance(signatures[0], dict) else {}, "sig")
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    return Bundle(raw, signature, has_certificate, signed, payload, tuple(entries))


def statement_claim(payload: bytes, digest: Digest) -> Claim:
    """Return what a verified in-toto statement says about the image with `digest`.

    Attestations are refused: an SBOM or the findings of a scanner say something of an image, not that it is approved.

    :raises InvalidClaim: if it is not a signature, or for other images.
    """
    try:
        statement = parse_object(payload, limit=MAX_BUNDLE_BYTES)
    except InvalidDocument as error:
        raise InvalidClaim(f"the statement {error}") from None

    if statement.get("_type") not in _STATEMENTS:
        raise InvalidClaim("the payload is not an in-toto statement")

    if statement.get("predicateType") != _SIGNATURE:
        raise InvalidClaim(f"an attestation of type {str(statement.get('predicateType'))[:80]}, not a signature")

    subjects = statement.get("subject")
    for subject in subjects if isinstance(subjects, list) else ():
        digests = subject.get("digest") if isinstance(subject, dict) else None
        if isinstance(digests, dict) and digests.get(digest.algorithm) == digest.encoded:
            name = subject.get("name", "")
            return Claim(str(digest), name if isinstance(name, str) else "?")

    raise InvalidClaim("a signature of another image")


def decoded(table: dict[str, Any], key: str) -> bytes:
    """Return the bytes that `table` has, in base64, under `key`.

    :raises InvalidClaim: if it has none.
    """
    value = table.get(key)
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        content = b""

    if not content or base64.b64encode(content).decode() != value:
        raise InvalidClaim(f"the bundle is malformed: {key}")

    return content


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of `content` in hex."""
    return hashlib.sha256(content).hexdigest()


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise InvalidClaim(f"the bundle is malformed: {key}")

    return value
