"""The kinds of targets: one interface, and a register from which addresses are resolved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..errors import ConfigError
from ..events import Observer, ignore
from ..http.client import Client
from ..http.origin import Origin
from ..oci import Platform, Reference, Repository
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..settings import Options
from ..store.lock import Patience
from ..transfer.target import Capabilities, Target
from ..values import dataclass
from .spelling import check_spelling

if TYPE_CHECKING:
    from ..shards.plan import Division
    from ..store.records import ImageRecord, ReferrerRecord
    from ..store.verify import Verification


class ConnectRegistry(Protocol):
    """Opens a client of a target registry."""

    def __call__(
        self, origin: Origin, options: Options, observer: Observer, *, namespace: str
    ) -> AbstractAsyncContextManager[Client]:
        """Open a client of the registry at `origin`, with the credentials for `namespace`."""


@dataclass(frozen=True, slots=True)
class TargetContext:
    """The means of a run to open a target. `patience` waits for another run that holds the lock; None: fail.

    `has_local_source` is True if content comes from files, so that copies of it need not be kept. With a `division`,
    the run is one of several that write to the target at the same time; see `TargetSpec.check_shards`.
    """

    options: Options
    connect: ConnectRegistry
    observer: Observer = ignore
    patience: Patience | None = None
    has_local_source: bool = False
    division: Division | None = None


@dataclass(frozen=True, slots=True)
class UploadPlace:
    """A `repository` at a registry for blobs that another process uploads, with its own credentials for `namespace`."""

    origin: Origin
    namespace: str
    repository: Repository


class TargetSpec(ABC):
    """A target as its address, the text of this, describes it. Equal addresses are equal targets."""

    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def state_directory(self, options: Options) -> Path:
        """Return the directory with the state of runs to this target.

        :raises ConfigError: if it can't be determined.
        """

    @property
    def repository(self) -> str:
        """The name of the repository that all images go to, "" if each goes to its own."""
        return ""

    def is_source(self, source: SourceAddress) -> bool:
        """Return True if the images of `source` are in this very place."""
        return False

    def check_shards(self) -> None:
        """Check that the shards of a plan can write to the target at the same time.

        :raises ConfigError: if they can't.
        """
        if not self.capabilities.takes_shards:
            raise ConfigError(
                f"shards can't share {self}: name a registry (registry://HOST) without filters, or an object store "
                "(s3://BUCKET/PREFIX), with --to"
            )

    def check_cluster(self) -> None:
        """Check that the workers of a cluster can bring blobs to the target.

        :raises ConfigError: if they can't.
        """
        if not self.capabilities.takes_cluster:
            raise ConfigError(f"workers can't bring blobs to {self}: --cluster needs a registry, --to registry://HOST")

    def upload_place(self, reference: Reference) -> UploadPlace:
        """Return where workers bring the blobs of an image, under its name at the target.

        :raises ConfigError: as `check_cluster`.
        """
        self.check_cluster()
        raise AssertionError("a target that takes a cluster has its own")

    def wanted_platforms(self, options: Options) -> tuple[Platform, ...]:
        """Return the platforms to mirror of an index, () for all."""
        return options.discovery.platforms

    @abstractmethod
    def open(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the target for writing.

        :raises TargetRefused: if its location holds something else.
        :raises LockHeld: if another run writes to it.
        :raises StoreError: if the disk fails.
        :raises QuaymirrorError: if a registry can't be used.
        """

    @abstractmethod
    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the target for reading; it need not exist. Errors are as of `open`."""

    async def has_images(self, context: TargetContext, references: Sequence[Reference]) -> list[bool]:
        """Return for each of `references`, under its name in the target, if the target has it, with its digest if any.

        :raises ConfigError: if that can't be told.
        :raises QuaymirrorError: if the target can't be read.
        """
        raise ConfigError(f"{self} can't be checked: name a mirror (PATH) or a registry (registry://HOST)")

    async def verify(self, context: TargetContext) -> Verification:
        """Check everything that runs have left at the target.

        :raises ConfigError: if that is impossible.
        :raises QuaymirrorError: if the target can't be read.
        """
        raise ConfigError(f"{self} can't be verified: its images were checked when they were made")

    async def recorded(self, options: Options) -> list[ImageRecord]:
        """Return the images that runs from here have left at the target.

        :raises ConfigError: if this machine has no record of them.
        """
        raise ConfigError(f"{self} keeps no record of its images on this machine")

    def attached(self, options: Options, references: Iterable[Reference]) -> Mapping[Reference, list[ReferrerRecord]]:
        """Return the recorded referrers of images, by references under their names at the target; see `State.attached`.

        It blocks, and is empty for a target that keeps no referrers.

        :raises StoreError: if the state can't be read.
        """
        return {}

    async def lost(self, context: TargetContext) -> tuple[list[ImageRecord], dict[str, str]]:
        """Return the recorded images that the target has lost, and why others are unknown, by name.

        :raises ConfigError: as `recorded`.
        :raises QuaymirrorError: if the target can't be read.
        """
        raise ConfigError(f"{self} keeps no record of its images on this machine")

    def retained(self, options: Options) -> list[ReferrerRecord]:
        """Return the referrers that the source has lost, and that the target keeps: nothing is deleted there.

        It blocks, and is empty for a target that can be pruned.

        :raises StoreError: if the state can't be read.
        """
        return []

    async def record(self, context: TargetContext, records: Sequence[ImageRecord], *, complete: bool) -> None:
        """Record the images that the shards of a plan have left at the target; `complete` if that is everything.

        :raises ConfigError: as `recorded`.
        :raises LockHeld: if another run writes to the target.
        :raises StoreError: if the target lacks content of some of them, or the state can't be written.
        """
        raise ConfigError(f"{self} keeps no record of its images on this machine")

    async def forget(self, context: TargetContext, names: Sequence[str]) -> None:
        """Delete the records of images.

        :raises ConfigError: as `recorded`.
        :raises LockHeld: if a run writes to the target.
        """
        raise ConfigError(f"{self} keeps no record of its images on this machine")


@dataclass(frozen=True, slots=True)
class TargetKind:
    """A kind of target. The first kind registered that `claims` an address parses it."""

    claims: Callable[[str, Options], bool]
    """Returns True if an address is of this kind."""
    parse: Callable[[str, Selection, Options], TargetSpec]
    """Returns the target for a selection; raises ConfigError if it can't hold it."""
    locate: Callable[[str, Options], TargetSpec]
    """Returns the target of an address given to an earlier `sync`."""
    changes_images: bool = False
    """Filters of occystrap apply."""


