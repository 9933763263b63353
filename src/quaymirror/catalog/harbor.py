"""Harbor as a catalog, by its API v2.0 (goharbor/harbor, `api/v2.0/swagger.yaml`)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from ..errors import AccessDenied, CredentialsRefused, NotFound, QuaymirrorError, SelectionEmpty
from ..http.authorizer import Fixed
from ..http.exchange import Response
from ..http.links import next_link
from ..http.origin import Origin, request_target
from ..oci import Digest, Repository
from .base import Discovery, ListedRepository, Page, Tag, TagAnswer, TagList, Traits
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
    read_array,
    read_object,
    time_of,
    total_of,
)
from .kinds import CatalogKind, Services, SourceAccess
from .offsets import PAGE_SIZE, Batch, organization_pages, other_address, tags_of

_PATH = "/api/v2.0"
_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})\b")
# Before, tags that were deleted or moved did not change the time of their repository (goharbor/harbor#23225).
_STAMPS_SINCE = (2, 16)
# A project that is hidden from an account is refused as a whole, so a listing shows everything.
_TRAITS = Traits("harbor://")


class HarborCatalog:
    """The repositories and tags of the projects of one Harbor. `user` is the account's name, "" for none."""

    traits: Traits = _TRAITS

    def __init__(self, api: JsonAPI, user: str = "") -> None:
        self._api = api
        self._user = user
        self._has_stamps: bool | None = None

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the project's repositories; see `Catalog.pages`. Named ones need no request."""
        path = f"/projects/{quote(organization, safe='')}/repositories"

        async def fetch(number: int) -> Batch[ListedRepository]:
            has_stamps = await self._knows_moves()
            parse = partial(_parse_repositories, organization=organization, has_stamps=has_stamps)
            query = {"page": number, "page_size": PAGE_SIZE, "sort": "creation_time"}
            return await self._api.get(path, parse, query)

        async def refuse(error: AccessDenied | NotFound) -> CredentialsRefused | None:
            # Harbor refuses projects that do not exist and those of others in the same way.
            if not await self._may_have_project(organization):
                return None

            account = f"the account {self._user}" if self._user else "anonymous clients"
            message = f"{self._api.host} does not show the project {organization!r} to {account}: {error.message}"
            return CredentialsRefused(message, status=error.status)

        what = f"{self._api.host}/{organization}"
        advice = other_address("Harbor", self._api.host, organization)
        async with aclosing(organization_pages(fetch, what, refuse, names, advice)) as pages:
            async for page in pages:
                yield page

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        if await self._may_have_project(organization):
            return SelectionEmpty(f"the project {organization!r} at {self._api.host} has no repositories")

        return SelectionEmpty(f"{self._api.host} has no project {organization!r}")

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the tag `name` of `repository`, by one request; see `Catalog.tag`."""
        try:
            return await self._api.get(
                f"{_artifacts(repository)}/{quote(name, safe='')}",
                lambda response, body: _parse_answer(response, body, name),
                {"with_tag": "true"},
            )
        except NotFound:
            # The answer is the same for a repository that does not exist.
            at = await self._api.get(_path(repository), lambda response, _: time_of(response))
            return TagAnswer(None, at)

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the tags that `glob` matches; see `Catalog.tags`."""
        return await tags_of(partial(self._tag_page, repository), glob, str(repository))

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names of the first tags; see `Catalog.some_tags`."""
        return [tag.name for tag in (await self._tag_page(repository, 1)).entries]

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return None: lists of artifacts lack the signatures that Harbor knows; see `Catalog.digest_tags`."""
        return None

    async def _tag_page(self, repository: Repository, number: int) -> Batch[Tag]:
        query = {"with_tag": "true", "q": "tags=*", "sort": "push_time", "page": number, "page_size": PAGE_SIZE}
        return await self._api.get(_artifacts(repository), _parse_artifacts, query)

    async def _may_have_project(self, name: str) -> bool:
        try:
            return await self._api.exists("/projects", {"project_name": name}, method="HEAD")
        except AccessDenied:
            return True

    async def _knows_moves(self) -> bool:
        """Return True if the time of a repository changes whenever one of its tags does, which its version shows."""
        if self._has_stamps is None:
            try:
                version = await self._api.get("/systeminfo", lambda *answer: read_object(*answer).get("harbor_version"))
            except QuaymirrorError:
                version = None  # every tag is checked then

            found = _VERSION.match(version) if isinstance(version, str) else None
            self._has_stamps = found is not None and (int(found[1]), int(found[2])) >= _STAMPS_SINCE

        return self._has_stamps


