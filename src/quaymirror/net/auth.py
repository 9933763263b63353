"""Who we are to a server: what goes into `Authorization`, and how a 401 is answered.

Each credential is bound to one origin when it is made, and only ever asked for by the client of that origin.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import anyio

from ..errors import AccessDenied, CredentialsRefused, UnsafeRedirect
from .challenge import Challenge, parse_challenges, parse_token
from .origin import Origin
from .secret import Credentials, Secret

# A token that would expire while a request is under way is not worth sending.
_MARGIN_SECONDS = 15.0


class Authorizer(Protocol):
    """Says what to send as `Authorization`, and learns from a refusal."""

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header for a request that needs `scope`, None to send none."""

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Take note of a 401 with these `WWW-Authenticate` fields; tell whether another try can go better.

        :raises CredentialsRefused: when the credentials we have are wrong.
        """


class Fixed:
    """One header for everything, or none: what an API token is, and what an anonymous client sends."""

    def __init__(self, header: Secret | None = None) -> None:
        self._header = header

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header."""
        return self._header

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """There is nothing else to try."""
        return False


@dataclass(frozen=True, slots=True)
class _Token:
    header: Secret
    expires: float


class TokenAuth:
    """The Bearer tokens of one registry: none until it asks for one, then one a scope, renewed in time.

    `ask(url, authorization)` fetches the token service's answer. `find_credentials` is asked once, and only after a
    challenge: a public mirror never touches a key chain.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        ask: Callable[[str, Secret | None], Awaitable[bytes]],
        find_credentials: Callable[[], Awaitable[Credentials | None]],
        allowed_realms: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = origin
        self._ask = ask
        self._find_credentials = find_credentials
        self._allowed_realms = allowed_realms
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        self._basic: Secret | None = None
        self._credentials: Credentials | None = None
        self._looked_up = False
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def header(self, scope: str | None) -> Secret | None:
        """Return the token for `scope` if there is one that is still good."""
        token = self._tokens.get(scope or "")
        if token is None:
            return self._basic

        return token.header if self._clock() < token.expires else None

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Get what the challenge asks for; see `Authorizer.challenged`.

        :raises UnsafeRedirect: when the realm is not a place for our credentials.
        """
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(fields)}
        async with self._locks[scope or ""]:
            current = await self.header(scope)
            if current is not None and current is not refused:
                return True  # somebody else renewed it while we waited

            if bearer := challenges.get("bearer"):
                self._tokens[scope or ""] = await self._fetch(bearer, scope)
                return True

            return "basic" in challenges and await self._use_basic(refused)

    async def _use_basic(self, refused: Secret | None) -> bool:
        credentials = await self._own_credentials()
        if credentials is None:
            return False

        if refused is not None:
            raise CredentialsRefused(f"{self._origin.netloc} refuses the credentials of {credentials.username!r}")

        self._basic = credentials.basic()
        return True

    async def _fetch(self, challenge: Challenge, scope: str | None) -> _Token:
        realm = self._checked_realm(challenge.parameters.get("realm", ""))
        # Quay takes several scopes as several parameters, and answers 400 to the list that OAuth would have here.
        scopes = (scope or challenge.parameters.get("scope") or "").split()
        query = [("service", challenge.parameters.get("service")), *(("scope", scope) for scope in scopes)]
        parameters = urlencode([(key, value) for key, value in query if value])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{parameters}" if parameters else realm
        credentials = await self._own_credentials()
        try:
            body = await self._ask(url, credentials.basic() if credentials else None)
        except AccessDenied:
            if credentials is None:
                raise

            raise CredentialsRefused(
                f"{self._origin.netloc} refuses the credentials of {credentials.username!r}"
            ) from None

        token, lifetime = parse_token(body)
        return _Token(Secret(f"Bearer {token}"), self._clock() + lifetime - _MARGIN_SECONDS)

    def _checked_realm(self, realm: str) -> str:
        try:
            target = Origin.of(realm)
        except ValueError as error:
            raise UnsafeRedirect(f"{self._origin.netloc} sends us to a token service that is {error}") from None

        if self._origin.is_secure and not target.is_secure:
            raise UnsafeRedirect(f"{self._origin.netloc} sends us to a token service over plain HTTP: refused")

        if target.netloc != self._origin.netloc and not {target.host, target.netloc} & self._allowed_realms:
            raise UnsafeRedirect(
                f"{self._origin.netloc} sends us to the token service of another host, {target.netloc}: refused; "
                f"--allow-realm {target.netloc} would trust it"
            )

        return realm

    async def _own_credentials(self) -> Credentials | None:
        async with self._locks["credentials"]:
            if not self._looked_up:
                self._credentials = await self._find_credentials()
                self._looked_up = True

        return self._credentials
