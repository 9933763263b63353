"""Every operation that changes the disk, in one place: here durability is decided and local failures get their name.

Order is everything: a file is written under a temporary name, synced, renamed; the directory is synced before anything
that relies on the name is committed (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Phase, StoreError

_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "input/output error",
    errno.EMFILE: "too many open files",
}


@contextmanager
def local_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the context into a StoreError that says what was being done, and to what."""
    try:
        yield
    except OSError as error:
        words = _WORDS.get(error.errno or 0, (error.strerror or type(error).__name__).lower())
        raise StoreError(f"can't {doing} {path}: {words}", phase=Phase.LAND) from error


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents.

    :raises StoreError: when that can't be done.
    """
    with local_errors("create directory", path):
        path.mkdir(parents=True, exist_ok=True)


def open_for_append(path: Path) -> int:
    """Open `path` for writing at its end, creating it; no symbolic link is followed.

    :raises StoreError: when that can't be done.
    """
    with local_errors("open", path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def write_all(descriptor: int, chunks: list[bytes], path: Path) -> None:
    """Write all of `chunks`.

    :raises StoreError: when the disk takes less.
    """
    with local_errors("write", path):
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]


def truncate(descriptor: int, path: Path) -> None:
    """Make the file empty.

    :raises StoreError: when that can't be done.
    """
    with local_errors("truncate", path):
        os.ftruncate(descriptor, 0)


def publish(descriptor: int, temporary: Path, final: Path, *, durable: bool = True) -> None:
    """Make the content of `temporary` durable and give it its `final`, read-only, name.

    The name itself is durable after `sync_directory`. A failed fsync is final: the kernel may have dropped the pages
    and would report success the next time (Rebello et al., ATC 2020).

    What is not to be `durable` is for this run only.

    :raises StoreError: when any step fails; `final` is then untouched.
    """
    with local_errors("write", final):
        if durable:
            os.fsync(descriptor)

        os.fchmod(descriptor, 0o444)
        temporary.rename(final)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable.

    :raises StoreError: when that can't be done.
    """
    with local_errors("sync", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, durably and at once: a reader sees the old bytes or the new ones, never a part.

    :raises StoreError: when any step fails; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    with local_errors("write", path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, [content], temporary)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

        temporary.replace(path)

    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there.

    :raises StoreError: when that can't be done.
    """
    with local_errors("remove", path):
        path.unlink(missing_ok=True)
