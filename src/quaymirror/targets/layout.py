"""OCI image layouts as targets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import ConfigError
from ..oci import Digest, Reference
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..settings import Options
from ..store.layout import OCILayout
from ..store.reader import LayoutReader
from ..store.state import State, read_attached
from ..store.storage import Storage
from ..transfer.target import Capabilities
from ..values import dataclass
from .kinds import TargetContext, TargetKind, TargetSpec

if TYPE_CHECKING:
    from ..store.records import ReferrerRecord
    from ..store.verify import Verification

_SCHEME = "ocidir"


class LayoutTarget(OCILayout):
    """A layout that a run mirrors to."""

    capabilities: Capabilities = Capabilities(prunable=True, shares_blobs=True, repairable=True, publishes_at_end=True)

    async def recover_manifest(self, reference: Reference, digest: Digest) -> None:
        """Return None: `read_manifest` finds every manifest that is here."""

    async def publish(self) -> None:
        """Return: a run publishes the set of a layout together with its snapshot."""

    def shared(self) -> None:
        """Return None: one process writes here."""

    def attachable(self) -> OCILayout:
        """Return the layout itself."""
        return self

    def prunable(self) -> OCILayout:
        """Return the layout itself."""
        return self


@dataclass(frozen=True, slots=True)
class LayoutSpec(TargetSpec):
    """An OCI image layout, one for all images, at `path`."""

    path: Path
    capabilities: ClassVar[Capabilities] = LayoutTarget.capabilities

    def __str__(self) -> str:
        return str(self.path)

    def state_directory(self, _settings: Options) -> Path:
        """Return the directory of the state, inside of the layout."""
        return self.path / ".quaymirror"

    def is_source(self, source: SourceAddress) -> bool:
        """Return True if `source` is the same directory."""
        return source.is_layout and os.path.realpath(source.path) == os.path.realpath(self.path)

    def open(self, context: TargetContext) -> AbstractAsyncContextManager[LayoutTarget]:
        """Open the layout for writing; see `OCILayout.open`."""
        target = context.options.target
        return LayoutTarget.open(
            self.path,
            observer=context.observer,
            fsync=target.fsync,
            checks_space=target.check_space,
            patience=context.patience,
        )

    def inspect(self, _context: TargetContext) -> AbstractAsyncContextManager[LayoutTarget]:
        """Open the layout for reading; see `OCILayout.inspect`."""
        return LayoutTarget.inspect(self.path)

    def attached(self, options: Options, references: Iterable[Reference]) -> dict[Reference, list[ReferrerRecord]]:
        """Return the referrers of images of the layout, by its state."""
        return read_attached(self.state_directory(options) / "state.db", references)

    async def has_images(self, _context: TargetContext, references: Sequence[Reference]) -> list[bool]:
        """Return if the layout has each image, by its state, or by its index for images of other tools."""

        if not (self.path / "oci-layout").is_file():
            raise ConfigError(f"no OCI image layout at {self.path}")

        async with LayoutTarget.inspect(self.path) as layout:
            return await layout.use(lambda storage, state: images_found(storage, state, references))

    async def verify(self, _context: TargetContext) -> Verification:
        """Read and hash everything in the layout."""
        from ..store.verify import verify_layout

        return await verify_layout(self.path)


def images_found(storage: Storage, state: State, references: Sequence[Reference]) -> list[bool]:
    """Return if a layout has each image, by its state, or by its index for images of other tools. It blocks."""
    entries = {name: node.digest for name, node in LayoutReader(storage).index_entries()}
    records = {record.name: record.source for record in state.images()}
    return [
        reference.name in entries and reference.digest in (None, entries[reference.name], records.get(reference.name))
        for reference in references
    ]


def _claims(text: str, _settings: Options) -> bool:
    scheme, separator, _ = text.partition("://")
    return not separator or scheme == _SCHEME


def _parse(text: str, selection: Selection, options: Options) -> LayoutSpec:
    path = str(_locate(text, options))
    if "{repo}" in path:
        raise ConfigError("{repo} in the target: one layout holds all images, which share layers there; leave it out")

    if "{org}" in path and not selection.organization:
        raise ConfigError(f"{{org}} in the target: {selection} has no organization; leave it out")

    if "{tag}" in path and not selection.is_one_tag:
        raise ConfigError("{tag} in the target: one layout holds all tags; leave it out, or select one tag")

    return LayoutSpec(Path(path.replace("{org}", selection.organization).replace("{tag}", selection.tags[0])))


def _locate(text: str, _settings: Options) -> LayoutSpec:
    path = text.removeprefix(f"{_SCHEME}://")
    if not path or "\0" in path:
        raise ConfigError("the target needs a path")

    return LayoutSpec(Path(path))


KIND = TargetKind(_claims, _parse, _locate)
