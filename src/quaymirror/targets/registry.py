"""Registries as targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..oci import Reference
from ..selection.selection import Selection
from ..settings import Options
from ..store.state import read_attached, read_missing
from ..transfer.target import Capabilities
from ..values import dataclass
from .kinds import TargetContext, TargetKind, TargetSpec, UploadPlace
from .registry_address import RegistryAddress, check_selection, parse_address

if TYPE_CHECKING:
    from ..store.records import ImageRecord, ReferrerRecord
    from ..store.verify import Verification
    from .registry_target import RegistryTarget


@dataclass(frozen=True, slots=True)
class RegistrySpec(TargetSpec):
    """A registry at an address."""

    address: RegistryAddress
    capabilities: ClassVar[Capabilities] = Capabilities(
        adds_tags=True, publishes_at_end=True, takes_shards=True, takes_cluster=True
    )

    def __str__(self) -> str:
        return str(self.address)

    @property
    def repository(self) -> str:
        """The repository of all images; see `TargetSpec.repository`."""
        return self.address.repository

    def state_directory(self, options: Options) -> Path:
        """Return the directory of the state, which is on this machine; see `Options.state_directory`."""
        return options.state_directory(str(self))

    def upload_place(self, reference: Reference) -> UploadPlace:
        """Return the repository of an image, as workers need it."""
        return UploadPlace(self.address.origin, self.address.namespace, self.address.place(reference.name).repository)

    def open(self, context: TargetContext) -> AbstractAsyncContextManager[RegistryTarget]:
        """Open the registry for writing; see `RegistryTarget.open`."""
        return self._open(context)

    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[RegistryTarget]:
        """Open the registry for reading."""
        return self._open(context, read_only=True)

    def _open(self, context: TargetContext, *, read_only: bool = False) -> AbstractAsyncContextManager[RegistryTarget]:
        # The code for uploads is imported only if it is needed.
        from .registry_target import RegistryTarget

        return RegistryTarget.open(self.address, context, read_only=read_only)

    async def has_images(self, context: TargetContext, references: Sequence[Reference]) -> list[bool]:
        """Return if the registry has each image, by one request for each."""
        from .registry_verify import has_images

        return await has_images(self.address, context, references)

    async def verify(self, context: TargetContext) -> Verification:
        """Ask the registry for everything that runs from here have pushed."""
        from .registry_verify import verify_registry

        return await verify_registry(self.address, context)

    async def recorded(self, options: Options) -> list[ImageRecord]:
        """Return the images that runs from here have pushed."""
        from .registry_verify import read_records

        return read_records(self.address, options)

    def attached(self, options: Options, references: Iterable[Reference]) -> dict[Reference, list[ReferrerRecord]]:
        """Return the referrers of images that runs from here have pushed."""
        return read_attached(self.state_directory(options) / "pushed.db", references)

    async def lost(self, context: TargetContext) -> tuple[list[ImageRecord], dict[str, str]]:
        """Return the pushed images that the registry has lost; see `TargetSpec.lost`."""
        from .registry_verify import lost_images

        return await lost_images(self.address, context)

    def retained(self, options: Options) -> list[ReferrerRecord]:
        """Return the pushed referrers that the source has lost; see `TargetSpec.retained`."""
        return read_missing(self.state_directory(options) / "pushed.db")

    async def record(self, context: TargetContext, records: Sequence[ImageRecord], *, complete: bool) -> None:
        """Record images that shards have pushed."""
        from .registry_verify import record_pushed

        await record_pushed(self.address, context, records)

    async def forget(self, context: TargetContext, names: Sequence[str]) -> None:
        """Delete the records of images; at the registry nothing changes."""
        from .registry_verify import forget_images

        await forget_images(self.address, context, names)


def _claims(text: str, _settings: Options) -> bool:
    return text.startswith("registry://")


def _parse(text: str, selection: Selection, options: Options) -> RegistrySpec:
    address = parse_address(text)
    check_selection(address, selection, options.source.address_of(selection))
    return RegistrySpec(address)


def _locate(text: str, _settings: Options) -> RegistrySpec:
    return RegistrySpec(parse_address(text))


KIND = TargetKind(_claims, _parse, _locate)
