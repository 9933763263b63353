"""Quay as a catalog.

Quay's API knows since when a tag points where it does and leaves no trace, but may allow only a few calls per second (5
in Quay's own templates, over HTTP/1.1). Its registry then allows ten times as many, but knows only the digest, and logs
each as a pull. So the API is asked first, and the registry as soon as the API limits us: lookups of few tags, and of a
Quay without limits, never appear as pulls.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

from ...errors import (
    AccessDenied,
    CredentialsRefused,
    NotFound,
    RateLimited,
    Scope,
    SelectionEmpty,
    UnsafeRedirect,
    UnsupportedContent,
)
from ...http.authorizer import Fixed
from ...http.client import Client
from ...http.exchange import Request
from ...oci import Digest, Repository
from ...oci.digest_tags import PATTERN, is_digest_tag
from ...oci.reference import is_repository_name
from ...secret import Secret
from ..base import Discovery, ListedRepository, NewestTags, Page, Tag, TagAnswer, TagList, TagResolver, Traits
from ..kinds import CatalogKind, Services, SourceAccess
from ..registry.catalog import RegistryCatalog
from ..registry.paging import NameList
from .api import QuayAPI
from .schema import ListingPage
from .tags import matching_tags

# Quay's token for this many repositories still fits into a header: for 80 it would not.
_TOKEN_BATCH = 30
_MAX_REPOSITORIES = 200_000
_MAX_PING = 64 * 1024


class QuayCatalog:
    """The repositories and tags of one Quay server. `discovery` is the service that resolves tags.

    `account` has the repositories that only an account of the registry shows, None without one.
    """

    def __init__(
        self, api: QuayAPI, registry: TagResolver, discovery: Discovery, account: AccountRepositories | None = None
    ) -> None:
        self._account = account
        # Repositories whose images the API does not show.
        self._hidden: set[str] = set()
        self.traits: Traits = _traits(discovery)
        self._api = api
        self._registry = registry
        self._discovery = discovery

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the living tag `name` of `repository`; see `Catalog.tag`."""
        if self._account is not None and repository.name in self._account.names:
            return await self._account.catalog.tag(repository, name, batch=batch)

        if dated or self._discovery is Discovery.API:
            return await self._api.tag(repository.name, name)

        if repository.name in self._hidden:
            digest, at = await self._registry.resolve(repository, name, batch=batch)
            return TagAnswer(None if digest is None else Tag(name, digest), at)

        if self._discovery is Discovery.AUTO:
            try:
                return await self._api.tag(repository.name, name, patient=False)
            except RateLimited as error:
                if error.scope is Scope.RUN:
                    raise

        try:
            digest, at = await self._registry.resolve(repository, name, batch=batch)
        except (AccessDenied, UnsupportedContent):
            # Only the API distinguishes a deleted repository from a private one, and knows every kind of tag.
            return await self._api.tag(repository.name, name)

        return TagAnswer(None if digest is None else Tag(name, digest), at)

    async def newest_tags(self, repository: Repository) -> NewestTags | None:
        """Return the newest tags of `repository`; see `ListsNewest`."""
        is_hidden = self._account is not None and repository.name in self._account.names
        if is_hidden or self._discovery is Discovery.REGISTRY:
            return None

        try:
            page = await self._api.tags(repository.name, "", 1, patient=self._discovery is Discovery.API)
        except RateLimited as error:
            if error.scope is Scope.RUN:
                raise

            return None

        return NewestTags(page.tags, is_complete=not (page.has_more or page.rejected), at=page.at)

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the living tags that `glob` matches; see `Catalog.tags`."""
        if self._account is not None and repository.name in self._account.names:
            return await self._account.catalog.tags(repository, glob)

        return await matching_tags(self._api, repository.name, glob)

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names of the newest tags; see `Catalog.some_tags`."""
        if self._account is not None and repository.name in self._account.names:
            return await self._account.catalog.some_tags(repository)

        return [tag.name for tag in (await self._api.tags(repository.name, "", 1)).tags]

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return the digest tags of `repository`, by one request per hundred of them; see `Catalog.digest_tags`.

        They can't be listed while the API limits us, or denies access: the registry then looks for single tags.
        """
        if self._account is not None and repository.name in self._account.names:
            return await self._account.catalog.digest_tags(repository)

        if self._discovery is Discovery.REGISTRY:
            return None

        try:
            is_alone = self._discovery is Discovery.API
            found = await matching_tags(self._api, repository.name, PATTERN, patient=is_alone)
        except RateLimited as error:
            if error.scope is Scope.RUN or is_alone:
                raise

            return None
        except AccessDenied:
            # A private repository that only the account at the registry may read.
            self._hidden.add(repository.name)
            return None

        return {tag.name: tag.digest for tag in found.tags if is_digest_tag(tag.name)}

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the organization's repositories; see `Catalog.pages`."""
        page = await self._api.repositories(organization, None)
        if self._api.has_token:
            await self._check_token(organization, page)

        if self._account is not None:
            async with aclosing(self._united(organization, page, self._account)) as pages:
                async for each in pages:
                    yield each

            return

        yield page
        while page.cursor is not None:
            page = await self._api.repositories(organization, page.cursor)
            yield page

    async def _united(self, organization: str, page: ListingPage, account: AccountRepositories) -> AsyncGenerator[Page]:
        """Iterate over the pages of the API from `page` on, and then over those that only the account shows."""
        listed = {repository.name for repository in page.repositories}
        while page.cursor is not None:
            yield page
            page = await self._api.repositories(organization, page.cursor)
            listed.update(repository.name for repository in page.repositories)

        others = [name for name in await account.of(organization) if name not in listed]
        account.names.update(f"{organization}/{name}" for name in others)
        yield Page(page.repositories + tuple(map(ListedRepository, others)), page.rejected, at=page.at)

    async def _check_token(self, organization: str, first: ListingPage) -> None:
        """Check that the token counts: Quay ignores an invalid one, so that private repositories would be missing."""
        if first.seen_by_token or (not first.repositories and await self._api.accepts_token(organization)):
            return

        raise CredentialsRefused(
            "the API token is not accepted: expired, revoked, or no OAuth token (robot accounts don't work here); "
            "make a new one for --token-file"
        )

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        kind = await self._api.find_namespace(organization)
        if kind is None:
            return SelectionEmpty(f"this server has no organization {organization!r}")

        hint = "" if self._api.has_token else "; private ones need --token-file, or the --username of a robot"
        return SelectionEmpty(f"the {kind} {organization!r} has no repositories that are visible here{hint}")


