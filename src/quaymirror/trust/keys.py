"""Public keys and certificates; the only importer of cryptography."""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate, load_pem_x509_certificates

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
_LEAST_RSA_BITS = 2048


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


def certificate_key(content: bytes) -> PublicKey:
    """Return the key of the certificate in `content`, PEM or DER.

    :raises UnusableKey: if it is no certificate, or its key can't be used.
    """
    try:
        load = load_pem_x509_certificate if content.lstrip().startswith(b"-----") else load_der_x509_certificate
        key = load(content).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("is not a certificate") from None

    return _usable(key)


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
