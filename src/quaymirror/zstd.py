"""Compression by zstd; the only importer of zstandard, which is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

__all__ = ["InvalidZstd", "compress", "decompress", "read_chunks"]

_CHUNK_BYTES = 1024 * 1024
# Every decoder must support a window of 8 MiB; images use up to 128 (zstd --long).
_WINDOW_BYTES = 128 * 1024 * 1024


class InvalidZstd(ValueError):
    """Content that is not zstd, or damaged; the message continues a sentence."""


def compress(content: bytes) -> bytes:
    """Return `content` as one frame; the same content gives the same bytes."""
    import zstandard

    # Lists of digests hardly shrink further: level 10 saves 3 % of them, and needs 17 MiB more.
    return zstandard.ZstdCompressor(level=3).compress(content)


def decompress(content: bytes, limit: int) -> bytes:
    """Return the content of a frame, at most `limit` bytes.

    :raises InvalidZstd: if it is damaged, or has more.
    """
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(content) as reader:
            found = reader.read(limit + 1)
    except zstandard.ZstdError:
        raise InvalidZstd("is damaged: it can't be decompressed") from None

    if len(found) > limit:
        raise InvalidZstd(f"has more than {limit:,} bytes when it is decompressed")

    return found


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Iterate over the content of all frames in `file`.

    :raises InvalidZstd: if it is damaged.
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as reader:
            yield from iter(partial(reader.read, _CHUNK_BYTES), b"")
    except zstandard.ZstdError:
        raise InvalidZstd("is damaged: it can't be decompressed") from None
