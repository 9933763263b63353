"""An OCI image layout as a catalog of the images that its index names. It has no dates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from ...errors import ConfigError, LockHeld, MirrorDamaged, NotFound, SelectionEmpty, Side, StoreError
from ...oci import Descriptor, Digest, Repository
from ...oci.digest_tags import is_digest_tag
from ...oci.manifest import MAX_MANIFEST_BYTES
from ...selection.bucket import is_bucket
from ...selection.source import SourceAddress
from ...store.local_storage import LocalStorage
from ...store.snapshots import open_at
from ...store.storage import INDEX
from ...untrusted import InvalidDocument
from ..base import Discovery, ListedRepository, Page, Tag, TagAnswer, TagList, Traits
from ..kinds import CatalogKind, Services, SourceAccess
from .entries import LayoutImages, parse_images
from .files import LayoutFiles, check_layout, read, read_content
from .opening import open_files
from .puller import LayoutPuller

_TRAITS = Traits("ocidir://", has_dates=False, shows_absence=False)
_PAGE = 100
_MAX_INDEX_BYTES = 1024 * 1024 * 1024
# Deletion in a mirror takes less than these together.
_LEASE_ATTEMPTS = 600
_LEASE_PAUSE_SECONDS = 0.1


class LayoutCatalog:
    """The images of a layout; names of repositories are complete, without an organization."""

    traits: Traits = _TRAITS

    def __init__(self, images: LayoutImages, path: str) -> None:
        self._images = images
        self._path = path

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        """Iterate over pages of the repositories; see `Catalog.pages`."""
        found, registries = sorted(self._images.images), self._images.registries
        for start in range(0, max(len(found), 1), _PAGE):
            several = tuple(
                ListedRepository(name, registry=registries.get(name, "")) for name in found[start : start + _PAGE]
            )
            end = start + _PAGE
            rejected = () if start else tuple(self._images.rejected)
            yield Page(several, rejected, str(end) if end < len(found) else None)

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        """Return the error for a layout without images; see `Catalog.explain_empty`."""
        return SelectionEmpty(f"{self._path} has no images")

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        """Return the tag `name` of `repository`; see `Catalog.tag`."""
        node = self._tags(repository).get(name)
        return TagAnswer(None if node is None else Tag(name, node.digest))

    async def tags(self, repository: Repository, glob: str) -> TagList:
        """Return the tags of `repository` that `glob` matches; see `Catalog.tags`."""
        found = self._tags(repository).items()
        return TagList(tuple(Tag(name, node.digest) for name, node in found if fnmatchcase(name, glob)))

    async def some_tags(self, repository: Repository) -> Collection[str]:
        """Return the names of all tags of `repository`; see `Catalog.some_tags`."""
        return self._tags(repository).keys()

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        """Return the digest tags of `repository`, and those of no repository; see `Catalog.digest_tags`."""
        own = {tag: node.digest for tag, node in self._tags(repository).items() if is_digest_tag(tag)}
        return {tag: node.digest for tag, node in self._images.loose.items()} | own

    def _tags(self, repository: Repository) -> dict[str, Descriptor]:
        try:
            return self._images.images[repository.name]
        except KeyError:
            raise NotFound(f"{self._path} has no repository {repository.name}") from None


def _traits(_: Discovery) -> Traits:
    return _TRAITS


def _check(address: SourceAddress) -> None:
    check_layout(address.path)


@asynccontextmanager
async def _open(access: SourceAccess) -> AsyncIterator[Services]:
    address = access.address
    place = address.path
    with ExitStack() as stack:
        files = await anyio.to_thread.run_sync(open_files, place)
        images = await _leased_images(place, partial(_read_images, access, files), stack)
        puller = LayoutPuller(files, address.path, partial(access.attempts, str(address)))
        yield Services(LayoutCatalog(images, address.path), puller)


async def _leased_images(place: str, read_images: Callable[[], LayoutImages], stack: ExitStack) -> LayoutImages:
    """Return the images that `read_images` returns, whose blobs no prune removes as long as `stack` is open.

    Only mirrors are pruned. One on a medium that can't be written to is not pruned, either; one in an object store
    keeps blobs for half a day after nothing needs them.

    :raises LockHeld: if a prune does not end.
    """
    found: list[LayoutImages] = []

    def find() -> Collection[Digest]:
        found[:] = [read_images()]
        return {node.digest for tags in found[0].images.values() for node in tags.values()}

    path = Path(place)
    if is_bucket(place) or not (path / ".quaymirror").is_dir():
        await anyio.to_thread.run_sync(find)
        return found[0]

    lease = stack.enter_context(LocalStorage(path).leasing())
    try:
        for _ in range(_LEASE_ATTEMPTS):
            if await anyio.to_thread.run_sync(lease.renew, find):
                return found[0]

            await anyio.sleep(_LEASE_PAUSE_SECONDS)
    except StoreError:
        await anyio.to_thread.run_sync(find)
        return found[0]

    raise LockHeld(f"blobs are being deleted from {path}: try again when that has ended", side=Side.SOURCE)


def _read_images(access: SourceAccess, files: LayoutFiles) -> LayoutImages:
    """Return the images of a layout, or those of its snapshot that is meant.

    :raises ConfigError: if the snapshot, or its content, does not exist any more.
    :raises MirrorDamaged: if the index is missing, or is not an index.
    """
    place, at = access.address.path, access.address.at
    content = open_at(access.home(), at).read(INDEX) if at else read(files, INDEX, _MAX_INDEX_BYTES)
    is_mirror = is_bucket(place) or Path(place, ".quaymirror").is_dir()
    advice = f": `quaymirror verify {place} --repair-state` writes it again" if is_mirror else ""
    if content is None and is_bucket(place):
        raise ConfigError(f"no mirror at {place}")

    if content is None:
        raise MirrorDamaged(f"{place}/{INDEX} is missing{advice}")

    def read_index(digest: Digest) -> bytes | None:
        return read_content(files, digest, MAX_MANIFEST_BYTES)

    try:
        return parse_images(content, read_index, repository=access.address.repository)
    except InvalidDocument as error:
        raise MirrorDamaged(f"{place}/{INDEX} {error}{advice}") from None


KIND = CatalogKind(_traits, _open, _check)
