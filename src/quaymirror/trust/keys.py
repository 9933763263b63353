"""Public keys and certificates; the only importer of cryptography."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate, load_pem_x509_certificates
from cryptography.x509.certificate_transparency import SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
_LEAST_RSA_BITS = 2048
_MAX_CHAIN = 4
# Fulcio's extensions with the issuer of the identity, as plain and as DER text (fulcio:docs/oid-info.md).
_PLAIN_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class UnusableKey(ValueError):
    """A key that can't verify signatures; the message continues a sentence."""


class PublicKey:
    """A public key: ECDSA and RSA (PKCS #1 v1.5) with SHA-256, or Ed25519."""

    def __init__(self, key: _Key) -> None:
        self._key = key
        self.der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id: str = base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Return True if `signature` is one of this key over `content`."""
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, content)
            else:
                self._verify_digest(self._key, signature, hashlib.sha256(content).digest())
        except (InvalidSignature, ValueError):
            return False

        return True

    def _verify_digest(
        self, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, signature: bytes, digest: bytes
    ) -> None:
        hashed = Prehashed(SHA256())
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), hashed)
        else:
            key.verify(signature, digest, ec.ECDSA(hashed))


def load_key(content: bytes) -> PublicKey:
    """Return the public key in `content`, PEM.

    :raises UnusableKey: if it is none, or too weak.
    """
    try:
        key = load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("is not a public key in PEM") from None

    return _usable(key)


class Certificate:
    """A certificate, PEM or DER.

    :raises UnusableKey: if it can't be parsed, or its key can't be used.
    """

    def __init__(self, content: bytes) -> None:
        try:
            is_text = content.lstrip().startswith(b"-----")
            self._certificate = (load_pem_x509_certificate if is_text else load_der_x509_certificate)(content)
            key = self._certificate.public_key()
            self._extensions = self._certificate.extensions
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UnusableKey("is not a certificate") from None

        self.key: PublicKey = _usable(key)
        self.der: bytes = self._certificate.public_bytes(Encoding.DER)

    @property
    def names(self) -> frozenset[str]:
        """The identities that it is for: addresses of persons, and URLs of workflows."""
        found = self._extension(x509.SubjectAlternativeName)
        kinds = (x509.RFC822Name, x509.UniformResourceIdentifier)
        return frozenset(each.value for each in found or () if isinstance(each, kinds))

    @property
    def issuer(self) -> str:
        """The service that has checked the identity; "" if it does not say so, or in two ways."""
        texts = {each.oid: each.value for each in self._extensions if each.oid in (_ISSUER, _PLAIN_ISSUER)}
        raw = {oid: each.value for oid, each in texts.items() if isinstance(each, x509.UnrecognizedExtension)}
        found = {_utf8(raw[_ISSUER])} if _ISSUER in raw else set[str]()
        if _PLAIN_ISSUER in raw:
            found.add(raw[_PLAIN_ISSUER].decode(errors="replace"))

        return found.pop() if len(found) == 1 else ""

    def issuer_among(
        self, anchors: Iterable[Certificate], others: Sequence[Certificate], at: datetime, below: int = 0
    ) -> Certificate | None:
        """Return the certificate that has issued this one, if that is one of `anchors`, or leads to one over `others`.

        All have to be valid at `at`. Return None if there is none.
        """
        for anchor in anchors:
            if self._is_issued_by(anchor, at, below):
                return anchor

        for other in others if below < _MAX_CHAIN else ():
            if self._is_issued_by(other, at, below) and other.issuer_among(anchors, others, at, below + 1) is not None:
                return other

        return None

    def may_sign(self, at: datetime) -> bool:
        """Return True if it is valid at `at`, for signatures of code."""
        usage, purposes = self._extension(x509.KeyUsage), self._extension(x509.ExtendedKeyUsage)
        is_for_code = purposes is not None and ExtendedKeyUsageOID.CODE_SIGNING in purposes
        return self._is_valid(at) and is_for_code and usage is not None and usage.digital_signature

    def is_logged(self, issuer: Certificate, logs: Iterable[PublicKey]) -> bool:
        """Return True if one of the certificate transparency `logs` promised to record it (RFC 6962, 3.2)."""
        found = self._extension(x509.PrecertificateSignedCertificateTimestamps)
        keys = {hashlib.sha256(log.der).digest(): log for log in logs}
        return any(
            each.log_id in keys and keys[each.log_id].verifies(each.signature, self._logged(each, issuer))
            for each in found or ()
        )

    def _logged(self, promise: SignedCertificateTimestamp, issuer: Certificate) -> bytes:
        """Return the bytes that a promise is a signature over."""
        content, more = self._certificate.tbs_precertificate_bytes, promise.extension_bytes
        since_1970 = promise.timestamp.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        milliseconds = round(since_1970.total_seconds() * 1000)
        parts = (
            b"\0\0",
            milliseconds.to_bytes(8, "big"),
            b"\0\1",
            hashlib.sha256(issuer.key.der).digest(),
            len(content).to_bytes(3, "big"),
            content,
            len(more).to_bytes(2, "big"),
            more,
        )
        return b"".join(parts)

    def _is_issued_by(self, issuer: Certificate, at: datetime, below: int) -> bool:
        limits, usage = issuer._extension(x509.BasicConstraints), issuer._extension(x509.KeyUsage)
        is_authority = limits is not None and limits.ca and (usage is None or usage.key_cert_sign)
        has_room = limits is not None and (limits.path_length is None or limits.path_length >= below)
        if not (is_authority and has_room and issuer._is_valid(at) and self._is_understood):
            return False

        try:
            self._certificate.verify_directly_issued_by(issuer._certificate)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
            return False

        return issuer._is_understood

    @property
    def _is_understood(self) -> bool:
        return all(not each.critical or isinstance(each.value, _UNDERSTOOD) for each in self._extensions)

    def _is_valid(self, at: datetime) -> bool:
        return self._certificate.not_valid_before_utc <= at <= self._certificate.not_valid_after_utc

    def _extension(self, kind: type[_Extension]) -> _Extension | None:
        try:
            return self._extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None


def key_from_der(content: bytes) -> PublicKey:
    """Return the public key in `content`, DER.

    :raises UnusableKey: if it is none, or too weak.
    """
    try:
        key = load_der_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("is not a public key in DER") from None

    return _usable(key)


def split_certificates(content: bytes) -> list[Certificate]:
    """Return the certificates in `content`, PEM, none for no content.

    :raises UnusableKey: if one can't be used.
    """
    if not content.strip():
        return []

    return [Certificate(each) for each in sorted(certificates_of(content))]


def certificates_of(content: bytes) -> frozenset[bytes]:
    """Return the certificates in `content`, PEM, as DER.

    :raises UnusableKey: if it has none.
    """
    try:
        return frozenset(each.public_bytes(Encoding.DER) for each in load_pem_x509_certificates(content))
    except ValueError:
        raise UnusableKey("is not a certificate in PEM") from None


def _usable(key: object) -> PublicKey:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        raise UnusableKey(f"is an RSA key of {key.key_size} bits; at least {_LEAST_RSA_BITS:,} are needed")

    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise UnusableKey("is not an ECDSA, RSA or Ed25519 key")

    return PublicKey(key)


def _utf8(der: bytes) -> str:
    """Return the text in a short UTF8String (DER)."""
    if len(der) < 2 or der[0] != 0x0C or der[1] != len(der) - 2 or der[1] > 127:
        return ""

    return der[2:].decode(errors="replace")
