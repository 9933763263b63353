"""Docker Hub as a catalog (docs.docker.com, "Docker Hub API" and "Docker Hub usage and limits").

Its API finds tags and their digests without pulls. Pulls, each a GET of a manifest, are limited per time window.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from urllib.parse import quote

from ..auth.session import SessionAuth
from ..errors import AccessDenied, CredentialsRefused, NotFound, SelectionEmpty, Unavailable
from ..http.authorizer import Authorizer, Fixed
from ..http.budget import PullBudget
from ..http.client import Client
from ..http.exchange import Request, Response
from ..http.links import checked_next
from ..http.origin import Origin, request_target
from ..oci import Digest, Repository
from ..oci.digest_tags import PATTERN, is_digest_tag
from ..secret import Credentials, Secret
from ..tasks import run_all
from .base import Discovery, ListedRepository, Page, Tag, TagAnswer, TagList, TagResolver, Traits
from .json_api import (
    JsonAPI,
    checked_entries,
    describe_each,
    fault_of_name,
    fault_of_tag,
    is_index_type,
    make_stamp,
    parse_digest,
    parse_moment,
    parse_size,
    read_object,
    time_of,
)
from .kinds import CatalogKind, Services, SourceAccess
from .offsets import PAGE_SIZE, Batch, organization_pages, refused_list, tags_of

_TOKEN_SECONDS = 600.0
_MAX_TOKEN_ANSWER = 64 * 1024
# A token without the right to list shows the public repositories only, without saying so.
_TRAITS = Traits("hub://", shows_absence=False)


class HubCatalog:
    """The repositories and tags of the namespaces of Docker Hub. `registry` resolves tags without a digest."""

    traits: Traits = _TRAITS

    def __init__(self, api: JsonAPI, registry: TagResolver, *, has_login: bool) -> None:
        self._api = api
        self._registry = registry
        self._has_login = has_login

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the namespace's repositories; see `Catalog.pages`. Named ones need no request."""

        async def fetch(number: int) -> Batch[ListedRepository]:
            query = {"page": number, "page_size": PAGE_SIZE, "ordering": "name"}
            parse = partial(_parse_repositories, organization=organization)
            return await self._api.get(_namespace(organization), parse, query, accept_any_404=number == 1)

        async def refuse(error: AccessDenied | NotFound) -> CredentialsRefused | None:
            account = "this account" if self._has_login else "anonymous clients"
            return refused_list(self._api.host, f"the repositories of {organization!r}", account, error)

        what = f"{self._api.host}/{organization}"
        async with aclosing(organization_pages(fetch, what, refuse, names)) as pages:
            async for page in pages:
                yield page

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        hint = "this token may lack the right to list them" if self._has_login else "private ones need a login"
        return SelectionEmpty(
            f"{self._api.host} has no namespace {organization!r}, or shows no repositories of it: {hint}"
        )

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the tag `name` of `repository`, by one request, which is no pull; see `Catalog.tag`."""
        path = f"{_repository(repository)}/tags/{quote(name, safe='')}"
        try:
            answer = await self._api.get(path, partial(_parse_answer, name=name), accept_any_404=True)
        except NotFound:
            # The answer is the same for a repository that does not exist.
            at = await self._api.get(_repository(repository), lambda answer, _: time_of(answer), accept_any_404=True)
            return TagAnswer(None, at)

        return answer or await self._resolved(repository, name)

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the tags that `glob` matches; see `Catalog.tags`."""
        return await tags_of(partial(self._tag_page, repository, glob), glob, str(repository))

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names of the first tags; see `Catalog.some_tags`."""
        batch, unresolved = await self._listed_tags(repository, 1)
        return [*(tag.name for tag in batch.entries), *unresolved]

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return the digest tags of `repository`; see `Catalog.digest_tags`."""
        found = await self.tags(repository, PATTERN)
        return {tag.name: tag.digest for tag in found.tags if is_digest_tag(tag.name)}

    async def _listed_tags(self, repository: Repository, number: int) -> tuple[Batch[Tag], list[str]]:
        """Return a page of tags, and the names of those without a digest."""
        path, query = f"{_repository(repository)}/tags", {"page": number, "page_size": PAGE_SIZE, "ordering": "name"}
        return await self._api.get(path, _parse_tags, query, accept_any_404=number == 1)

    async def _tag_page(self, repository: Repository, glob: str, number: int) -> Batch[Tag]:
        batch, unresolved = await self._listed_tags(repository, number)
        resolved: dict[str, Tag | None] = {name: None for name in unresolved if fnmatchcase(name, glob)}

        async def resolve(name: str) -> None:
            resolved[name] = (await self._resolved(repository, name)).tag

        await run_all(partial(resolve, name) for name in resolved)
        return replace(batch, entries=batch.entries + tuple(tag for tag in resolved.values() if tag is not None))

    async def _resolved(self, repository: Repository, name: str) -> TagAnswer:
        """Return a tag by HEAD: some old ones have no digest in the API."""
        digest, at = await self._registry.resolve(repository, name)
        return TagAnswer(None if digest is None else Tag(name, digest), at)


