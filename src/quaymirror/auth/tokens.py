"""Who we are to a server: what goes into `Authorization`, and how a 401 is answered.

Each credential is bound to one origin when it is made, and only ever asked for by the client of that origin.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import anyio

from ..errors import AccessDenied, CredentialsRefused, RealmRefused, ServiceError, Unavailable, UnsafeRedirect
from ..http.origin import Origin
from ..secret import Credentials, Secret
from .challenge import Challenge, grants, parse_challenges, parse_token

# A token that would expire while a request is under way is not worth sending.
_MARGIN_SECONDS = 15.0
# More make a header that Quay's nginx refuses.
_MAX_SCOPES = 30


@dataclass(frozen=True, slots=True)
class _Token:
    header: Secret
    expires: float
    scopes: frozenset[str]
    granted: frozenset[str]


class TokenAuth:
    """The Bearer tokens of one registry: none until it asks for one, then as few as can be, renewed in time.

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
        self._lookup = anyio.Lock()
        self._fetching = anyio.Lock()
        self._is_refused = False
        # Scopes by what they are mainly about, and how many requests wait for a token.
        self._needs: dict[str, tuple[str, ...]] = {}
        self._waiting: Counter[str] = Counter()

    async def header(self, scope: str | None) -> Secret | None:
        """Return the token for `scope` if there is one that is still good and allows all of it."""
        token = self._good_token(_subject(scope), (scope or "").split())
        return token.header if token is not None else self._basic

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Get what the challenge asks for; see `Authorizer.challenged`.

        :raises RealmRefused: when the realm is not a place for our credentials.
        """
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(fields)}
        subject = _subject(scope)
        with self._waiting_for(subject, scope):
            # Who is challenged while a token is on its way gets the next one, together with all who wait here.
            async with self._fetching:
                current = await self.header(scope)
                if current is not None and current is not refused:
                    return True  # somebody else got it while we waited

                if bearer := challenges.get("bearer"):
                    await self._renew(bearer, subject)
                    return True

                return "basic" in challenges and await self._use_basic(refused)

    @contextmanager
    def _waiting_for(self, subject: str, scope: str | None) -> Iterator[None]:
        """Let a token that is fetched while the context lasts be for `scope`, too.

        And for what `subject` needed before, else two needs would take turns.
        """
        need = dict.fromkeys([*(scope or "").split(), *self._needs.get(subject, ())])
        self._needs[subject] = tuple(need)[:_MAX_SCOPES]
        self._waiting[subject] += 1
        try:
            yield
        finally:
            self._waiting[subject] -= 1

    async def _renew(self, challenge: Challenge, subject: str) -> None:
        """Fetch a token for `subject`, and for as many others that wait as one token can hold."""
        batch = [subject]
        for other in +self._waiting:
            is_served = self._good_token(other, self._needs[other]) is not None
            if other not in ("", subject) and not is_served and len(self._needed([*batch, other])) <= _MAX_SCOPES:
                batch.append(other)

        try:
            token = await self._fetch(challenge, self._needed(batch))
        except ServiceError:
            # Some services refuse all when one is not for us: what the others want is not our trouble.
            if len(batch) == 1:
                raise

            batch = [subject]
            token = await self._fetch(challenge, self._needed(batch))

        self._tokens.update(dict.fromkeys(batch, token))

    def _needed(self, subjects: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(scope for subject in subjects for scope in self._needs[subject]))

    def _good_token(self, subject: str, scopes: Iterable[str]) -> _Token | None:
        token = self._tokens.get(subject)
        return token if token and token.scopes.issuperset(scopes) and self._clock() < token.expires else None

    def allows(self, scope: str | None) -> bool:
        """Tell whether the token for `scope` says that it allows that; see `Authorizer.allows`."""
        token = self._tokens.get(_subject(scope))
        return token is not None and bool(scope) and token.granted.issuperset((scope or "").split())

    async def _use_basic(self, refused: Secret | None) -> bool:
        credentials = await self._own_credentials()
        if credentials is None:
            return False

        if refused is not None:
            raise self._refusal(credentials)

        self._basic = credentials.basic()
        return True

    async def _fetch(self, challenge: Challenge, scopes: list[str]) -> _Token:
        realm = self._checked_realm(challenge.parameters.get("realm", ""))
        offered = {key: challenge.parameters.get(key, "") for key in ("service", "scope")}
        # One parameter each: Quay takes no list in one (token specification: "scope" may be given several times).
        query = [("service", offered["service"]), *(("scope", scope) for scope in scopes or [offered["scope"]])]
        parameters = urlencode([(key, value) for key, value in query if value])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{parameters}" if parameters else realm
        credentials = await self._own_credentials()
        if credentials is not None and self._is_refused:
            # Whoever waited for the first answer would ask the same again, until the account is locked.
            raise self._refusal(credentials)

        try:
            body = await self._ask(url, credentials.basic() if credentials else None)
        except AccessDenied as error:
            if credentials is None:
                raise

            # 403 may be about what was asked for, and so may 401 where that was several things.
            self._is_refused = error.status == 401 and len(scopes) <= 1
            raise self._refusal(credentials) from None
        except UnsafeRedirect as error:
            raise RealmRefused(error.message) from None

        try:
            token, lifetime = parse_token(body)
        except Unavailable as error:
            raise Unavailable(f"{self._origin.netloc}: {error.message}") from None

        granted = frozenset(scope for scope in scopes if grants(token, scope))
        expires = self._clock() + lifetime - _MARGIN_SECONDS
        return _Token(Secret(f"Bearer {token}"), expires, frozenset(scopes), granted)

    def _refusal(self, credentials: Credentials) -> CredentialsRefused:
        return CredentialsRefused(f"{self._origin.netloc} refuses the credentials of {credentials.username!r}")

    def _checked_realm(self, realm: str) -> str:
        try:
            target = Origin.of(realm)
        except ValueError as error:
            raise RealmRefused(f"{self._origin.netloc} sends us to a token service that is {error}") from None

        if self._origin.is_secure and not target.is_secure:
            raise RealmRefused(f"{self._origin.netloc} sends us to a token service over plain HTTP: refused")

        if target.netloc != self._origin.netloc and not {target.host, target.netloc} & self._allowed_realms:
            raise RealmRefused(
                f"{self._origin.netloc} sends us to the token service of another host, {target.netloc}: refused; "
                f"--allow-realm {target.netloc} would trust it"
            )

        return realm

    async def _own_credentials(self) -> Credentials | None:
        async with self._lookup:
            if not self._looked_up:
                self._credentials = await self._find_credentials()
                self._looked_up = True

        return self._credentials


def _subject(scope: str | None) -> str:
    """What a request is mainly about: the first of its scopes."""
    return (scope or "").partition(" ")[0]
