"""The interface of a file that receives a body, so that another process can write to it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..values import dataclass
from .bodies import Read


@dataclass(frozen=True, slots=True)
class FilePart:
    """The part of an open file for a body, from `offset` to before `end`. Until it is recorded it has one writer.

    `algorithm` names the hash of the content if it is wanted, otherwise it is "". The hash of content that arrives in
    consecutive parts goes on if they have the same `key`.
    """

    descriptor: int
    offset: int
    end: int
    algorithm: str
    key: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """The result of another process: `size` bytes from the start of a part.

    `digest` is the hash of the content up to their end, "" if it is unknown.
    `error` is the number of the system's error for the next ones, 0 for none. The body may have had too many bytes.
    """

    size: int
    digest: str = ""
    error: int = 0
    has_too_many: bool = False


class FileFill(ABC):
    """A `Fill` that writes to a file, so that another process can write there instead."""

    @abstractmethod
    def __call__(self, read: Read) -> None:
        """Take a body from `read`; see `Fill`."""

    @abstractmethod
    async def open(self) -> FilePart:
        """Return the part of the file that a body is written to.

        :raises QuaymirrorError: if it can't be opened.
        """

    @abstractmethod
    async def record(self, written: Written) -> None:
        """Record the bytes that were written.

        :raises StoreError: if the disk failed.
        :raises SizeMismatch: if the body had too many bytes.
        :raises ReadInterrupted: if bytes are missing.
        """
