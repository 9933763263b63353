"""The interface of a target: a place that images are mirrored to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from ..oci import Descriptor, Digest, Reference
from ..store.records import Attachment, ImageRecord, ReferrerCheck, ReferrerRecord
from ..store.sink import Sink
from ..store.state import State
from ..store.storage import Storage
from ..values import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The properties of a kind of target that a run depends on."""

    prunable: bool = False
    """Images can be removed; see `Target.prunable`."""
    shares_blobs: bool = False
    """Blobs are files that other targets can copy; see `Target.blob_file`."""
    repairable: bool = False
    """Damaged content can be found by its hash and fetched again."""
    staging: bool = False
    """Blobs occupy temporary space until their image is complete."""
    takes_sparse: bool = True
    """An index may lack some of its children."""
    adds_tags: bool = False
    """An image can have another tag besides its own."""
    publishes_at_end: bool = False
    """Readers can go on seeing the earlier images until a run has ended."""
    atomic_publish: bool = True
    """An image appears under its name complete, or not at all."""
    takes_shards: bool = False
    """Several processes can write at the same time; see `Target.shared`."""
    takes_cluster: bool = False
    """The workers of a cluster can bring blobs; see `TargetSpec.upload_place`."""


class PrunableTarget(Protocol):
    """A target whose images can be removed."""

    async def use(self, function: Callable[[Storage, State], T]) -> T:
        """Return the result of `function`, which may block, on the directory and its state."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep readers out during the context."""


class SharedTarget(Protocol):
    """A target that several processes write to at the same time."""

    async def find_blob(self, reference: Reference, blob: Descriptor) -> bool:
        """Return True if `blob` is stored for the image `reference`, so that other images can have it from there.

        :raises QuaymirrorError: if the target gives no usable answer.
        """

    def sink_unless_stored(self, reference: Reference, blob: Descriptor) -> AbstractAsyncContextManager[Sink | None]:
        """Open the sink of a blob of this process; None if it is stored by now, as another process has brought it."""

    async def records(self) -> list[ImageRecord]:
        """Return the images that the state of this process has, with their contents."""


class ReferrerTarget(Protocol):
    """A target that keeps the referrers of its images."""

    async def referrer_checks(self) -> Mapping[tuple[str, str, str], ReferrerCheck]:
        """Return when sources were asked for referrers, by registry, repository and digest."""

    async def stored_subjects(self, reference: Reference) -> Sequence[Digest]:
        """Return the digests of the manifests of an image that is stored, its root first."""

    async def stored_referrers(self, subjects: Iterable[Digest]) -> Sequence[ReferrerRecord]:
        """Return the recorded referrers of `subjects`, without their contents."""

    async def adopt_tags(self) -> int:
        """Turn images that are digest tags into referrers of the images they belong to; return their number."""

    def referrer_key(self, reference: Reference, node: Descriptor, tag: str) -> Hashable:
        """Return the deduplication key of `put_referrer`."""

    async def put_referrer(
        self, reference: Reference, subject: Digest, node: Descriptor, content: bytes, *, tag: str
    ) -> None:
        """Store the manifest of a referrer in the repository of an image, under the digest `tag`, "" for none.

        Everything that it needs is present.
        """

    async def attach(self, attachment: Attachment) -> None:
        """Record the referrers of an image that is recorded; durable when this returns."""

    async def settle_referrers(self) -> None:
        """Make sure, at the end of a run, that clients find the referrers that it has stored."""


class Target(Protocol):
    """A place that images are mirrored to: children before parents, the name last.

    Calls name the image, since a registry keeps blobs per repository.
    """

    @property
    def capabilities(self) -> Capabilities:
        """The properties that a run depends on."""

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Return True if the pinned `reference` is present, complete and under its name."""

    async def stored_digest(self, reference: Reference) -> Digest | None:
        """Return the digest under which the image is stored, None if it can't be told."""

    async def missing_content(
        self, reference: Reference, nodes: Sequence[Descriptor], *, root: Descriptor | None = None
    ) -> list[Descriptor]:
        """Return those of `nodes` whose content is missing for `reference`; all of them belong to `root`, if given."""

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Return True if the content of `node`, which was missing, has arrived in the meantime."""

    def dedup_key(self, reference: Reference, node: Descriptor) -> Hashable:
        """Return the deduplication key of a transfer of `node`."""

    async def read_manifest(self, digest: Digest) -> bytes | None:
        """Return the verified content of a manifest, None if the target can't provide it."""

    async def recover_manifest(self, reference: Reference, digest: Digest) -> bytes | None:
        """Return a manifest of `reference` that the source has lost; None if the target lacks it, too."""

    def sink(self, reference: Reference, node: Descriptor) -> AbstractAsyncContextManager[Sink | None]:
        """Open the sink of a blob; None if the blob arrived without a transfer from the source."""

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Store a manifest whose children are present."""

    async def commit(self, record: ImageRecord) -> None:
        """Give an image its name. It is durable when this returns."""

    async def publish(self) -> None:
        """Give the images their names that wait for the end of the run; see `Capabilities.publishes_at_end`."""

    async def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        """Return by which keys or identities a signature policy accepted an image, None if it has not judged it so."""

    async def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        """Record the verdict of a policy about an image, in place of its verdict about the image's last version."""

    def blob_file(self, node: Descriptor) -> Path | None:
        """Return the file with the content of `node` for other targets to copy, None if it can't be shared."""

    def attachable(self) -> ReferrerTarget | None:
        """Return the target as one that keeps referrers, None if it does not."""

    def prunable(self) -> PrunableTarget | None:
        """Return the target as one that can be pruned, None if it can't."""

    def shared(self) -> SharedTarget | None:
        """Return the target as one that shards share, None if it is for one process."""
