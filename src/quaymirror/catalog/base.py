"""Catalogs: the repositories and tags of a source, behind one protocol for every kind of API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol, runtime_checkable

from ..errors import SelectionEmpty
from ..oci import Digest, Reference, Repository
from ..selection.selection import LockedReferrer
from ..selection.source import SourceAddress
from ..values import dataclass

MOST_REPOSITORIES = 200_000
"""Repositories of a listing that is taken for endless if it has more; the default of an option."""


class Discovery(Enum):
    """The service that resolves tags: the API until it limits the rate, then the registry (`AUTO`), or always one."""

    AUTO = "auto"
    API = "api"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """One repository of a listing. `name` has no organization.

    `registry` is the host of its images in references, "" for that of the catalog.

    `stamp` is an opaque number that changes whenever a tag moves, None if unknown. `updated` is the POSIX time since
    when the newest tag points where it does, None if unknown. `has_tags` is False if the catalog knows that no tag is
    alive.
    """

    name: str
    stamp: int | None = None
    updated: int | None = None
    has_tags: bool = True
    registry: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing. `rejected` describes invalid entries; `cursor` identifies the next page, None on the last.

    `at` is the time of the answer by the server's clock (POSIX), None if it has none.
    """

    repositories: tuple[ListedRepository, ...]
    rejected: tuple[str, ...] = ()
    cursor: str | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Tag:
    """A living tag. `size` is in bytes, None for an index or if unknown.

    `start` and `expires` are POSIX times, None if unknown, or if it never expires. `is_index` is None if unknown; an
    index `is_sparse` if the source declares that it has only some of the children.
    """

    name: str
    digest: Digest
    start: int | None = None
    size: int | None = None
    expires: int | None = None
    is_index: bool | None = None
    is_sparse: bool = False


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """A tag, None if it does not exist, and the server's time of the answer (POSIX), None if it has no clock."""

    tag: Tag | None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class TagList:
    """Tags of one repository, each once; `rejected` describes invalid entries."""

    tags: tuple[Tag, ...]
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinnedImage:
    """An image that was found: a reference with tag and digest, and its description in the catalog.

    `updated` is the POSIX time since when the tag points there, `size` the size of its compressed layers in bytes.
    Either is None if the catalog does not know it; `size` also for an index. `source` is where it was found, None for
    the Quay server of the options. `is_index` and `is_sparse` are as in `Tag`. `listed` is its repository in a listing,
    `listed_at` the time of that by the server's clock. `referrers` are exactly those to mirror, None if they have to be
    found.

    :raises ValueError: if the reference has no digest.
    """

    reference: Reference
    updated: int | None = None
    size: int | None = None
    source: SourceAddress | None = None
    is_index: bool | None = None
    is_sparse: bool = False
    listed: ListedRepository | None = None
    listed_at: int | None = None
    referrers: tuple[LockedReferrer, ...] | None = None

    def __post_init__(self) -> None:
        if self.reference.digest is None:
            raise ValueError(f"{self.reference} is not pinned to a digest")

    @property
    def digest(self) -> Digest:
        """The digest of its manifest or index."""
        assert self.reference.digest is not None
        return self.reference.digest


@dataclass(frozen=True, slots=True)
class Traits:
    """Capabilities of a catalog; messages call it `name`.

    `has_dates`: tags have the time of their last update. `lists_tags`: tags can be found by globs. `batch` is the
    number of repositories whose tags are best looked up together. `shows_absence`: an image that is not listed does not
    exist any more. `hides_private`: it answers private repositories like deleted ones.
    """

    name: str
    has_dates: bool = True
    lists_tags: bool = True
    batch: int = 1
    shows_absence: bool = True
    hides_private: bool = False


class Catalog(Protocol):
    """The listing of one source. Every method raises `QuaymirrorError` if the source gives no usable answer."""

    @property
    def traits(self) -> Traits:
        """The capabilities of this catalog."""

    def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over the pages of the organization's repositories; each request waits until its page is asked for.

        If `names` are given, only these repositories are wanted: a catalog may name them without a listing.

        :raises CredentialsRefused: if the server rejects the credentials, or does not show its repositories to us.
        """

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for the empty listing of `organization`, with the reason."""

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the living tag `name` of `repository`; the repositories of `batch` are looked up soon, too.

        If `dated`, the answer has to come from where the time of the tag is known.

        :raises NotFound, AccessDenied: if the repository was deleted, or is private, as far as the catalog knows it.
        :raises CredentialsRefused: if our credentials are no longer accepted.
        """

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the living tags of `repository` that `glob` matches.

        :raises NotFound, AccessDenied, CredentialsRefused: as `tag`.
        """

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names of the living tags of `repository` that one request gives.

        :raises NotFound, AccessDenied, CredentialsRefused: as `tag`.
        """

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return the tags of `repository` that name digests, such as `sha256-<hex>.sig`.

        A digest is None if it has to be resolved. None for all if the source can't list tags.

        :raises NotFound, AccessDenied, CredentialsRefused: as `tag`.
        """


@dataclass(frozen=True, slots=True)
class NewestTags:
    """The newest living tags of a repository, all of them if `is_complete`. `at` is as in `TagAnswer`."""

    tags: tuple[Tag, ...]
    is_complete: bool
    at: int | None = None


@runtime_checkable
class ListsNewest(Protocol):
    """A catalog where one request gives many tags of a repository, with everything that `Catalog.tag` gives."""

    async def newest_tags(self, repository: Repository) -> NewestTags | None:
        """Return the newest tags of `repository`, None if they are better looked up one by one.

        :raises NotFound, AccessDenied, CredentialsRefused: as `Catalog.tag`.
        """


class TagResolver(Protocol):
    """The part of a registry client that catalogs need."""

    async def resolve(
        self, repository: Repository, tag: str, *, batch: Sequence[Repository] = ()
    ) -> tuple[Digest | None, int | None]:
        """Return the digest of `tag`, None if it does not exist, and the server's time; see `RegistryPuller`."""
