"""The parts of an export: plain tar files, whose members are blobs and stretches of blobs.

    quaymirror-export.json               the header
    manifest.json.zst, manifest.json.sig
    oci-layout, index.json               if the only part has everything: other tools read it as an `oci-archive`
    blobs/sha256/6c3c…
    stretches/sha256/6c3c…/0-4194304

Everything but the identifier and the time is the same for the same export.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ..errors import ConfigError, InvalidName, MirrorDamaged, StoreError
from ..oci import Digest
from ..store import fsops
from ..values import dataclass
from . import signatures
from .manifest import MAX_BYTES, Header, Manifest, decompress

HEADER, MANIFEST, SIGNATURE = "quaymirror-export.json", "manifest.json.zst", "manifest.json.sig"
CHUNK_BYTES = 4 * 1024 * 1024
_MAX_HEADER = 64 * 1024
_BLOB = re.compile(r"blobs/([a-z0-9]+)/([0-9a-f]+)")
_STRETCH = re.compile(r"stretches/([a-z0-9]+)/([0-9a-f]+)/([0-9]{1,15})-([0-9]{1,15})")


def file_name(export: str, part: int, parts: int) -> str:
    """Return the name of the file of a part."""
    return f"quaymirror-{export[:8]}-{part:04}-of-{parts:04}.tar"


def stretch_name(digest: Digest, start: int, end: int) -> str:
    """Return the name of the member with the bytes of a blob from `start` to before `end`."""
    return f"stretches/{digest.algorithm}/{digest.encoded}/{start}-{end}"


class PartWriter:
    """Writes a part: under another name until it is complete and, if `syncs`, durable."""

    def __init__(self, path: Path, *, syncs: bool) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._syncs = syncs

    def __enter__(self) -> Self:
        with fsops.local_errors("write", self._partial):
            self._file = self._partial.open("wb")

        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
        self._tar.copybufsize = CHUNK_BYTES  # type: ignore[attr-defined]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            return

        with fsops.local_errors("write", self._partial):
            self._tar.close()
            self._file.flush()
            if self._syncs:
                os.fsync(self._file.fileno())

            self._file.close()
            self._partial.replace(self._path)

        if self._syncs:
            fsops.sync_directory(self._path.parent)

    def add(self, name: str, content: bytes) -> None:
        """Add a member with `content`."""
        self.add_file(name, BytesIO(content), len(content))

    def add_file(self, name: str, file: Any, size: int) -> None:
        """Add a member with `size` bytes of `file`."""
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o644
        with fsops.local_errors("write", self._partial):
            self._tar.addfile(member, file)
            # tarfile keeps every member otherwise.
            self._tar.members.clear()  # type: ignore[attr-defined]


class HashedFile:
    """A file whose bytes are hashed in a thread while they are written elsewhere. `on_read` gets their numbers."""

    def __init__(
        self, file: IO[bytes], path: Path, threads: ThreadPoolExecutor, hasher: Any, on_read: Callable[[int], None]
    ) -> None:
        self._file = file
        self._path = path
        self._threads = threads
        self._hasher = hasher
        self._on_read = on_read
        self._pending: Future[None] | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self._wait()
        with fsops.local_errors("read", self._path):
            chunk = self._file.read(size)

        self._pending = self._threads.submit(self._hasher.update, chunk)
        self._on_read(len(chunk))
        return chunk

    def hexdigest(self) -> str:
        """Return the hash of everything that was read."""
        self._wait()
        digest: str = self._hasher.hexdigest()
        return digest

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


@dataclass(frozen=True, slots=True)
class Member:
    """The bytes of a blob from `start` on, `size` of them, at `position` in the file of the part."""

    digest: Digest
    start: int
    size: int
    position: int


class PartReader:
    """A part that is read: its header and manifest, then its members.

    :raises ConfigError: if the file is not a part of an export, or its manifest is damaged.
    :raises StoreError: if it can't be read.
    """

    header: Header
    manifest: Manifest

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.path = path
        self._file = file
        found = _beginning(file, path)
        self._signature = found.get(SIGNATURE)
        try:
            self.header, self._text = _checked(found)
            self.manifest = Manifest.parse(self._text)
            if (self.manifest.id, self.manifest.parts) != (self.header.id, self.header.parts):
                raise ConfigError("its manifest is that of another export")
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}; copy it again") from None

    def signer(self, allowed_signers: Path | None) -> str | None:
        """Return the signer according to `allowed_signers`, "" if any may sign, None if the part is not signed.

        :raises ConfigError: if the signature is wrong, or its key is not an allowed one.
        """
        if self._signature is None:
            return None

        try:
            return signatures.check(self._text, self._signature, allowed_signers)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error.message}") from None

    def members(self) -> Iterator[Member]:
        """Iterate over the blobs and stretches in the part.

        :raises MirrorDamaged: if the part is damaged, or cut short; the members before that are good.
        """
        for _, member in _members(self._file, self.path):
            found = _content(member)
            if found is not None:
                yield found

    def read(self, member: Member, offset: int, size: int) -> bytes:
        """Return `size` bytes of `member` from `offset` on; fewer if the file ends."""
        with fsops.local_errors("read", self.path):
            return os.pread(self._file.fileno(), min(size, member.size - offset), member.position + offset)


def is_part(file: IO[bytes]) -> bool:
    """Return True if `file` begins like a part of an export."""
    file.seek(0)
    return file.read(len(HEADER) + 1) == HEADER.encode() + b"\0"


def _beginning(file: IO[bytes], path: Path) -> dict[str, bytes]:
    """Return the contents of the members before the blobs, as far as they are complete."""
    found: dict[str, bytes] = {}
    limits = {HEADER: _MAX_HEADER, MANIFEST: MAX_BYTES, SIGNATURE: signatures.MAX_BYTES}
    try:
        for tar, member in _members(file, path):
            limit = limits.get(member.name)
            content = tar.extractfile(member)
            if limit is None or content is None:
                break

            found[member.name] = content.read(min(member.size, limit + 1))
    except MirrorDamaged:
        pass

    return found


def _checked(found: dict[str, bytes]) -> tuple[Header, bytes]:
    """Return the header of a part, and the text of the manifest that it names."""
    if HEADER not in found or MANIFEST not in found:
        raise ConfigError("it is cut short before its manifest")

    header, text = Header.parse(found[HEADER]), decompress(found[MANIFEST])
    if not header.manifest.matches(text):
        raise ConfigError("its manifest is damaged")

    return header, text


@contextmanager
def _opened(file: IO[bytes], path: Path) -> Iterator[tarfile.TarFile]:
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise MirrorDamaged(f"{path} is damaged or cut short ({str(error)[:80]}): copy it again") from None
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror or error}") from None


def _members(file: IO[bytes], path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Iterate over the members, all of them complete regular files."""
    size = os.fstat(file.fileno()).st_size
    with _opened(file, path) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            if not member.isreg() or member.issparse():
                raise MirrorDamaged(f"{path} contains {member.name[:100]!r}, not a plain file: it is no export")

            if member.offset_data + member.size > size:
                raise MirrorDamaged(f"{path} is cut short: copy it again")

            yield tar, member

        # Two empty blocks end a complete file; tarfile also accepts one that ends after a member.
        if tar.offset + 512 > size:
            raise MirrorDamaged(f"{path} is cut short: copy it again")


def _content(member: tarfile.TarInfo) -> Member | None:
    """Return the bytes of a blob that a member has, None if it has something else."""
    blob, stretch = _BLOB.fullmatch(member.name), _STRETCH.fullmatch(member.name)
    match = blob or stretch
    if match is None:
        return None

    try:
        digest = Digest(match[1], match[2])
    except InvalidName:
        return None

    return Member(digest, int(stretch[3]) if stretch else 0, member.size, member.offset_data)
