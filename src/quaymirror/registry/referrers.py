"""The referrers API of a registry (OCI distribution-spec 1.1, "Listing Referrers").

Registries without it answer in many ways: 404 with a page, 405, a redirect to a page, or 200 with one. So does a proxy
while the registry is away, and then an image has referrers all the same: only a registry that gives this answer again,
after one about a manifest, has no such API. A 404 or 400 with an error of the specification is about the repository or
the digest, and says nothing about the API.
"""

from __future__ import annotations

from contextlib import suppress

import anyio

from ..errors import InvalidName, NotFound, ServiceError, Unavailable, UnsafeRedirect, UnsupportedContent
from ..http.answers import distortion
from ..http.client import Client
from ..http.exchange import Request, Response
from ..http.links import next_link
from ..http.origin import request_target
from ..oci import Descriptor, Digest, Repository, mediatype
from ..oci.descriptor import MEANINGFUL
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass

MAX_REFERRERS = 10_000
"""The most referrers of one manifest that are read."""
_MAX_ANSWER = 8 * 1024 * 1024
_MAX_PAGES = 1_000
_UNKNOWN = frozenset({"MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "TAG_EXPIRED"})


@dataclass(frozen=True, slots=True)
class _Page:
    entries: tuple[Descriptor, ...]
    next: str = ""


_NOTHING = _Page(())


class _NoAPI(ServiceError):
    """The answer is not one of the referrers API."""


class ReferrersAPI:
    """The referrers API of the registry that `client` requests from; whether it exists is found out once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._is_missing = False
        self._has_answered = False
        self._doubts = anyio.Lock()

    async def list(self, repository: Repository, subject: Digest) -> tuple[Descriptor, ...] | None:
        """Return the descriptors of the referrers of `subject`, each once; None if the registry has no such API.

        :raises Unavailable: if the list has no end, or leads elsewhere.
        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        first = f"/v2/{repository.name}/referrers/{subject}"
        found: dict[Digest, Descriptor] = {}
        target, seen = first, set[str]()
        while target:
            seen.add(target)
            is_first = target == first
            page = await (self._first(repository, subject, first) if is_first else self._get(repository, target))
            if page is None:
                return None

            if page is _NOTHING and len(seen) > 1:
                raise Unavailable(f"{repository}@{subject}: the next page of its referrers does not exist")

            found |= {entry.digest: entry for entry in page.entries}
            target = page.next
            if target in seen or len(seen) >= _MAX_PAGES or len(found) > MAX_REFERRERS:
                raise Unavailable(f"{repository}@{subject}: the list of its referrers does not end")

        return tuple(found.values())

    async def _first(self, repository: Repository, subject: Digest, target: str) -> _Page | None:
        """Return the first page of a list; None if the registry has no such API."""
        if self._is_missing:
            return None

        try:
            return await self._get(repository, target)
        except (_NoAPI, UnsafeRedirect):
            async with self._doubts:
                return await self._first_again(repository, subject, target)

    async def _first_again(self, repository: Repository, subject: Digest, target: str) -> _Page | None:
        """Return the first page of a list after an answer that did not come from the API; see `_first`."""
        if self._is_missing:
            return None

        await self._ask_for_manifest(repository, subject)
        try:
            return await self._get(repository, target)
        except (_NoAPI, UnsafeRedirect):
            if self._has_answered:
                raise

            self._is_missing = True
            return None

    async def _ask_for_manifest(self, repository: Repository, digest: Digest) -> None:
        """Ask for a manifest, so that its registry, and no proxy in front of it, has to answer."""
        request = Request(
            f"/v2/{repository.name}/manifests/{digest}",
            kind="manifests",
            method="HEAD",
            headers={"Accept": mediatype.ACCEPT},
            scope=f"repository:{repository.name}:pull",
        )

        def parse(response: Response, _: bytes) -> None:
            if cause := distortion(response):
                raise Unavailable(f"{response.name}: {cause}", status=response.status)

        with suppress(NotFound):  # that is an answer of the registry, too
            await self._client.fetch(request, limit=0, parse=parse)

    async def _get(self, repository: Repository, target: str) -> _Page:
        request = Request(
            target,
            kind="manifests",
            headers={"Accept": mediatype.OCI_INDEX},
            scope=f"repository:{repository.name}:pull",
            name=f"{self._client.origin.netloc}/v2/{repository.name}/referrers",
            accept_any_404=not self._has_answered,
        )
        try:
            page = await self._client.fetch(request, limit=_MAX_ANSWER, parse=self._parse)
        except NotFound as error:
            if error.codes & _UNKNOWN:
                return _NOTHING

            raise _NoAPI(error.message, status=error.status) from None
        except ServiceError as error:
            if error.status == 400 and error.codes & _UNKNOWN:
                return _NOTHING  # Quay, for a digest that it does not have

            if error.status in (400, 405, 406, 501):
                raise _NoAPI(error.message, status=error.status) from None

            raise

        self._has_answered = True
        return page

    def _parse(self, response: Response, body: bytes) -> _Page:
        if mediatype.essence(response.headers.get("Content-Type")) != mediatype.OCI_INDEX:
            kind = Unavailable if self._has_answered else _NoAPI
            raise kind(f"{response.name}: the answer is not an index of referrers", status=response.status)

        return _Page(parse_list(body, response.name), self._next(response))

    def _next(self, response: Response) -> str:
        target = next_link(response)
        if target and target.partition("?")[0] != request_target(response.url).partition("?")[0]:
            raise Unavailable(f"{response.name}: the link to the next page leads to another list: not followed")

        return target


def parse_list(body: bytes, name: str) -> tuple[Descriptor, ...]:
    """Return the descriptors of a list of referrers that `name` sent, without the malformed ones.

    :raises Unavailable: if it is not a list.
    """
    try:
        entries = parse_object(body, limit=_MAX_ANSWER, unique=MEANINGFUL).get("manifests")
    except InvalidDocument as error:
        raise Unavailable(f"{name}: the list of referrers {error}") from None

    if not isinstance(entries, list | None):
        raise Unavailable(f"{name}: the list of referrers is malformed")

    return tuple(entry for each in entries or () if (entry := _descriptor(each)) is not None)


def _descriptor(entry: object) -> Descriptor | None:
    try:
        found = Descriptor.parse(entry, where="a referrer")
    except (UnsupportedContent, InvalidName):
        return None

    return found if found.is_manifest else None
