"""Decompression of gzip; the only importer of isal, which is used if it is installed."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Protocol, cast

__all__ = ["Decompressor", "InvalidGzip", "decompressor"]


class InvalidGzip(ValueError):
    """Content that is not gzip, or damaged."""


class Decompressor(Protocol):
    """The interface of `zlib.decompressobj`, for one member (RFC 1952, 2.2)."""

    @property
    def eof(self) -> bool:
        """True at the end of the member."""

    @property
    def unconsumed_tail(self) -> bytes:
        """The input that was not needed for the output so far."""

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the member."""

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes:
        """Return at most `max_length` bytes of output.

        :raises InvalidGzip: if `data` is damaged.
        """


class _Translated:
    """A decompressor of a library, with our own error."""

    __slots__ = ("_error", "_member")

    def __init__(self, member: Decompressor, error: type[Exception]) -> None:
        self._member = member
        self._error = error

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unconsumed_tail(self) -> bytes:
        return self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        try:
            return self._member.decompress(data, max_length)
        except self._error:
            raise InvalidGzip from None


def decompressor() -> Decompressor:
    """Return a decompressor of one member. That of ISA-L takes half of zlib's time for layers of real files."""
    library = _isal()
    if library is None:
        return _Translated(zlib.decompressobj(wbits=31), zlib.error)

    return _Translated(library.decompressobj(wbits=31), library.error)


class _Library(Protocol):
    error: type[Exception]

    def decompressobj(self, *, wbits: int) -> Decompressor: ...


@cache
def _isal() -> _Library | None:
    try:
        from isal import isal_zlib
    except ImportError:
        return None

    return cast(_Library, isal_zlib)
