"""The files of a layout: those of a directory, or the members of a tar file. Functions block."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from ...errors import ConfigError, MirrorDamaged, Scope, Side, StoreError, from_os_error, is_lack
from ...oci import Digest
from ...selection.bucket import BucketAddress, is_bucket
from ...store.fsops import open_for_reading
from ...store.local_storage import LocalStorage
from ...store.storage import INDEX, MARKER, blob_key
from ...values import dataclass

if TYPE_CHECKING:
    from tarfile import TarInfo

    from ...store.objects import Objects

_GZIP, _ZSTD, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ"


@dataclass(frozen=True, slots=True)
class Location:
    """Consecutive bytes of a file: `size` of them from `start` on; or `content` that is in no file.

    Or an object called `key` of an object store.
    """

    path: Path | None
    start: int
    size: int
    content: bytes = b""
    objects: Objects | None = None
    key: str = ""


class LayoutFiles(Protocol):
    """The files of a layout by their keys, such as `index.json`."""

    def locate(self, key: str) -> Location | None:
        """Return where the bytes of a file are, None if it does not exist.

        :raises MirrorDamaged: if something else is in its place.
        """


class DirectoryFiles:
    """The files of a layout in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._storage = LocalStorage(root)

    def locate(self, key: str) -> Location | None:
        """Return where the bytes of a file are; see `LayoutFiles.locate`."""
        info = self._storage.info(key)
        return None if info is None else Location(self._root / key, 0, info.size)


class BucketFiles:
    """The objects of a layout in an object store."""

    def __init__(self, address: BucketAddress) -> None:
        """Prepare for requests.

        :raises ConfigError: if the environment is not complete.
        """
        from ...store.objects import Objects

        self._objects = Objects.at(address)

    def locate(self, key: str) -> Location | None:
        """Return where the bytes of an object are; see `LayoutFiles.locate`."""
        found = self._objects.head(key)
        return None if found is None else Location(None, 0, found.size, objects=self._objects, key=key)


class ArchiveFiles:
    """The files of a layout in a tar file, which must not be compressed."""

    def __init__(self, path: Path) -> None:
        """Read the headers of all members.

        :raises ConfigError: if it is no such file.
        """
        import tarfile  # not for directories

        self._path = path
        self._members: dict[str, Location] = {}
        try:
            with open_for_reading(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    self._add(member)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise ConfigError(f"{path} is not a tar file: {_named(path)}") from error

    def _add(self, member: TarInfo) -> None:
        name = member.name.removeprefix("./")
        if member.isreg():
            self._members[name] = Location(self._path, member.offset_data, member.size)
        elif member.islnk() and (target := self._members.get(member.linkname.removeprefix("./"))):
            self._members[name] = target
        elif member.issym():
            # `docker save` stores equal layers once.
            target_name = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            if target := self._members.get(target_name):
                self._members[name] = target

    def locate(self, key: str) -> Location | None:
        """Return where the bytes of a member are; see `LayoutFiles.locate`."""
        return self._members.get(key)


def check_layout(place: str) -> None:
    """Check that a layout seems to be at `place`, without reading much, and without any request.

    :raises ConfigError: if there is none, or the place can't be looked at.
    """
    if is_bucket(place):
        return

    path = Path(place)
    try:
        is_layout, is_file = any((path / name).is_file() for name in (MARKER, INDEX)), path.is_file()
    except (OSError, ValueError) as error:
        raise from_os_error(error, "read", path, kind=ConfigError) from None

    if not (is_layout or is_file):
        raise ConfigError(f"no OCI image layout at {path}")

    if is_file and (name := _named(path)):
        raise ConfigError(f"{path} is not an oci-archive: {name}")


def read(files: LayoutFiles, key: str, limit: int) -> bytes | None:
    """Return the content of a file, None if it does not exist or has more than `limit` bytes.

    :raises MirrorDamaged: if it can't be read.
    """
    with naming(key):
        place = files.locate(key)
        if place is None or place.size > limit:
            return None

        with opened(place) as file:
            return file.read(place.size)


def read_content(files: LayoutFiles, digest: Digest, limit: int) -> bytes | None:
    """Return the verified content with `digest`, None if it does not exist.

    :raises MirrorDamaged: if it is damaged, or has more than `limit` bytes.
    """
    content = read(files, blob_key(digest), limit)
    if content is not None and not digest.matches(content):
        raise damaged(f"{digest} is damaged: its bytes have another digest")

    return content


@contextmanager
def opened(place: Location, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file for reading during the context, at `offset` of its bytes."""
    if place.objects is not None:
        with place.objects.open(place.key) as found:
            found.seek(offset)
            yield cast("BinaryIO", found)

        return

    if place.path is None:
        yield BytesIO(place.content[offset:])
        return

    with open_for_reading(place.path) as file:
        file.seek(place.start + offset)
        yield file


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn failures of the disk into the damage of one file: other images may be readable.

    :raises MirrorDamaged: instead of a StoreError, and for the image only.
    :raises StoreError: if this machine lacks something.
    """
    try:
        yield
    except StoreError as error:
        if is_lack(error):
            raise

        raise damaged(f"{what} can't be read: {error.message}") from None
    except MirrorDamaged as error:
        raise error.replace(scope=Scope.IMAGE, side=Side.SOURCE) from None


def damaged(message: str) -> MirrorDamaged:
    """Return the error for content of a source that is missing or wrong."""
    return MirrorDamaged(message, scope=Scope.IMAGE, side=Side.SOURCE)


def _named(path: Path) -> str:
    """Return the name of another format that a file has, "" if it may be a tar file."""
    try:
        with open_for_reading(path) as file:
            start = file.read(512)
    except StoreError as error:
        return error.message

    for magic, name, program in ((_GZIP, "gzip", "gunzip"), (_ZSTD, "zstd", "unzstd"), (_XZ, "xz", "unxz")):
        if start.startswith(magic):
            return f"it is compressed with {name}: run {program} first"

    is_tar = start[257:262] == b"ustar" or not start.strip(b"\0")
    return "" if is_tar else "it has another format; write the path of a directory, or of an uncompressed tar file"
