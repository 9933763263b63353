"""Which digest a tag has, found out in the cheapest way that is allowed.

Quay's API knows since when a tag is where it is and leaves no trace, but may answer few calls a second (5 by Quay's own
templates, over HTTP/1.1). Its registry then answers ten times as many, but knows only the digest, and logs each as a
pull. So the API is asked first, and the registry as soon as the API has enough of us: few tags, and a Quay without
limits, never see a pull.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from ..errors import AccessDenied, ConfigError, NotFound, RateLimited, Scope, UnsupportedContent
from ..events import CandidateSkipped
from ..oci import Digest, Reference, Repository
from .api import QuayAPI
from .selection import Selection

# Quay's token for that many repositories still fits into a header: 80 would not.
_TOKEN_BATCH = 30


class Discovery(Enum):
    """Whom to ask which digest a tag has: the API until that is too much for it, or always one of them."""

    AUTO = "auto"
    API = "api"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A repository whose name matched; `last_modified` as in the listing.

    `batch` are repositories that share a token with it where the registry needs one.
    """

    repository: Repository
    last_modified: int | None = None
    batch: tuple[Repository, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was found: its reference pinned to a digest, and what the API said of it.

    `updated` is the POSIX time since when the tag points there, `size` the compressed layers in bytes. Either is None
    where the registry was asked; `size` also for an index.
    """

    reference: Reference
    updated: int | None = None
    size: int | None = None


class TagChecker(Protocol):
    """A way to find out what a tag means."""

    async def check(self, candidate: Candidate, selection: Selection) -> Image | CandidateSkipped:
        """Return the image that `selection` means in `candidate`, or why there is none.

        :raises CredentialsRefused: when our token is not accepted any more.
        :raises QuaymirrorError: when there is no usable answer.
        """


class Tags(Protocol):
    """The registry, as far as discovery needs it."""

    async def resolve(self, repository: Repository, tag: str, *, beside: Sequence[Repository] = ()) -> Digest | None:
        """Return what `tag` means, None if there is no such tag; a token for it should do for those `beside`, too.

        :raises AccessDenied: when the repository is gone or not for us.
        :raises UnsupportedContent: when the registry does not say.
        :raises QuaymirrorError: when there is no usable answer.
        """


class APIChecker:
    """Asks Quay's API. Unless `patient`, it raises RateLimited when that does not want to be asked so much."""

    def __init__(self, api: QuayAPI, *, patient: bool = True) -> None:
        self._api = api
        self._patient = patient

    async def check(self, candidate: Candidate, selection: Selection) -> Image | CandidateSkipped:
        """Return the image that `selection` means in `candidate`; see `TagChecker.check`."""
        name = candidate.repository.name
        try:
            tag = await self._api.tag(name, selection.tag, patient=self._patient)
        except NotFound:
            return CandidateSkipped(name, "gone since it was listed")
        except AccessDenied as error:
            if error.status != 401:
                raise

            # Quay hides what is gone from the anonymous as it hides what is private.
            return CandidateSkipped(name, "gone or private since it was listed")

        if tag is None:
            return CandidateSkipped(name, "no such tag")

        if selection.since is not None and is_older(tag.start, selection.since):
            return CandidateSkipped(name, "not updated since")

        return Image(Reference(candidate.repository, tag.name, tag.digest), tag.start, tag.size)


class RegistryChecker:
    """Asks the registry, and where that does not tell, `otherwise`."""

    def __init__(self, tags: Tags, otherwise: TagChecker) -> None:
        self._tags = tags
        self._otherwise = otherwise

    async def check(self, candidate: Candidate, selection: Selection) -> Image | CandidateSkipped:
        """Return the image that `selection` means in `candidate`; see `TagChecker.check`."""
        repository = candidate.repository
        try:
            digest = await self._tags.resolve(repository, selection.tag, beside=candidate.batch)
        except (AccessDenied, UnsupportedContent):
            # The API knows better what is gone, what is private, and what the tag means.
            return await self._otherwise.check(candidate, selection)

        if digest is None:
            return CandidateSkipped(repository.name, "no such tag")

        return Image(Reference(repository, selection.tag, digest))


class CheapestChecker:
    """Asks the API as long as that lets it, then the registry."""

    def __init__(self, api: TagChecker, registry: TagChecker) -> None:
        self._api = api
        self._registry = registry

    async def check(self, candidate: Candidate, selection: Selection) -> Image | CandidateSkipped:
        """Return the image that `selection` means in `candidate`; see `TagChecker.check`."""
        try:
            return await self._api.check(candidate, selection)
        except RateLimited as error:
            if error.scope is Scope.RUN:
                raise

        return await self._registry.check(candidate, selection)


def refuse_impossible(discovery: Discovery, selection: Selection) -> None:
    """Refuse what can't be found out.

    :raises ConfigError: when the registry is to be asked for what it does not know: since when a tag is where it is.
    """
    if selection.since is not None and discovery is Discovery.REGISTRY:
        raise ConfigError("--since needs Quay's API: --discovery registry can't tell when a tag was updated")


def make_checker(discovery: Discovery, selection: Selection, api: QuayAPI, tags: Tags) -> TagChecker:
    """Return the way of `discovery` to check the tags of `selection`."""
    by_api, by_registry = APIChecker(api), RegistryChecker(tags, APIChecker(api))
    if selection.since is not None or discovery is Discovery.API:
        return by_api

    if discovery is Discovery.REGISTRY:
        return by_registry

    return CheapestChecker(APIChecker(api, patient=False), by_registry)


def batched(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Iterate over `candidates`, told with which others each may share a token."""
    for start in range(0, len(candidates), _TOKEN_BATCH):
        several = candidates[start : start + _TOKEN_BATCH]
        batch = tuple(candidate.repository for candidate in several)
        yield from (replace(candidate, batch=batch) for candidate in several)


def is_older(moment: int | None, since: datetime) -> bool:
    """Tell whether `moment` (POSIX time) is before `since`; what is not known is not."""
    return moment is not None and moment < since.timestamp()
