"""Any registry that answers `/v2/_catalog`, or whose repositories are named, as a catalog. It has no dates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from fnmatch import fnmatchcase
from functools import partial

from ...errors import AccessDenied, CredentialsRefused, SelectionEmpty, ServiceError
from ...http.budget import PullBudget
from ...http.client import Client
from ...oci import Digest, Repository
from ...oci.digest_tags import is_digest_tag
from ...oci.reference import is_repository_name, is_tag
from ...registry.pull import RegistryPuller
from ...tasks import run_all
from ..base import Discovery, ListedRepository, Page, Tag, TagAnswer, TagList, Traits
from ..kinds import CatalogKind, Services, SourceAccess
from .paging import NameList

# Quay's token for this many repositories still fits into a header.
_TOKEN_BATCH = 30
# Discovery has a lower limit, which is an option.
_MAX_REPOSITORIES = 10_000_000
_MAX_TAGS = 50_000
_NAME_THEM = "write the names of repositories without wildcards"
_TRAITS = Traits("registry://", has_dates=False, batch=_TOKEN_BATCH, shows_absence=False)


class RegistryCatalog:
    """The repositories and tags of one registry; names of repositories are complete, without an organization."""

    traits: Traits = _TRAITS

    def __init__(self, client: Client, puller: RegistryPuller) -> None:
        self._client = client
        self._puller = puller

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the catalog; see `Catalog.pages`. Repositories that are named need no request."""
        if names:
            yield Page(tuple(map(ListedRepository, names)))
            return

        listing = NameList(
            self._client, "/v2/_catalog", "repositories", "registry:catalog:*", is_repository_name, _MAX_REPOSITORIES
        )
        try:
            async with aclosing(listing.pages()) as pages:
                async for page in pages:
                    yield Page(tuple(map(ListedRepository, page.names)), page.rejected, page.cursor or None)
        except AccessDenied as error:
            message = f"{self._host} does not list its repositories to this account: {error.message}; {_NAME_THEM}"
            raise CredentialsRefused(message, status=error.status) from None
        except ServiceError as error:
            if error.status not in (400, 404, 405, 501):
                raise

            raise error.replace(f"{error.message}: it has no list of repositories; {_NAME_THEM}") from None

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        return SelectionEmpty(
            f"{self._host} lists no repositories: it has none, or shows them to other accounts only; {_NAME_THEM}"
        )

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the tag `name` of `repository`, by one HEAD request; see `Catalog.tag`.

        A repository that does not exist has no tags: the answer is the same.
        """
        digest, at = await self._puller.resolve(repository, name, batch=batch)
        return TagAnswer(None if digest is None else Tag(name, digest), at)

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the tags that `glob` matches, each resolved by a HEAD request; see `Catalog.tags`.

        Lists of Google's registries contain the digests.
        """
        rejected: list[str] = []
        found: dict[str, Tag] = {}

        async def resolve(name: str) -> None:
            answer = await self.tag(repository, name)
            if answer.tag is not None:  # otherwise it was deleted since
                found[name] = answer.tag

        async with aclosing(self._tag_list(repository).pages()) as pages:
            async for page in pages:
                rejected += page.rejected
                names = [name for name in page.names if fnmatchcase(name, glob)]
                found.update((name, page.tags[name]) for name in names if name in page.tags)
                await run_all(partial(resolve, name) for name in names if name not in page.tags)

        return TagList(tuple(found.values()), tuple(rejected))

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names on the first page of the list of tags; see `Catalog.some_tags`."""
        async with aclosing(self._tag_list(repository).pages()) as pages:
            return (await anext(pages)).names

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return the digest tags of `repository`, most without their digests; see `Catalog.digest_tags`."""
        found: dict[str, Digest | None] = {}
        async with aclosing(self._tag_list(repository).pages()) as pages:
            async for page in pages:
                found |= dict.fromkeys(filter(is_digest_tag, page.names))
                found |= {name: tag.digest for name, tag in page.tags.items() if name in found}

        return found

    def _tag_list(self, repository: Repository) -> NameList:
        path, scope = f"/v2/{repository.name}/tags/list", f"repository:{repository.name}:pull"
        return NameList(self._client, path, "tags", scope, is_tag, _MAX_TAGS)

    @property
    def _host(self) -> str:
        return self._client.origin.netloc


def _traits(_: Discovery) -> Traits:
    return _TRAITS


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    origin = access.address.origin
    # A list of images names Docker Hub's registry, too; others state no such limit.
    puller = await access.puller(origin, PullBudget("; an account may have a larger limit"))
    yield Services(RegistryCatalog(await access.registry_client(origin), puller), puller)


KIND = CatalogKind(_traits, _open)
