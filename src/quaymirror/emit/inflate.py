"""Decompression of layers, verified against the digest that the image's config names (image-spec, config.md).

Layers are untrusted, so their decompressed size is limited. All members are read: gzip files may be concatenated
(RFC 1952, 2.2), and so may zstd frames (RFC 8878, 3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from .. import deflate, zstd
from ..errors import DigestMismatch, Phase, Scope, UnsupportedContent
from ..oci import Digest
from ..store import fsops

_CHUNK_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
# Layers are typically compressed to a third. Only zeros are compressed to a thousandth; such layers are small.
_MAX_RATIO = 200
_ALWAYS_FINE_BYTES = 1024 * 1024 * 1024


def inflate(blob: Path, final: Path, diff_id: Digest, *, always_fine: int = _ALWAYS_FINE_BYTES) -> int:
    """Decompress the layer in the file `blob` to `final`, completely or not at all; return its size in bytes.

    :raises UnsupportedContent: if it can't be decompressed, or becomes too large.
    :raises DigestMismatch: if it doesn't have the digest `diff_id`.
    :raises StoreError: if the disk fails.
    """
    partial_path = final.with_name(f"{final.name}.part")
    with fsops.local_errors("read", blob):
        compressed = blob.open("rb", buffering=_CHUNK_BYTES)

    fsops.remove(partial_path)
    try:
        with compressed:
            limit = max(always_fine, _MAX_RATIO * os.fstat(compressed.fileno()).st_size)
            size = _write(_decompressed(compressed), partial_path, diff_id, limit)

        fsops.publish(partial_path, final)
    except BaseException:
        fsops.remove(partial_path)
        raise

    return size


def _write(chunks: Iterator[bytes], path: Path, diff_id: Digest, limit: int) -> int:
    size, hasher = 0, diff_id.hasher()
    descriptor = fsops.open_part(path)
    try:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise UnsupportedContent(f"a layer decompresses to more than {limit:,} bytes", phase=Phase.STORE)

            hasher.update(chunk)
            fsops.write_all(descriptor, [chunk], path)

        if hasher.hexdigest() != diff_id.encoded:
            raise mismatch(diff_id)

        fsops.seal(descriptor, path, sync=False)  # it is synced when it is published
    finally:
        fsops.close(descriptor, path)

    return size


def mismatch(diff_id: Digest) -> DigestMismatch:
    """Return the error for a layer that doesn't match the config."""
    return DigestMismatch(
        f"a layer does not decompress to diff_id {diff_id}, which the image's config names",
        scope=Scope.IMAGE,
        phase=Phase.STORE,
    )


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    """Choose by the first bytes, as containerd does: media types are often wrong, and `diff_id` decides anyway."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        return _gunzip(file)

    if magic == _ZSTD or (magic[1:] == _ZSTD_SKIPPABLE and 0x50 <= magic[0] <= 0x5F):
        return _unzstd(file)

    return iter(partial(file.read, _CHUNK_BYTES), b"")


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    data = file.read(_CHUNK_BYTES)
    while data:
        member = deflate.decompressor()
        try:
            yield from _gunzip_member(member, data, file)
        except deflate.InvalidGzip:
            raise UnsupportedContent("a layer is not valid gzip", phase=Phase.STORE) from None

        # Zeros between members are padding.
        data = member.unused_data.lstrip(b"\0")
        while not data and (chunk := file.read(_CHUNK_BYTES)):
            data = chunk.lstrip(b"\0")


def _gunzip_member(member: deflate.Decompressor, data: bytes, file: BinaryIO) -> Iterator[bytes]:
    while True:
        out = member.decompress(data, _CHUNK_BYTES)
        yield out
        if member.eof:
            return

        data = member.unconsumed_tail or file.read(_CHUNK_BYTES)
        if not (out or data):
            raise UnsupportedContent("a gzip layer is truncated", phase=Phase.STORE)


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    try:
        yield from zstd.read_chunks(file)
    except zstd.InvalidZstd:
        raise UnsupportedContent("a layer is not valid zstd", phase=Phase.STORE) from None
