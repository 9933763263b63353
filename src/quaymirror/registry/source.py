"""The interface of a source for the bytes of one blob."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Protocol, Self

from ..http.bodies import Fill, ReceiveInThread
from ..http.validator import Validator
from ..oci.descriptor import Descriptor
from ..oci.reference import Repository
from ..values import dataclass


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """A request for `blob` in `repository`, from `offset` to before `end`, None for its size; the answer may have all.

    `fresh` asks for a new connection, `if_range` for all of the blob if it has changed, and `location` is the URL of an
    earlier redirect. A thread can receive the bytes with `threaded`, None if none can.
    """

    repository: Repository
    blob: Descriptor
    offset: int = 0
    end: int | None = None
    fresh: bool = False
    if_range: Validator | None = None
    location: str = ""
    threaded: Fill | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """The position of the first byte, and that after the last one."""
        return self.offset, self.blob.size if self.end is None else self.end


class BlobStream(Protocol):
    """The bytes of a blob from `offset` on. As a context, it closes itself."""

    @property
    def offset(self) -> int:
        """The position of the first byte."""

    @property
    def end(self) -> int:
        """The position after the last byte that the source announced: it may send less than was requested."""

    @property
    def host(self) -> str:
        """The host that sends the bytes."""

    @property
    def location(self) -> str:
        """The URL that the source redirected to, "" if it didn't."""

    @property
    def is_whole(self) -> bool:
        """Return True if the source sends all of the blob, even if a range was requested."""

    @property
    def distortion(self) -> str:
        """Return why the bytes may be those of a proxy, if they are wrong; "" if nothing suggests that."""

    @property
    def validator(self) -> Validator | None:
        """The validator for a request for the rest, None without a strong one."""

    @property
    def held(self) -> float:
        """The seconds that this side has waited before reading on."""

    @property
    def threaded(self) -> ReceiveInThread | None:
        """The function that receives the bytes in a thread, None if only the event loop can."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes.

        :raises TransportError: if they end early.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None: ...


class Attempts(Protocol):
    """The attempts of one operation, `async for attempt in attempts:`, each made within `with attempt:`."""

    is_refetch: bool
    """True if the last attempt ended with wrong bytes."""

    def progress(self) -> None:
        """Forget earlier failures, because the operation has achieved something new."""

    def __aiter__(self) -> AsyncIterator[AbstractContextManager[None]]: ...


class BlobSource(Protocol):
    """A source that blobs are fetched from."""

    def attempts(self, what: str, *, brief: bool = False) -> Attempts:
        """Return the attempts of an operation, which messages call `what`; if `brief`, at most two."""

    async def open(self, request: BlobRequest) -> BlobStream:
        """Open the stream of the bytes of a blob.

        :raises RangeRefused: if the source answers with another range.
        """
