"""GitLab as a catalog: the repositories of a group, with its sub-groups, by the API, and tags by its registry.

docs.gitlab.com, "Container registry API". Its tags have no dates that could be relied on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from ..errors import AccessDenied, CredentialsRefused, HostUnusable, NotFound, SelectionEmpty
from ..http.authorizer import Fixed
from ..http.client import Client
from ..http.exchange import Response
from ..http.links import next_link
from ..http.origin import Origin, request_target
from ..registry.pull import RegistryPuller
from ..secret import Secret
from .base import Discovery, ListedRepository, Page, Traits
from .json_api import JsonAPI, describe_each, fault_of_name, read_array, total_of
from .kinds import CatalogKind, Services, SourceAccess
from .offsets import PAGE_SIZE, Batch, organization_pages, other_address, refused_list
from .registry.catalog import RegistryCatalog

_BATCH = 30
_PATH = "/api/v4"
_ADVICE = (
    "a personal or group access token needs the scopes read_api and read_registry; tokens of jobs and deployments "
    "can't list groups: write the names of repositories without wildcards"
)
# Projects that an account may not see are left out without a word.
_TRAITS = Traits("gitlab://", has_dates=False, batch=_BATCH, shows_absence=False)


class GitLabCatalog(RegistryCatalog):
    """The repositories and tags of the groups of one GitLab; its registry has all but the list of repositories."""

    traits: Traits = _TRAITS

    def __init__(self, api: JsonAPI, client: Client, puller: RegistryPuller, *, has_token: bool) -> None:
        super().__init__(client, puller)
        self._api = api
        self._has_token = has_token

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the group's repositories; see `Catalog.pages`. Named ones need no request."""
        path = f"/groups/{quote(organization, safe='')}/registry/repositories"
        parse = partial(_parse_page, group=organization, registry=self._client.origin)

        async def fetch(number: int) -> Batch[ListedRepository]:
            return await self._api.get(path, parse, {"page": number, "per_page": PAGE_SIZE}, accept_any_404=number == 1)

        async def refuse(error: AccessDenied | NotFound) -> CredentialsRefused | None:
            account = "this token" if self._has_token else "anonymous clients"
            return refused_list(self._api.host, f"the repositories of {organization!r}", account, error, _ADVICE)

        what = f"{self._api.host}/{organization}"
        advice = other_address("GitLab", self._api.host, organization)
        async with aclosing(organization_pages(fetch, what, refuse, names, advice)) as pages:
            async for page in pages:
                yield page

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for an empty listing; see `Catalog.explain_empty`."""
        if await self._api.exists(f"/groups/{quote(organization, safe='')}", {"with_projects": "false"}):
            return SelectionEmpty(f"the group {organization!r} at {self._api.host} has no images that are visible here")

        hint = "" if self._has_token else "; private ones need a token with the scope read_api"
        return SelectionEmpty(f"{self._api.host} has no group {organization!r} that is visible here{hint}")


def _parse_page(response: Response, body: bytes, *, group: str, registry: Origin) -> Batch[ListedRepository]:
    entries = read_array(response, body)
    living = [entry for entry in entries if not _is_deleted(entry)]
    return Batch.of(
        response,
        describe_each(living, lambda entry: _listed(entry, group, registry)),
        has_more=bool(next_link(response)),
        total=total_of(response, "X-Total"),
        skipped=len(entries) - len(living),
    )


def _is_deleted(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("status") in ("delete_scheduled", "delete_ongoing")


def _listed(entry: dict[str, Any], group: str, registry: Origin) -> ListedRepository | str:
    """Return a repository, or the reason to reject the entry.

    :raises HostUnusable: if its images are at another registry than `registry`.
    """
    path, location = entry.get("path"), entry.get("location")
    if not isinstance(path, str) or not path.lower().startswith(f"{group}/"):
        return f"{str(path)[:100]!r}, which is not in the group {group!r}"

    host = location.partition("/")[0] if isinstance(location, str) else ""
    if host and host != registry.netloc:
        raise HostUnusable(f"its images are at {host[:100]!r}, not at {registry.netloc}: add ?registry=https://HOST")

    # Names of images have no capital letters, even if those of projects have.
    name = path.lower()[len(group) + 1 :]
    return fault_of_name(group, name) or ListedRepository(name)


def _traits(_: Discovery) -> Traits:
    return _TRAITS


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    address = access.address
    credentials = await access.api_credentials("")
    # GitLab takes personal tokens as bearer tokens, too.
    token = Secret(f"Bearer {credentials.secret.reveal()}") if credentials is not None else None
    client = await access.client(Origin.of(address.api_url), Fixed(token))
    puller = await access.puller(address.origin)
    api = JsonAPI(client, request_target(address.api_url).rstrip("/") + _PATH)
    registry = await access.registry_client(address.origin)
    yield Services(GitLabCatalog(api, registry, puller, has_token=token is not None), puller)


KIND = CatalogKind(_traits, _open)