class AccountRepositories:
    """The repositories that an account of the registry may read: a robot's, which the API does not know.

    `open_client` returns a client with the credentials for an organization, None without an account. `catalog` finds
    their tags, and `names` has those, with their organizations, that the API does not show.
    """

    def __init__(self, open_client: Callable[[str], Awaitable[Client | None]], catalog: RegistryCatalog) -> None:
        self._open_client = open_client
        self.catalog = catalog
        self.names: set[str] = set()

    async def of(self, organization: str) -> list[str]:
        """Return the names of the repositories of `organization`, without it.

        :raises CredentialsRefused: if the registry rejects the credentials.
        """
        client = await self._open_client(organization)
        if client is None:
            return []

        listing = NameList(client, "/v2/_catalog", "repositories", "", is_repository_name, _MAX_REPOSITORIES)
        start = f"{organization}/"
        try:
            # The list is empty without a token, and asks for none. Quay refuses tokens for the scope of a catalog.
            await client.fetch(Request("/v2/", kind="manifests"), limit=_MAX_PING, parse=lambda _, body: body)
            async with aclosing(listing.pages()) as pages:
                found = [name async for page in pages for name in page.names]
        except (NotFound, AccessDenied, UnsafeRedirect):
            return []  # a registry without this list, or without a login

        return [name.removeprefix(start) for name in found if name.startswith(start)]


def _traits(discovery: Discovery) -> Traits:
    if discovery is Discovery.REGISTRY:
        return Traits("--discovery registry", has_dates=False, lists_tags=False, batch=_TOKEN_BATCH, hides_private=True)

    return Traits("Quay's API", batch=_TOKEN_BATCH, hides_private=True)


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    origin, token = access.address.origin, access.api_token
    puller = await access.puller(origin)
    anonymous = await access.client(origin, Fixed())
    if token is None:
        api = QuayAPI(anonymous, has_token=False)
    else:
        client = await access.client(origin, Fixed(Secret(f"Bearer {token.reveal()}")))
        api = QuayAPI(client, has_token=True, anonymous=anonymous)

    async def client_of(organization: str) -> Client | None:
        has_account = await access.has_account(organization)
        return await access.registry_client(origin, namespace=organization) if has_account else None

    account = None
    if token is None:
        account = AccountRepositories(client_of, RegistryCatalog(await access.registry_client(origin), puller))

    yield Services(QuayCatalog(api, puller, access.discovery, account), puller)


KIND = CatalogKind(_traits, _open)
