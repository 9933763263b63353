"""GitHub's container registry as a catalog: packages of an owner by the REST API, images by the registry.

docs.github.com, "REST API endpoints for packages". The API answers only to tokens, also about public packages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from ..errors import AccessDenied, CredentialsRefused, NotFound, SelectionEmpty, Unavailable
from ..http.authorizer import Fixed
from ..http.exchange import Response
from ..http.links import next_link
from ..http.origin import Origin, request_target
from ..oci import Digest, Repository
from ..secret import Secret
from .base import Discovery, ListedRepository, Page, Tag, TagAnswer, TagList, Traits
from .json_api import (
    JsonAPI,
    describe_each,
    fault_of_name,
    fault_of_tag,
    make_stamp,
    parse_digest,
    parse_moment,
    read_array,
)
from .kinds import CatalogKind, Services, SourceAccess
from .offsets import PAGE_SIZE, Batch, organization_pages, refused_list, tags_of
from .registry.catalog import RegistryCatalog

T = TypeVar("T")

_OWNERS = ("orgs", "users")
_ADVICE = (
    "GitHub lists packages to tokens only: log in to ghcr.io with a classic token with the scope read:packages, "
    "or write the names of repositories without wildcards"
)
_SCOPE = "it needs the scope read:packages"
# A token sees the packages that it may read, without a word about the others.
_TRAITS = Traits("ghcr://", shows_absence=False)


class GitHubCatalog:
    """The packages of owners at GitHub; `api` is None without a token. `registry` has the same images without dates."""

    traits: Traits = _TRAITS

    def __init__(self, api: JsonAPI | None, registry: RegistryCatalog) -> None:
        self._api = api
        self._registry = registry
        self._owners: dict[str, str] = {}

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the owner's packages; see `Catalog.pages`. Named ones need no request."""
        host = GitHubCatalog.traits.name if self._api is None else self._api.host

        async def refuse(error: AccessDenied | NotFound) -> CredentialsRefused | None:
            return refused_list(host, f"the packages of {organization!r}", "this token", error, _SCOPE)

        fetch = partial(self._packages, organization)
        async with aclosing(organization_pages(fetch, f"{host}/{organization}", refuse, names)) as pages:
            async for page in pages:
                yield page

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        api = self._with_token()
        if not await api.exists(f"/users/{quote(organization, safe='')}"):
            return SelectionEmpty(f"{api.host} has no owner {organization!r}")

        return SelectionEmpty(f"{organization!r} at {api.host} has no container packages that this token may read")

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the tag `name` of `repository`: by one HEAD request, or by the list of versions if `dated`."""
        if not dated:
            return await self._registry.tag(repository, name, batch=batch)

        found = await self.tags(repository, name)
        return TagAnswer(next((tag for tag in found.tags if tag.name == name), None))

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the tags that `glob` matches; see `Catalog.tags`. Without a token, the registry lists them."""
        if self._api is None:
            return await self._registry.tags(repository, glob)

        return await tags_of(partial(self._versions, repository), glob, str(repository))

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names of the first tags; see `Catalog.some_tags`."""
        return await self._registry.some_tags(repository)

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return the digest tags of `repository`, by the registry; see `Catalog.digest_tags`."""
        return await self._registry.digest_tags(repository)

    async def _packages(self, owner: str, number: int) -> Batch[ListedRepository]:
        query = {"package_type": "container", "per_page": PAGE_SIZE, "page": number}
        return await self._of_owner(owner, "", partial(_parse_packages, owner=owner), query)

    async def _versions(self, repository: Repository, number: int) -> Batch[Tag]:
        owner, _, name = repository.name.partition("/")
        path, query = f"/container/{quote(name, safe='')}/versions", {"per_page": PAGE_SIZE, "page": number}
        return await self._of_owner(owner, path, _parse_versions, query)

    async def _of_owner(
        self, owner: str, path: str, parse: Callable[[Response, bytes], T], query: Mapping[str, object]
    ) -> T:
        """Return the answer about an owner, of whom only the first answer shows if it is an organization or a user."""
        api = self._with_token()
        kinds = (self._owners[owner],) if owner in self._owners else _OWNERS
        for kind in kinds:
            try:
                target = f"/{kind}/{quote(owner, safe='')}/packages{path}"
                answer = await api.get(target, parse, query, accept_any_404=True)
            except NotFound:
                if kind == kinds[-1]:
                    raise
            else:
                self._owners[owner] = kind
                return answer

        raise AssertionError("the last answer is returned or raised")

    def _with_token(self) -> JsonAPI:
        if self._api is None:
            raise CredentialsRefused(_ADVICE)

        return self._api


def _parse_packages(response: Response, body: bytes, *, owner: str) -> Batch[ListedRepository]:
    found = describe_each(read_array(response, body), partial(_listed, owner=owner))
    return Batch.of(response, found, has_more=bool(next_link(response)))


def _listed(entry: dict[str, Any], *, owner: str) -> ListedRepository | str:
    """Return a package, or the reason to reject the entry."""
    if fault := fault_of_name(owner, entry.get("name")):
        return fault

    moved, count = entry.get("updated_at"), entry.get("version_count")
    updated = parse_moment(moved)
    return ListedRepository(entry["name"], None if updated is None else make_stamp(moved, count), updated)


def _parse_versions(response: Response, body: bytes) -> Batch[Tag]:
    """Return the tags of a page of versions, most of which have none."""
    versions = read_array(response, body)
    found: list[Tag | str] = []
    for version in versions:
        if not isinstance(version, dict):
            raise Unavailable(f"{response.name}: a version that is not an object")

        start = parse_moment(version.get("updated_at")) or parse_moment(version.get("created_at"))
        for name in _names(version):
            fault = fault_of_tag(name)
            found.append(fault or Tag(str(name), parse_digest(response, version.get("name")), start))

    return Batch.of(response, found, has_more=bool(next_link(response)), skipped=len(versions))


def _names(version: dict[str, Any]) -> list[Any]:
    metadata = version.get("metadata")
    container = metadata.get("container") if isinstance(metadata, dict) else None
    names = container.get("tags") if isinstance(container, dict) else None
    return names if isinstance(names, list) else []


def _traits(_: Discovery) -> Traits:
    return _TRAITS


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    address = access.address
    puller = await access.puller(address.origin)
    registry = RegistryCatalog(await access.registry_client(address.origin), puller)
    credentials = await access.api_credentials("")
    api = None
    if credentials is not None:
        token = Secret(f"Bearer {credentials.secret.reveal()}")
        client = await access.client(Origin.of(address.api_url), Fixed(token))
        api = JsonAPI(client, request_target(address.api_url).rstrip("/"))

    yield Services(GitHubCatalog(api, registry), puller)


KIND = CatalogKind(_traits, _open)
