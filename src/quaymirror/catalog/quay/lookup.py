"""Which digest a tag has, found out in the cheapest way that is allowed.

Quay's API knows since when a tag is where it is and leaves no trace, but may answer few calls a second (5 by Quay's own
templates, over HTTP/1.1). Its registry then answers ten times as many, but knows only the digest, and logs each as a
pull. So the API is asked first, and the registry as soon as the API has enough of us: few tags, and a Quay without
limits, never see a pull.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...errors import AccessDenied, ConfigError, RateLimited, Scope, UnsupportedContent
from ...oci import Digest, Repository
from ...selection.grammar import is_pattern
from ...selection.selection import Selection
from .api import QuayAPI
from .mode import Discovery
from .schema import Tag

# Quay's token for that many repositories still fits into a header: 80 would not.
TOKEN_BATCH = 30

Answer = tuple[Tag | None, int | None]
"""A tag, None where there is none, and the server's own time (POSIX) when it said so, None where it has no clock."""


class TagLookup(Protocol):
    """A way to find out what a tag means."""

    async def tag(self, repository: Repository, name: str, *, beside: Sequence[Repository] = ()) -> Answer:
        """Return the living tag `name` of `repository`; those `beside` are going to be asked about, too.

        :raises NotFound, AccessDenied: when the repository is gone or not for us.
        :raises CredentialsRefused: when our token is not accepted any more.
        :raises QuaymirrorError: when there is no usable answer.
        """


class Tags(Protocol):
    """The registry, as far as discovery needs it."""

    async def resolve(
        self, repository: Repository, tag: str, *, beside: Sequence[Repository] = ()
    ) -> tuple[Digest | None, int | None]:
        """Return what `tag` means, None if there is no such tag, and when; a token for it does for those `beside`, too.

        :raises AccessDenied: when the repository is gone or not for us.
        :raises UnsupportedContent: when the registry does not say.
        :raises QuaymirrorError: when there is no usable answer.
        """


class APILookup:
    """Asks Quay's API. Unless `patient`, it raises RateLimited when that does not want to be asked so much."""

    def __init__(self, api: QuayAPI, *, patient: bool = True) -> None:
        self._api = api
        self._patient = patient

    async def tag(self, repository: Repository, name: str, *, beside: Sequence[Repository] = ()) -> Answer:
        """Return the living tag `name` of `repository`; see `TagLookup.tag`."""
        return await self._api.tag(repository.name, name, patient=self._patient)


class RegistryLookup:
    """Asks the registry, and where that does not tell, `otherwise`."""

    def __init__(self, tags: Tags, otherwise: TagLookup) -> None:
        self._tags = tags
        self._otherwise = otherwise

    async def tag(self, repository: Repository, name: str, *, beside: Sequence[Repository] = ()) -> Answer:
        """Return the living tag `name` of `repository`; see `TagLookup.tag`."""
        try:
            digest, at = await self._tags.resolve(repository, name, beside=beside)
        except (AccessDenied, UnsupportedContent):
            # The API knows better what is gone, what is private, and what the tag means.
            return await self._otherwise.tag(repository, name)

        return None if digest is None else Tag(name, digest, None, None), at


class CheapestLookup:
    """Asks the API as long as that lets it, then the registry."""

    def __init__(self, api: TagLookup, registry: TagLookup) -> None:
        self._api = api
        self._registry = registry

    async def tag(self, repository: Repository, name: str, *, beside: Sequence[Repository] = ()) -> Answer:
        """Return the living tag `name` of `repository`; see `TagLookup.tag`."""
        try:
            return await self._api.tag(repository, name)
        except RateLimited as error:
            if error.scope is Scope.RUN:
                raise

        return await self._registry.tag(repository, name, beside=beside)


def refuse_impossible(discovery: Discovery, selection: Selection) -> None:
    """Refuse what can't be found out.

    :raises ConfigError: when the registry is to be asked for what it does not know: since when a tag is where it is, or
        which tags there are.
    """
    if discovery is not Discovery.REGISTRY:
        return

    if selection.since is not None:
        raise ConfigError("--since needs Quay's API: --discovery registry can't tell when a tag was updated")

    if any(is_pattern(tag) for tag in selection.tags):
        raise ConfigError("a glob for tags needs Quay's API: leave out --discovery registry")


def make_lookup(discovery: Discovery, selection: Selection, api: QuayAPI, tags: Tags) -> TagLookup:
    """Return the way of `discovery` to look up the tags of `selection`."""
    by_api, by_registry = APILookup(api), RegistryLookup(tags, APILookup(api))
    if selection.since is not None or discovery is Discovery.API:
        return by_api

    if discovery is Discovery.REGISTRY:
        return by_registry

    return CheapestLookup(APILookup(api, patient=False), by_registry)
