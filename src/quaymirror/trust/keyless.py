"""Keyless signatures, by short-lived certificates; the only importer of sigstore, an extra. Works offline."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..oci import Digest
from ..untrusted import InvalidDocument, parse_object
from .bundle import Bundle
from .certified_tags import CertifiedTags
from .evidence import SimpleSignature
from .keys import PublicKey, UnusableKey, certificates_of
from .payload import InvalidClaim
from .requirements import SignedByIdentity

_MOST_BYTES = 16 * 1024 * 1024
_INSTALL = "keyless signatures need an extra: pip install 'quaymirror[sigstore]'"


class KeylessVerifier:
    """Verifies signatures for one requirement: with the certificate authority and the logs that both the policy and the
    trusted root have.

    :raises ConfigError: if the extra is missing, or the trusted root lacks the authority or the logs of the policy.
    """

    def __init__(self, requirement: SignedByIdentity, logs: tuple[PublicKey, ...], root: bytes, name: str) -> None:
        try:
            from sigstore.models import TrustedRoot
            from sigstore.verify import Verifier
            from sigstore.verify.policy import Identity
        except ImportError:
            raise ConfigError(_INSTALL) from None

        wanted = _authority(requirement)
        narrowed = _narrowed(root, name, requirement, wanted, logs)
        try:
            self._tags = CertifiedTags(requirement, wanted, narrowed)
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{name}: not a usable trusted root") from None

        self._policy = Identity(identity=requirement.subject, issuer=requirement.issuer)
        with tempfile.TemporaryDirectory(prefix="quaymirror-") as directory:
            path = Path(directory, "trusted_root.json")
            path.write_text(json.dumps(narrowed))
            try:
                self._verifier = Verifier(trusted_root=TrustedRoot.from_file(str(path)))
            except Exception as error:  # the library's models raise errors of several libraries
                raise ConfigError(f"{name}: not a usable trusted root ({type(error).__name__})") from None

    def verify(self, bundle: Bundle, digest: Digest, content: bytes) -> bytes:
        """Return the statement of `bundle`, or `content`, the manifest that its signature is over.

        :raises InvalidClaim: if the bundle is not acceptable.
        """
        from sigstore.models import Bundle as Parsed

        try:
            parsed = Parsed.from_json(bundle.raw)
        except Exception:
            raise InvalidClaim("the bundle is malformed, or lacks the proof of a transparency log") from None

        try:
            if bundle.has_envelope:
                return self._verifier.verify_dsse(parsed, self._policy)[1]

            self._verifier.verify_artifact(content, parsed, self._policy)
        except Exception as error:  # anything but a clean return is a refusal
            reason = str(error).partition("\n")[0].strip() or type(error).__name__
            raise InvalidClaim(reason[:300]) from None

        return content

    def verify_tag(self, signature: SimpleSignature) -> None:
        """Verify a signature of a `.sig` tag; see `CertifiedTags`.

        :raises InvalidClaim: if it is not acceptable.
        """
        self._tags.verify(signature)


def _narrowed(
    root: bytes, name: str, requirement: SignedByIdentity, wanted: frozenset[bytes], logs: tuple[PublicKey, ...]
) -> dict[str, Any]:
    """Return the trusted root with the authorities and logs of the policy only."""
    try:
        document = parse_object(root, limit=_MOST_BYTES)
        authorities = [each for each in document["certificateAuthorities"] if _chain(each) & wanted]
        keys = {log.der for log in logs}
        kept = [each for each in document["tlogs"] if _bytes(each["publicKey"]) in keys]
    except InvalidDocument as error:
        raise ConfigError(f"{name}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConfigError(f"{name}: not a trusted root") from None

    if not authorities:
        raise ConfigError(f"{name}: has no certificate authority of the policy ({requirement.authority.label})")

    if not kept:
        raise ConfigError(f"{name}: has no transparency log of the policy ({requirement.logs[0].label})")

    return {**document, "certificateAuthorities": authorities, "tlogs": kept}


def _authority(requirement: SignedByIdentity) -> frozenset[bytes]:
    try:
        return certificates_of(requirement.authority.content)
    except UnusableKey as error:
        raise ConfigError(f"{requirement.authority.label} {error}") from None


def _chain(authority: dict[str, Any]) -> frozenset[bytes]:
    return frozenset(map(_bytes, authority["certChain"]["certificates"]))


def _bytes(table: dict[str, Any]) -> bytes:
    return base64.b64decode(table["rawBytes"])
