"""Repositories that a registry did not have when a run began: none of their tags and blobs has to be asked for."""

from __future__ import annotations

import anyio

from ..oci import Descriptor, Repository
from ..registry.push import RegistryPusher
from .blob_locations import BlobLocations


class NewRepositories:
    """Looks for images that no run from here has pushed, and notes in `locations` which repositories are new.

    One request shows that for a repository, and one for all of them if the registry is empty. But a repository may hold
    what an interrupted run has left without a tag. So only the `first` run from here asks, and only if the registry
    lacks the first tag that it looks for, and as long as no repository is known.
    """

    def __init__(self, registry: RegistryPusher, locations: BlobLocations, *, first: bool) -> None:
        self._registry = registry
        self._locations = locations
        self._asks = first
        self._has_looked = not first
        self._is_empty = False
        self._first_look = anyio.Lock()
        self._asked: set[Repository] = set()

    async def find(self, repository: Repository, name: str) -> Descriptor | None:
        """Return the descriptor of the manifest `name`, a tag or a digest; None if it doesn't exist.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        if not self._has_looked:
            async with self._first_look:
                if not self._has_looked:
                    return await self._find_first(repository, name)

        if await self._is_new(repository):
            return None

        return await self._registry.head_manifest(repository, name)

    async def _find_first(self, repository: Repository, name: str) -> Descriptor | None:
        found = await self._registry.head_manifest(repository, name)
        self._asks = found is None
        if await self._is_new(repository):
            self._is_empty = await self._registry.is_empty(repository)

        self._has_looked = True
        return found

    async def _is_new(self, repository: Repository) -> bool:
        """Return True if the registry does not know `repository`, at the first call for it."""
        if not self._asks or repository in self._asked:
            return False

        self._asked.add(repository)
        is_new = self._is_empty or await self._registry.is_unknown(repository)
        if is_new:
            self._locations.add_new(repository)
        else:
            self._asks = False

        return is_new
