"""The interface of a storage: the named objects of one layout.

Keys are the paths of the OCI image layout (`index.json`, `blobs/sha256/6c3c…`). A blob has exactly the bytes that its
key says, from the moment it exists. An implementation is one module, which is registered in the contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from ..errors import StoreError
from ..oci import Descriptor, Digest
from ..values import dataclass
from .lock import Patience
from .sink import Sink

BLOBS = "blobs"
INDEX = "index.json"
MARKER = "oci-layout"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object: its key, its size in bytes, and when it was last modified (POSIX time)."""

    key: str
    size: int
    modified: float


WantsKey = Callable[[str], bool]
"""Returns True if the object with this key is wanted."""


def every(key: str) -> bool:
    """Return True: every object is wanted."""
    return True


class IndexMoved(StoreError):
    """Another writer of the same plan replaced the index after it was read: it has to be read again."""


class Space(NamedTuple):
    """The space of a storage in bytes: the free part, the unit of its allocation, and the whole."""

    free: int
    unit: int
    total: int


class ExclusiveLock(Protocol):
    """The lock of the only writer."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep readers out during the context.

        :raises LockHeld: if the layout is being read.
        """


class Lease(Protocol):
    """A lease of content that a reader still needs."""

    def renew(self, find: Callable[[], Collection[Digest]]) -> bool:
        """Lease the images with the digests that `find` returns, with everything they need, and no others.

        `find` is called while nothing is being deleted, so that images it reads from the index are leased before they
        can be deleted. While blobs are being deleted, it is not called: return False, and change nothing.
        """


class BlobSink(Sink, Protocol):
    """The sink of a blob that is stored under its digest."""

    committed: bool
    """True if the blob is stored."""

    admit: Callable[[], None] | None
    """Called once before the first byte is written, in a thread; its errors end the transfer."""

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`."""


class Storage(Protocol):
    """The objects of one layout. Methods block, but for `writing` and `sink`.

    All of them raise `StoreError` if the storage fails. Only the holder of `writing` changes objects.
    """

    def path(self, digest: Digest) -> Path | None:
        """Return the path of a blob, which need not exist; None if blobs are not local files."""

    def exists(self) -> bool:
        """Return True if a layout is stored here, False if nothing is.

        :raises TargetRefused: if something else is stored here.
        """

    def create(self) -> None:
        """Create the missing parts of an empty layout, and remove interrupted transfers that are not continued."""

    def info(self, key: str) -> ObjectInfo | None:
        """Return the properties of an object, None if it does not exist.

        :raises MirrorDamaged: if something that is not an object is in its place.
        """

    def read(self, key: str, limit: int = -1) -> bytes | None:
        """Return the content of an object, at most `limit` bytes, None if it does not exist."""

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open an object for reading."""

    def put(self, key: str, content: bytes) -> bool:
        """Create an object if it does not exist; return True if it was created."""

    def replace(self, key: str, content: bytes) -> None:
        """Replace or create an object atomically: readers see the old content or the new one.

        :raises IndexMoved: if several processes write here, and another one has replaced the index since it was read.
        """

    def list_objects(self, prefix: str, *, wants: WantsKey = every) -> Iterator[ObjectInfo]:
        """Iterate over the wanted objects whose keys start with `prefix` and a slash, sorted by key."""

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    def sink(self, node: Descriptor) -> AbstractAsyncContextManager[BlobSink]:
        """Open the sink of a blob. An earlier attempt may be continued: see `BlobSink.offset`."""

    def partials(self, *, older_than: float = 0.0) -> list[ObjectInfo]:
        """Return the interrupted transfers that were not continued for `older_than` seconds."""

    def persist(self, node: Descriptor) -> None:
        """Make a blob durable that another program stored."""

    def flush(self, digests: Collection[Digest]) -> None:
        """Make the committed blobs with `digests` durable."""

    def free_space(self) -> Space | None:
        """Return the space, None if it is not limited."""

    def stored_bytes(self, node: Descriptor) -> int:
        """Return how many bytes of a blob are stored: its size, or those of an interrupted transfer."""

    def writing(self, patience: Patience | None) -> AbstractAsyncContextManager[ExclusiveLock]:
        """Hold the lock of the only writer during the context. An empty layout is created if nothing is stored here.

        While another run holds the lock, `patience` is called again and again.

        :raises LockHeld: if another run holds it, and `patience` is None or raises it.
        """

    def leasing(self) -> AbstractContextManager[Lease]:
        """Hold a lease during the context.

        Deletion leaves leased content in place, and neither waits for the other: for readers that stay for long, such
        as a server. Use `reading` for readers that need all blobs, and end soon.
        """

    def leased(self) -> Collection[Digest]:
        """Return the images that leases of any process list."""

    def reading(self) -> AbstractContextManager[None]:
        """Keep blobs from being deleted during the context: a run that has to delete some fails meanwhile.

        :raises LockHeld: if blobs are being deleted.
        """


def blob_key(digest: Digest) -> str:
    """Return the key of the blob with `digest`."""
    return f"{BLOBS}/{digest.algorithm}/{digest.encoded}"
