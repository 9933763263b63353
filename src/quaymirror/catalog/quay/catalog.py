"""Quay as a catalog."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from ...errors import CredentialsRefused, SelectionEmpty
from ...oci import Repository
from ..base import Discovery, Page, TagAnswer, TagList, Traits
from ..kinds import CatalogAccess, CatalogKind
from .api import QuayAPI
from .lookup import TOKEN_BATCH, TagLookup
from .schema import ListingPage
from .tags import matching_tags


class QuayCatalog:
    """The repositories and tags of one Quay server."""

    def __init__(self, access: CatalogAccess) -> None:
        self.traits: Traits = _traits(access.discovery)
        self._api = QuayAPI(access.client, has_token=access.has_token)
        self._lookup = TagLookup(self._api, access.registry, access.discovery)

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the living tag `name` of `repository`; see `Catalog.tag`."""
        return await self._lookup.tag(repository, name, batch=batch, dated=dated)

    async def pages(self, organization: str) -> AsyncGenerator[Page]:
        """Iterate over the pages of the organization's repositories; see `Catalog.pages`."""
        page = await self._api.repositories(organization, None)
        if self._api.has_token:
            await self._check_token(organization, page)

        yield page
        while page.cursor is not None:
            page = await self._api.repositories(organization, page.cursor)
            yield page

    async def _check_token(self, organization: str, first: ListingPage) -> None:
        """Check that the token counts: Quay ignores an invalid one, so that private repositories would be missing."""
        if first.seen_by_token or (not first.repositories and await self._api.accepts_token(organization)):
            return

        raise CredentialsRefused(
            "the API token is not accepted: expired, revoked, or no OAuth token (robot accounts don't work here)"
        )

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        kind = await self._api.find_namespace(organization)
        if kind is None:
            return SelectionEmpty(f"this server has no organization {organization!r}")

        hint = "" if self._api.has_token else "; private ones need --token-file"
        return SelectionEmpty(f"the {kind} {organization!r} has no repositories that are visible here{hint}")

    async def tags(self, repository: Repository, glob: str, *, sample: bool = False) -> TagList:
        """Return the living tags that `glob` matches; see `Catalog.tags`."""
        if sample:
            return await self._api.tags(repository.name, "", 1)

        return await matching_tags(self._api, repository.name, glob)


def _traits(discovery: Discovery) -> Traits:
    if discovery is Discovery.REGISTRY:
        return Traits("--discovery registry", has_dates=False, lists_tags=False, batch=TOKEN_BATCH)

    return Traits("Quay's API", batch=TOKEN_BATCH)


KIND = CatalogKind(_traits, QuayCatalog)
