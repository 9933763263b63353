"""Tokens of an API that a login gives for some minutes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

import anyio

from ..secret import Secret

_MARGIN_SECONDS = 30.0


class SessionAuth:
    """The authorizer for an API with logins: it logs in before the first request, and again before the token expires.

    `log_in` returns a token, which is valid for `lifetime` seconds.
    """

    def __init__(
        self, log_in: Callable[[], Awaitable[Secret]], *, lifetime: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log_in = log_in
        self._lifetime = lifetime
        self._clock = clock
        self._header: Secret | None = None
        self._expires = float("-inf")
        self._lock = anyio.Lock()

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header with a token that is still valid.

        :raises CredentialsRefused: if the login fails.
        """
        async with self._lock:
            if self._header is None or self._clock() >= self._expires:
                asked = self._clock()
                self._header = Secret(f"Bearer {(await self._log_in()).reveal()}")
                self._expires = asked + self._lifetime - _MARGIN_SECONDS

            return self._header

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Forget the `refused` token; see `Authorizer.challenged`. The next request logs in again."""
        if self._header is refused:
            self._header = None

        return True

    def allows(self, scope: str | None) -> bool:
        """Return False: the token contains no scopes."""
        return False

    def denial(self, scope: str | None) -> str:
        """Return "": the token contains no scopes."""
        return ""
