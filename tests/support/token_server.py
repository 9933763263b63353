"""A token service as registries of Docker's distribution expect it (RFC 7519 with a chain of certificates)."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

SERVICE, ISSUER = "registry", "tokens"


class TokenServer:
    """Issues tokens to `accounts` (passwords by user), each for everything that it asks for, for `seconds`.

    `certificate` is the file that a registry needs to check them. `asked` has the scopes of all requests.
    """

    def __init__(self, directory: Path, accounts: Mapping[str, str], *, seconds: int = 60) -> None:
        self.seconds = seconds
        self.asked: list[str] = []
        self.url = ""
        self._accounts = accounts
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = directory / "tokens.pem"
        self.certificate.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.02)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def settings(self) -> str:
        """The part of a registry's configuration that sends clients here."""
        return (
            f"auth: {{token: {{realm: {self.url}, service: {SERVICE}, issuer: {ISSUER}, "
            f"rootcertbundle: {self.certificate}}}}}"
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        user, _, password = base64.b64decode(encoded).decode().partition(":") if scheme == "Basic" else ("", "", "")
        if user and self._accounts.get(user) != password:
            return web.json_response({"details": "wrong user or password"}, status=401)

        scopes = " ".join(request.query.getall("scope", [])).split()
        self.asked += scopes
        return web.json_response({"token": self._token(user, scopes if user else []), "expires_in": self.seconds})

    def _token(self, user: str, scopes: list[str]) -> str:
        now, access = int(time.time()), []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})

        chain = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        header = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        claims: dict[str, Any] = {"iss": ISSUER, "sub": user, "aud": SERVICE, "jti": secrets.token_hex(8)}
        claims |= {"nbf": now - 5, "iat": now, "exp": now + self.seconds, "access": access}
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encoded(signature)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
