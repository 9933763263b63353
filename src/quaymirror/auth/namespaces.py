"""Credentials for a part of a registry: each namespace has its own authorizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..http.authorizer import Authorizer
from ..secret import Secret


class ByNamespace:
    """Delegates to the authorizer of the scope's namespace, which `make` creates on first use."""

    def __init__(self, make: Callable[[str], Authorizer]) -> None:
        self._make = make
        self._authorizers: dict[str, Authorizer] = {}

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header for a request that needs `scope`; see `Authorizer.header`."""
        return await self._of(scope).header(scope)

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Handle a 401; see `Authorizer.challenged`.

        :raises CredentialsRefused: if the credentials are wrong.
        :raises RealmRefused: if the realm is not trusted with credentials.
        """
        return await self._of(scope).challenged(fields, scope, refused)

    def allows(self, scope: str | None) -> bool:
        """Return True if the header says that it allows `scope`; see `Authorizer.allows`."""
        return self._of(scope).allows(scope)

    def denial(self, scope: str | None) -> str:
        """Return what the token for `scope` does not allow, as a sentence; see `Authorizer.denial`."""
        return self._of(scope).denial(scope)

    def _of(self, scope: str | None) -> Authorizer:
        namespace = _namespace(scope)
        if namespace not in self._authorizers:
            self._authorizers[namespace] = self._make(namespace)

        return self._authorizers[namespace]


def _namespace(scope: str | None) -> str:
    """Return `kolla` for `repository:kolla/nova-api:pull`, "" without a namespace."""
    name = (scope or "").partition(" ")[0].partition(":")[2].rpartition(":")[0]
    return name.partition("/")[0] if "/" in name else ""
