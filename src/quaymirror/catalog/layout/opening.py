"""The files of a layout, whatever form it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...errors import ConfigError
from ...selection.bucket import is_bucket, parse_bucket
from ...store.local_storage import LocalStorage
from ...store.snapshots import open_at
from ...store.storage import INDEX, ObjectInfo, Storage
from .docker_archive import DockerArchiveFiles, is_docker_archive
from .files import ArchiveFiles, BucketFiles, DirectoryFiles, LayoutFiles, check_layout, opened


def open_files(place: str) -> LayoutFiles:
    """Return the files of the layout at `place`: a directory, an object store, an oci-archive, or a docker-archive.

    :raises ConfigError: if there is none.
    """
    if is_bucket(place):
        return BucketFiles(parse_bucket(place))

    path = Path(place)
    if not path.is_file():
        return DirectoryFiles(path)

    files = ArchiveFiles(path)
    if files.locate(INDEX) is not None:
        return files

    if is_docker_archive(files):
        return DockerArchiveFiles(files, str(path))

    raise ConfigError(f"{path} is a tar file without {INDEX}")


def readable_storage(path: Path, at: str | None = None) -> Storage:
    """Return the storage of the layout at `path`, in any form, for reading; with `at` that of a snapshot.

    A mirror in an object store is given by the directory of its state.

    :raises ConfigError: if no layout is there, or `at` means no snapshot of it.
    :raises StoreError: if the disk fails.
    """
    if not path.is_file():
        return open_at(path, at)

    check_layout(str(path))
    if at is not None:
        raise ConfigError(f"{path} is a file: only mirrors have snapshots")

    return _ArchiveStorage(path, open_files(str(path)))


class _ArchiveStorage(LocalStorage):
    """The files of a layout in a tar file, as a storage for reading."""

    def __init__(self, root: Path, files: LayoutFiles) -> None:
        super().__init__(root)
        self._members = files

    def info(self, key: str) -> ObjectInfo | None:
        """Return the properties of a member, None if it does not exist."""
        place = self._members.locate(key)
        return None if place is None else ObjectInfo(key, place.size, 0.0)

    def read(self, key: str, limit: int = -1) -> bytes | None:
        """Return the content of a member, None if it does not exist."""
        place = self._members.locate(key)
        if place is None:
            return None

        with opened(place) as file:
            return file.read(place.size if limit < 0 else min(limit, place.size))

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open a member for reading."""
        place = self._members.locate(key)
        if place is None:
            raise ConfigError(f"{self.root} has no {key}")

        with opened(place) as file:
            yield file
