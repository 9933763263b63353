"""Credentials that are kept for a part of a registry: each namespace has an authorizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..http.authorizer import Authorizer
from ..secret import Secret


class ByNamespace:
    """Asks the authorizer of the namespace that a scope is about; `make` makes it when it is first asked for."""

    def __init__(self, make: Callable[[str], Authorizer]) -> None:
        self._make = make
        self._authorizers: dict[str, Authorizer] = {}

    async def header(self, scope: str | None) -> Secret | None:
        """Return the header for a request that needs `scope`, None to send none."""
        return await self._of(scope).header(scope)

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        """Take note of a 401; see `Authorizer.challenged`.

        :raises CredentialsRefused: when the credentials we have are wrong.
        :raises UnsafeRedirect: when the realm is not a place for our credentials.
        """
        return await self._of(scope).challenged(fields, scope, refused)

    def allows(self, scope: str | None) -> bool:
        """Tell whether what we send says of itself that it allows `scope`."""
        return self._of(scope).allows(scope)

    def _of(self, scope: str | None) -> Authorizer:
        namespace = _namespace(scope)
        if namespace not in self._authorizers:
            self._authorizers[namespace] = self._make(namespace)

        return self._authorizers[namespace]


def _namespace(scope: str | None) -> str:
    """`kolla` of `repository:kolla/nova-api:pull`, "" where there is none."""
    name = (scope or "").partition(" ")[0].partition(":")[2].rpartition(":")[0]
    return name.partition("/")[0] if "/" in name else ""