_kinds: list[TargetKind] = []


def register(*kinds: TargetKind) -> None:
    """Register `kinds`; earlier ones take precedence."""
    _kinds.extend(kinds)


def parse_target(text: str, selection: Selection, options: Options) -> TargetSpec:
    """Return the target that `text` (`PATH`, `ocidir://PATH`, `registry://HOST` or an address of occystrap) names.

    :raises ConfigError: if it is no valid address, or can't tell two images of `selection` apart.
    """
    return _kind_of(text, options).parse(text, selection, options)


def find_target(text: str, options: Options) -> TargetSpec:
    """Return the target that `text`, as given to an earlier `sync`, names.

    :raises ConfigError: if it is no valid address.
    """
    return _kind_of(text, options).locate(text, options)


def common_target(text: str, selections: Sequence[Selection], options: Options) -> TargetSpec:
    """Return the one target that `text` names for all of `selections` (at least one).

    :raises ConfigError: as `parse_target`, or if it names several.
    """
    if "{date}" in text:
        raise ConfigError(f"{{date}} in the target {text[:100]!r}: use --dated-tags '{{tag}}-{{date}}' for a registry")

    specs = [parse_target(text, selection, options) for selection in selections]
    if any(spec != specs[0] for spec in specs):
        raise ConfigError(f"{text} is a different target for each selection: run the selections one by one")

    return specs[0]


def _kind_of(text: str, options: Options) -> TargetKind:
    check_spelling(text)
    kind = next((kind for kind in _kinds if kind.claims(text, options)), None)
    if options.target.filters and not (kind and kind.changes_images):
        raise ConfigError("filters change images: they need a target such as dir://PATH, tar://PATH or registry://HOST")

    if kind is None:
        scheme = text.partition("://")[0]
        raise ConfigError(
            f"unknown kind of target: {scheme[:50]!r}; write a PATH, ocidir://PATH, registry://HOST or s3://BUCKET/PREFIX"
        )

    return kind
