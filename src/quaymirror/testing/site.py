"""The objects that all handlers of a server share: model, addresses, switches, and signing key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import struct
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict, MultiMapping

from quaymirror.testing.organization import OAuthToken, Registry

PAGE_TOKEN_LIFETIME = 2 * 24 * 3600
_PAGE_PAYLOAD_BYTES = 80
_FERNET_VERSION = b"\x80"
_FALSE_WORDS = frozenset({"false", "False", "FALSE", "0", "null", ""})


@dataclass(slots=True)
class Site:
    """The shared context. Addresses are filled in once the listeners are bound."""

    registry: Registry
    redirect_blobs: bool = True
    token_lifetime: float = 3600
    require_token: bool = False
    quota_report: bool = False
    public_catalog: bool = False
    tag_list_cache: float = 0.0
    referrers_page: int = 0
    url: str = ""
    host: str = ""
    cdn_url: str = ""
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def now(self) -> float:
        """Epoch seconds by the registry's clock."""
        return self.registry.now()

    def sign(self, text: str) -> str:
        """Return a signature of *text*."""
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def bearer(self, headers: MultiMapping[str]) -> OAuthToken | None:
        """Return the valid API token of a request; an invalid one counts as none, as in API v1."""
        scheme, _, value = headers.get("Authorization", "").partition(" ")
        return self.registry.valid_oauth_token(value.strip()) if scheme.lower() == "bearer" else None

    def page_token(self, start: int) -> str:
        """Return an opaque page token in Fernet's format; a new one each time, for the same page too."""
        nonce = secrets.token_bytes(16)
        payload = json.dumps({"start_index": start}).encode().ljust(_PAGE_PAYLOAD_BYTES)
        body = _FERNET_VERSION + struct.pack(">Q", int(self.now())) + nonce + self._mask(payload, nonce)
        return base64.urlsafe_b64encode(body + hmac.digest(self.key, body, "sha256")).decode()

    def page_start(self, token: str | None) -> int:
        """Return where the page *token* begins. A bad or expired one isn't an error in Quay: it's the first page."""
        try:
            raw = base64.urlsafe_b64decode(token or "")
            body, signature = raw[:-32], raw[-32:]
            issued: int = struct.unpack(">Q", body[1:9])[0]
        except (ValueError, struct.error):
            return 0
        genuine = hmac.compare_digest(hmac.digest(self.key, body, "sha256"), signature)
        if not genuine or issued + PAGE_TOKEN_LIFETIME < self.now():
            return 0
        start: int = json.loads(self._mask(body[25:], body[9:25]))["start_index"]
        return start

    def _mask(self, payload: bytes, nonce: bytes) -> bytes:
        stream = hashlib.shake_256(self.key + nonce).digest(len(payload))
        return bytes(a ^ b for a, b in zip(payload, stream, strict=True))


def is_true(value: str | None) -> bool:
    """Read a boolean as Quay does: everything but a few words for no is yes."""
    return value is not None and value not in _FALSE_WORDS


def cors_headers(*, authenticated: bool) -> CIMultiDict[str]:
    """Return the headers that every API v1 answer has."""
    headers = CIMultiDict(
        {
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Methods": "DELETE, GET, HEAD, OPTIONS, POST, PUT",
            "Access-Control-Max-Age": "21600",
            "Access-Control-Allow-Headers": "AUTHORIZATION, CONTENT-TYPE, X-REQUESTED-WITH",
        }
    )
    if not authenticated:
        headers["Vary"] = "Cookie"
    return headers


def avatar(name: str, kind: str) -> dict[str, Any]:
    """Return the picture Quay draws for *name*."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {"name": name, "hash": digest, "color": f"#{digest[:6]}", "kind": kind}
