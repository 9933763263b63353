"""What goes into `Authorization`, and how a 401 is answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..secret import Secret


class Authorizer(Protocol):
    """Says what to send as `Authorization`, and learns from a refusal."""

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header for a request that needs `scope`, None to send none."""

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Take note of a 401 with these `WWW-Authenticate` fields; tell whether another try can go better.

        :raises CredentialsRefused: when the credentials we have are wrong.
        """

    def allows(self, scope: str | None) -> bool:
        """Tell whether what we send says of itself that it allows `scope`, so that a refusal can't be meant."""


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

    def allows(self, scope: str | None) -> bool:
        """Nobody knows."""
        return False
