"""The calls of Quay's REST API that a mirror needs."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from ...errors import (
    AccessDenied,
    CredentialsRefused,
    HostUnusable,
    NotFound,
    QuaymirrorError,
    ServiceError,
    Unavailable,
)
from ...http.client import Client
from ...http.dates import parse_http_date
from ...http.exchange import Request, Response
from ..base import TagAnswer
from .schema import MAX_ANSWER, ListingPage, TagPage, parse_page, parse_tags

T = TypeVar("T")


class QuayAPI:
    """API v1 of one server. `has_token` is True if the client sends a token.

    A token costs Quay fifteen times the work of an anonymous call, so tags of repositories that were listed as public
    are requested by the client `anonymous`, if it is given.

    Every method raises `QuaymirrorError` if the server gives no usable answer.
    """

    def __init__(self, client: Client, *, has_token: bool, anonymous: Client | None = None) -> None:
        self._client = client
        self._anonymous = anonymous
        self._public: set[str] = set()
        self.has_token = has_token

    async def repositories(self, organization: str, cursor: str | None) -> ListingPage:
        """Return one page of the organization's repositories, in the order of their creation.

        An unknown organization has an empty page. A `cursor` that the server no longer knows gives the first page
        again, so it must not be kept for another run.

        :raises CredentialsRefused: if the server shows no listing to anonymous clients, or to this token.
        """
        page = await self._listing(organization, cursor)
        if self._anonymous is not None:
            self._public.update(f"{organization}/{name}" for name in page.public)

        return page

    async def _listing(self, organization: str, cursor: str | None) -> ListingPage:
        path = listing_path(organization, cursor)

        def parse(answer: Response, body: bytes) -> ListingPage:
            return parse_page(body, organization, at=_time(answer))

        try:
            # A 404 that is no page of a proxy may come from a server without this API.
            return await self._get(path, parse, accept_any_404=cursor is None)
        except NotFound as error:
            await self._explain_absence(organization, error)
            return await self._get(path, parse)
        except Unavailable as error:
            if cursor is None and error.status in (200, 404):
                await self._explain_absence(organization, error)

            raise
        except AccessDenied as error:
            who = "this token" if self.has_token else "anonymous clients; --token-file would name an API token"
            message = f"the server does not show its repositories to {who}: {error.message}"
            raise CredentialsRefused(message, status=error.status) from None

    async def _explain_absence(self, organization: str, error: ServiceError) -> None:
        """Raise an error that names another kind of selection if the server is a registry; `error` is its answer."""
        origin = self._client.origin
        try:
            is_registry = await self._client.fetch_once(
                Request("/v2/", kind="api"), limit=MAX_ANSWER, parse=_is_registry
            )
        except AccessDenied as refusal:
            is_registry = refusal.status == 401
        except QuaymirrorError:
            is_registry = False

        if is_registry:
            query = "" if origin.is_secure else "?insecure=true"
            raise HostUnusable(
                f"{origin.netloc} is a registry, but answers as one without Quay's API ({error.message}): "
                f"name repositories as registry://{origin.netloc}/{organization}/REPO:TAG{query}"
            )

    async def tag(self, repository: str, tag: str, *, patient: bool = True) -> TagAnswer:
        """Return the living tag called `tag` of `repository` (with its organization); see `Catalog.tag`.

        :raises RateLimited: if the server limits us so much that the call would have to wait, unless `patient`.
        """
        found = await self._tags(repository, {"specificTag": tag, "limit": "1"}, patient=patient)
        if found.rejected:
            # Quay returns only the tag that was asked for: this may be it, and "no such tag" would have it pruned.
            raise Unavailable(f"{repository}: asked for the tag {tag}, the API has {found.rejected[0]}")

        return TagAnswer(next((candidate for candidate in found.tags if candidate.name == tag), None), found.at)

    async def tags(self, repository: str, part: str, number: int, *, patient: bool = True) -> TagPage:
        """Return page `number` (from 1) of the living tags of `repository`, newest first.

        With `part` only tags that hold this text come, and some others: the server folds case and knows wildcards.
        Tags that move between two pages may come twice, or not at all: see `matching_tags`.

        :raises RateLimited: if the server limits us so much that the call would have to wait, unless `patient`.
        """
        query = {"limit": "100", "page": str(number)}
        wanted = query | {"filter_tag_name": f"like:{part}"} if part else query
        return await self._tags(repository, wanted, patient=patient)

    async def _tags(self, repository: str, query: dict[str, str], *, patient: bool = True) -> TagPage:
        path = f"/api/v1/repository/{quote(repository)}/tag/?{urlencode({'onlyActiveTags': 'true', **query})}"
        is_public = repository in self._public
        client = self._anonymous if is_public else None
        try:
            return await self._get(
                path, lambda answer, body: parse_tags(body, at=_time(answer)), client, patient=patient
            )
        except AccessDenied as error:
            if is_public:  # not any more
                self._public.discard(repository)
                return await self._tags(repository, query, patient=patient)

            if self.has_token and error.status == 401:
                # For a valid token the status would be 403 or 404.
                raise CredentialsRefused(f"the API token is no longer accepted: {error.message}", status=401) from None

            if self.has_token and "insufficient_scope" in error.codes:
                raise error.replace(
                    f"{error.message}; the API token needs the scope repo:read, and its user the right to read this"
                ) from None

            raise

    async def find_namespace(self, name: str) -> str | None:
        """Return the kind of `name`, "organization" or "user", None if it is unknown: its listing looks the same."""
        for kind, path in (("organization", "organization"), ("user", "users")):
            # A user that does not exist is not found in other words than anything else: without an error code.
            if await self._status(f"/api/v1/{path}/{quote(name)}", accept_any_404=kind == "user") != 404:
                return kind

        return None

    async def accepts_token(self, organization: str) -> bool:
        """Return True if the token counts: Quay treats requests with an invalid one as anonymous.

        For a repository that can't exist, anonymous clients get 401, a token without rights here 403, a good one 404.
        """
        name = f"quaymirror-probe-{secrets.token_hex(8)}"
        return await self._status(f"/api/v1/repository/{quote(organization)}/{name}") in (200, 403, 404)

    async def _status(self, path: str, *, accept_any_404: bool = False) -> int | None:
        try:
            await self._get(path, lambda _, body: body, accept_any_404=accept_any_404)
        except NotFound:
            return 404
        except AccessDenied as error:
            return error.status

        return 200

    async def _get(
        self, path: str, parse: Callable[[Response, bytes], T], client: Client | None = None, **more: Any
    ) -> T:
        request = Request(path, kind="api", headers={"Accept": "application/json"}, **more)
        return await (client or self._client).fetch(request, limit=MAX_ANSWER, parse=parse)


def _is_registry(answer: Response, body: bytes) -> bool:
    return "Docker-Distribution-Api-Version" in answer.headers or body.strip() in (b"", b"{}", b"true")


def listing_path(organization: str, cursor: str | None) -> str:
    """Return path and query of one page of the listing; `cursor` is an untrusted text of the server."""
    # All parameters each time: the cursor does not include them. Without public=true an anonymous client sees nothing,
    # and one with a token only repositories that it was granted by name.
    query = {"namespace": organization, "public": "true", "last_modified": "true"}
    if cursor is not None:
        query["next_page"] = cursor

    return f"/api/v1/repository?{urlencode(query, errors='surrogatepass')}"


def _time(answer: Response) -> int | None:
    """Return the time by the server's clock, the only one that its `last_modified` can be compared with."""
    date = parse_http_date(answer.headers.get("Date"))
    return None if date is None else int(date.timestamp())