async def log_in(client: Client, credentials: Credentials) -> Secret:
    """Return a token for the API, which is valid for 10 minutes.

    :raises CredentialsRefused: if Docker Hub rejects the credentials.
    """
    document = {"identifier": credentials.username, "secret": credentials.secret.reveal()}
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = Request(
        "/v2/auth/token", kind="token", method="POST", headers=headers, body=json.dumps(document).encode()
    )

    def parse(response: Response, body: bytes) -> Secret:
        token = read_object(response, body).get("access_token")
        if not isinstance(token, str) or not token:
            raise Unavailable(f"{response.name}: a login without a token")

        return Secret(token)

    try:
        return await client.fetch_once(request, limit=_MAX_TOKEN_ANSWER, parse=parse)
    except AccessDenied as error:
        raise CredentialsRefused(f"{client.origin.netloc} rejects {credentials}", status=error.status) from None


def _namespace(name: str) -> str:
    return f"/v2/namespaces/{quote(name, safe='')}/repositories"


def _repository(repository: Repository) -> str:
    namespace, _, name = repository.name.partition("/")
    return f"{_namespace(namespace)}/{quote(name, safe='')}"


def _page(response: Response, body: bytes) -> tuple[list[Any], int | None, bool]:
    """Return the entries of a page, the number of all entries, and True if another page follows."""
    document = read_object(response, body)
    following, count = document.get("next"), document.get("count")
    if following is not None and (not isinstance(following, str) or not checked_next(response, following)):
        raise Unavailable(f"{response.name}: the link to the next page can't be followed: not a URL")

    total = count if type(count) is int and count >= 0 else None
    if "results" not in document:
        raise Unavailable(f"{response.name}: the answer is not a list of results")

    return checked_entries(response, document["results"]), total, following is not None


def _parse_repositories(response: Response, body: bytes, *, organization: str) -> Batch[ListedRepository]:
    entries, total, has_more = _page(response, body)
    found = describe_each(entries, partial(_listed, organization=organization))
    return Batch.of(response, found, has_more=has_more, total=total)


def _listed(entry: dict[str, Any], *, organization: str) -> ListedRepository | str:
    """Return a repository, or the reason to reject the entry."""
    name = entry.get("name")
    if fault := fault_of_name(organization, name):
        return fault

    if entry.get("namespace", organization) != organization:
        return f"{name!r} of another namespace, {str(entry['namespace'])[:100]!r}"

    updated = parse_moment(moved := entry.get("last_updated"))
    return ListedRepository(str(name), None if updated is None else make_stamp(moved), updated)


def _parse_answer(response: Response, body: bytes, *, name: str) -> TagAnswer | None:
    """Return a tag, None if the API does not know its digest."""
    document = read_object(response, body)
    if document.get("name") != name:
        raise Unavailable(f"{response.name}: the answer is about another tag")

    return TagAnswer(_tag(response, document, name), time_of(response)) if document.get("digest") else None


def _parse_tags(response: Response, body: bytes) -> tuple[Batch[Tag], list[str]]:
    """Return a page of tags, and the names of those without a digest."""
    entries, total, has_more = _page(response, body)
    tags: list[Tag] = []
    rejected: list[str] = []
    unresolved: list[str] = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if fault := fault_of_tag(name):
            rejected.append(fault)
        elif entry.get("digest"):
            tags.append(_tag(response, entry, str(name)))
        else:
            unresolved.append(str(name))

    return Batch(tuple(tags), tuple(rejected), has_more, total, skipped=len(unresolved)), unresolved


def _tag(response: Response, entry: dict[str, Any], name: str) -> Tag:
    is_index = is_index_type(entry.get("media_type"))
    start = parse_moment(entry.get("tag_last_pushed")) or parse_moment(entry.get("last_updated"))
    size = None if is_index else parse_size(entry.get("full_size"))
    return Tag(name, parse_digest(response, entry["digest"]), start, size, is_index=is_index)


def _traits(_: Discovery) -> Traits:
    return _TRAITS


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    origin = Origin.of(access.address.api_url)
    credentials = await access.api_credentials("")
    authorizer: Authorizer = Fixed()
    if credentials is not None:
        login = partial(log_in, await access.client(origin, Fixed()), credentials)
        authorizer = SessionAuth(login, lifetime=_TOKEN_SECONDS, clock=access.clock)

    prefix = request_target(access.address.api_url).rstrip("/")
    api = JsonAPI(await access.client(origin, authorizer), prefix)
    budget = PullBudget("" if credentials is not None else "; accounts have a larger limit: docker login")
    puller = await access.puller(access.address.origin, budget)
    yield Services(HubCatalog(api, puller, has_login=credentials is not None), puller)


KIND = CatalogKind(_traits, _open)