def _path(repository: Repository) -> str:
    project, _, name = repository.name.partition("/")
    # A slash is escaped twice: Harbor's router unescapes the path once before it looks for slashes.
    return f"/projects/{quote(project, safe='')}/repositories/{quote(quote(name, safe=''), safe='')}"


def _artifacts(repository: Repository) -> str:
    return f"{_path(repository)}/artifacts"


def _parse_repositories(
    response: Response, body: bytes, *, organization: str, has_stamps: bool
) -> Batch[ListedRepository]:
    describe = partial(_repository, organization=organization, has_stamps=has_stamps)
    return Batch.of(
        response,
        describe_each(read_array(response, body), describe),
        has_more=bool(next_link(response)),
        total=total_of(response, "X-Total-Count"),
    )


def _repository(entry: dict[str, Any], *, organization: str, has_stamps: bool) -> ListedRepository | str:
    """Return a repository, or the reason to reject the entry."""
    full, count = entry.get("name"), entry.get("artifact_count")
    if not isinstance(full, str) or not full.startswith(f"{organization}/"):
        return f"{str(full)[:100]!r}, which is not in the project {organization!r}"

    name = full.removeprefix(f"{organization}/")
    if fault := fault_of_name(organization, name):
        return fault

    moved = entry.get("update_time")
    updated = parse_moment(moved)
    if not has_stamps or updated is None:
        return ListedRepository(name, has_tags=count != 0)

    return ListedRepository(name, make_stamp(moved, count), updated, has_tags=count != 0)


def _parse_answer(response: Response, body: bytes, name: str) -> TagAnswer:
    artifact = read_object(response, body)
    tag = next((tag for tag in _tags_of(response, artifact) if isinstance(tag, Tag) and tag.name == name), None)
    return TagAnswer(tag, time_of(response))


def _parse_artifacts(response: Response, body: bytes) -> Batch[Tag]:
    artifacts = read_array(response, body)
    found = [tag for artifact in artifacts for tag in _tags_of(response, artifact)]
    return Batch.of(
        response,
        found,
        has_more=bool(next_link(response)),
        total=total_of(response, "X-Total-Count"),
        skipped=len(artifacts),
    )


def _tags_of(response: Response, artifact: Any) -> list[Tag | str]:
    """Return the tags of an artifact, and the reasons to reject some."""
    if not isinstance(artifact, dict):
        return ["an artifact that is not an object"]

    digest = parse_digest(response, artifact.get("digest"))
    is_index = is_index_type(artifact.get("manifest_media_type"))
    size = None if is_index else parse_size(artifact.get("size"))
    tags: list[Tag | str] = []
    for entry in checked_entries(response, artifact.get("tags")):
        name = entry.get("name") if isinstance(entry, dict) else None
        if fault := fault_of_tag(name):
            tags.append(fault)
        else:
            tags.append(Tag(str(name), digest, parse_moment(entry.get("push_time")), size, is_index=is_index))

    return tags


def _traits(_: Discovery) -> Traits:
    return _TRAITS


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    origin = Origin.of(access.address.api_url)
    credentials = await access.api_credentials("")
    client = await access.client(origin, Fixed(credentials.basic() if credentials is not None else None))
    prefix = request_target(access.address.api_url).rstrip("/")
    user = credentials.username if credentials is not None else ""
    yield Services(HarborCatalog(JsonAPI(client, prefix + _PATH), user), await access.puller(access.address.origin))


KIND = CatalogKind(_traits, _open)
