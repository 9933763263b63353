"""The value of `Authorization`, and the reaction to a 401."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..secret import Secret


class Authorizer(Protocol):
    """Provides the value of `Authorization`, and learns from challenges."""

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header for a request that needs `scope`, None to send none."""

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Handle a 401 with these `WWW-Authenticate` fields, after the header `refused` was sent, None for none.

        Return True if another attempt with the header that is current then can succeed.

        :raises CredentialsRefused: if the credentials are wrong.
        """

    def allows(self, scope: str | None) -> bool:
        """Return True if the header for `scope` says that it allows that, so that a 401 contradicts it."""

    def denial(self, scope: str | None) -> str:
        """Return a sentence about the first part of `scope` that the header says it does not allow, "" for none."""


class Fixed:
    """One header for everything, or none: an API token, or an anonymous client."""

    def __init__(self, header: Secret | None = None) -> None:
        self._header = header

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header."""
        return self._header

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Return False: no other header exists."""
        return False

    def allows(self, scope: str | None) -> bool:
        """Return False: the header contains no scopes."""
        return False

    def denial(self, scope: str | None) -> str:
        """Return "": the header contains no scopes."""
        return ""
