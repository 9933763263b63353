"""Derived images, made by occystrap, as targets."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

from ..oci import Platform
from ..selection.selection import Selection
from ..settings import Options
from ..transfer.target import Capabilities, Target
from ..values import dataclass
from .derived_address import DerivedAddress, is_derived, parse_derived
from .kinds import TargetContext, TargetKind, TargetSpec


@dataclass(frozen=True, slots=True)
class DerivedSpec(TargetSpec):
    """Derived images at an address."""

    address: DerivedAddress
    capabilities: ClassVar[Capabilities] = Capabilities(staging=True)

    def __str__(self) -> str:
        return str(self.address)

    def state_directory(self, _settings: Options) -> Path:
        """Return the directory of the state."""
        return self.address.directory / ".quaymirror"

    def wanted_platforms(self, _settings: Options) -> tuple[Platform, ...]:
        """Return the one platform that images are derived for."""
        return (self.address.platform,)

    def open(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the target for writing; see `DerivedTarget.open`."""
        # Worker processes are imported only if they are needed.
        from .derived_target import DerivedTarget

        return DerivedTarget.open(self.address, context)

    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the target for reading; see `DerivedTarget.inspect`."""
        from .derived_target import DerivedTarget

        return DerivedTarget.inspect(self.address, context)


def _parse(text: str, selection: Selection, options: Options) -> DerivedSpec:
    return DerivedSpec(parse_derived(text, selection, options))


def _locate(text: str, options: Options) -> DerivedSpec:
    return _parse(text, Selection("org"), options.replace(allow_extract=True))


KIND = TargetKind(is_derived, _parse, _locate, changes_images=True)
