"""Payloads of simple signing: the claim that an image has a digest and a name. Signatures are over these bytes.

Both makers are read as podman reads them: exactly the known fields, so that a claim has one meaning only.
"""

from __future__ import annotations

from typing import Any

from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass

COSIGN = "cosign container image signature"
GPG = "atomic container signature"
MAX_PAYLOAD_BYTES = 1024 * 1024


class InvalidClaim(ValueError):
    """A claim that is not acceptable; the message continues a sentence."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The image that a signature is for: `name` has a registry, and for some signers a tag; "" for no name."""

    digest: str
    name: str = ""


def parse_payload(content: bytes, kind: str) -> Claim:
    """Return the claim in a verified payload of the given kind.

    :raises InvalidClaim: if it is not one.
    """
    try:
        document = parse_object(content, limit=MAX_PAYLOAD_BYTES)
    except InvalidDocument as error:
        raise InvalidClaim(f"the payload {error}") from None

    critical, optional = _fields(document, "critical", "optional")
    if not isinstance(optional, dict | None):
        raise InvalidClaim("the payload is malformed: optional")

    image, identity, found = _fields(critical, "image", "identity", "type")
    if found != kind:
        raise InvalidClaim("the payload is not a signature of an image")

    (digest,), (name,) = _fields(image, "docker-manifest-digest"), _fields(identity, "docker-reference")
    if not isinstance(digest, str) or not isinstance(name, str):
        raise InvalidClaim("the payload is malformed")

    return Claim(digest, name)


def _fields(document: Any, *names: str) -> list[Any]:
    if not isinstance(document, dict) or set(document) != set(names):
        raise InvalidClaim(f"the payload is malformed: it needs exactly {', '.join(names)}")

    return [document[name] for name in names]
