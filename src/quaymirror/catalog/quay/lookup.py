"""Lookup of one tag, in the cheapest way that is allowed.

Quay's API knows since when a tag points where it does and leaves no trace, but may allow only a few calls per second (5
in Quay's own templates, over HTTP/1.1). Its registry then allows ten times as many, but knows only the digest, and logs
each as a pull. So the API is asked first, and the registry as soon as the API limits us: lookups of few tags, and of a
Quay without limits, never appear as pulls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import AccessDenied, RateLimited, Scope, UnsupportedContent
from ...oci import Repository
from ..base import Discovery, Tag, TagAnswer, TagResolver
from .api import QuayAPI

# Quay's token for this many repositories still fits into a header: for 80 it would not.
TOKEN_BATCH = 30


@dataclass(frozen=True, slots=True)
class TagLookup:
    """Looks up tags in the API or the registry, depending on `discovery`."""

    api: QuayAPI
    registry: TagResolver
    discovery: Discovery

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the living tag `name` of `repository`; see `Catalog.tag`."""
        if dated or self.discovery is Discovery.API:
            return await self.api.tag(repository.name, name)

        if self.discovery is Discovery.AUTO:
            try:
                return await self.api.tag(repository.name, name, patient=False)
            except RateLimited as error:
                if error.scope is Scope.RUN:
                    raise

        return await self._ask_registry(repository, name, batch)

    async def _ask_registry(self, repository: Repository, name: str, batch: Sequence[Repository]) -> TagAnswer:
        try:
            digest, at = await self.registry.resolve(repository, name, batch=batch)
        except (AccessDenied, UnsupportedContent):
            # Only the API distinguishes a deleted repository from a private one, and knows every kind of tag.
            return await self.api.tag(repository.name, name)

        return TagAnswer(None if digest is None else Tag(name, digest), at)
