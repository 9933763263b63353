"""Every operation that changes the disk, in one place: here durability is decided and local failures get their name.

Order is everything: a file is written under a temporary name, synced, renamed; the directory is synced before anything
that relies on the name is committed (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path

from ..errors import Phase, StoreError, from_os_error

# What file systems answer to what they do not have at all: shares of other systems, FUSE, FAT.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})

Watch = Callable[[str, Path], AbstractContextManager[None]]
"""Called with the name and the path of an operation; what it returns surrounds the operation."""

_NOTHING = nullcontext()
_watch: Watch | None = None


class Fsync(StrEnum):
    """How much is forced to the disk before an image counts as mirrored."""

    ALWAYS = "always"
    """Each file before it gets its name, and the directory before the commit: safe against power loss."""
    BATCH = "batch"
    """The whole file system once before each commit: as safe, and cheaper where nothing else writes to it."""
    NEVER = "never"
    """Nothing: safe against a killed process, not against power loss."""


def watch(hook: Watch | None) -> None:
    """Have `hook` surround every operation of this process from now on: it may look, fail, or end it all. For tests."""
    global _watch
    _watch = hook


def step(operation: str, path: Path) -> AbstractContextManager[None]:
    """Return the context to do one operation in."""
    return _NOTHING if _watch is None else _watch(operation, path)


@contextmanager
def local_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the context into a StoreError that says what was being done, and to what."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, path, kind=StoreError, phase=Phase.STORE) from error


@contextmanager
def _if_there_is_such(*also: int) -> Iterator[None]:
    """Let pass that the file system has no such thing; it may say so by `also`, too."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED | set(also):
            raise


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, durably: a file is no safer than the names that lead to it.

    :raises StoreError: when that can't be done.
    """
    if path.is_dir():
        return

    if path.parent != path:
        make_directory(path.parent)

    with local_errors("create directory", path), step("mkdir", path):
        path.mkdir(exist_ok=True)

    sync_directory(path.parent)


def open_for_append(path: Path, *, keep: bool = True) -> int:
    """Open `path` for writing at its end, creating it; what is there stays if `keep`. No symbolic link is followed.

    :raises StoreError: when that can't be done.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if keep else os.O_TRUNC)
    with local_errors("open", path), step("open", path):
        return os.open(path, flags, 0o644)


def open_for_update(path: Path, *, keep: bool = True) -> int:
    """Open `path` for writing anywhere in it, creating it; what is there stays if `keep`. No link is followed.

    :raises StoreError: when that can't be done.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if keep else os.O_TRUNC)
    with local_errors("open", path), step("open", path):
        return os.open(path, flags, 0o644)


def write_at(descriptor: int, chunks: list[bytes], offset: int, path: Path) -> None:
    """Write all of `chunks`, one after the other from `offset` on.

    :raises StoreError: when the disk takes less.
    """
    with local_errors("write", path):
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                with step("write", path):
                    written = os.pwrite(descriptor, view, offset)

                view, offset = view[written:], offset + written


def write_all(descriptor: int, chunks: list[bytes], path: Path) -> None:
    """Write all of `chunks`.

    :raises StoreError: when the disk takes less.
    """
    with local_errors("write", path):
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                with step("write", path):
                    view = view[os.write(descriptor, view) :]


def truncate(descriptor: int, path: Path) -> None:
    """Make the file empty.

    :raises StoreError: when that can't be done.
    """
    with local_errors("truncate", path), step("truncate", path):
        os.ftruncate(descriptor, 0)


def seal(descriptor: int, temporary: Path, *, sync: bool = True) -> None:
    """Make the content of `temporary`, open as `descriptor`, durable, unless not `sync`, and read-only.

    A failed fsync is final: the kernel may have dropped the pages and would report success the next time (Rebello et
    al., ATC 2020), so the file goes.

    :raises StoreError: when that can't be done.
    """
    with local_errors("write", temporary):
        if sync:
            _sync_or_drop(descriptor, temporary)

        # A courtesy: it keeps people from changes by mistake, and nobody relies on it. A file that another user began
        # is not ours to change.
        with _if_there_is_such(errno.EPERM), step("chmod", temporary):
            os.fchmod(descriptor, 0o444)


def close(descriptor: int, path: Path) -> None:
    """Close the file at `path`, which may block.

    :raises StoreError: when it says only now that it did not keep all of it, as on network file systems.
    """
    with local_errors("write", path):
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Give the sealed file `temporary` its `final` name, which is durable after `sync_directory`.

    :raises StoreError: when that can't be done; `final` is then untouched.
    """
    with local_errors("write", final), step("rename", final):
        temporary.rename(final)


def sync_file(path: Path) -> None:
    """Make the content of a file durable that somebody else wrote.

    :raises StoreError: when that can't be done.
    """
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable, as far as the file system can sync directories.

    :raises StoreError: when that can't be done.
    """
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file_system(path: Path) -> None:
    """Make everything durable on the file system that holds `path` (Linux; elsewhere on all of them).

    :raises StoreError: when that can't be done.
    """
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    with local_errors("sync", path):
        if syncfs is None:
            return os.sync()

        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with step("syncfs", path):
                if syncfs(descriptor) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace `path` by `content` at once, durably unless not `sync`: a reader sees the old bytes or the new ones.

    :raises StoreError: when any step fails; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    with local_errors("write", path):
        try:
            _write_new(temporary, content, sync=sync)
            with step("rename", path):
                temporary.replace(path)
        except OSError:
            # On a full disk what is left of it would be in the way of everybody.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

            raise

    if sync:
        sync_directory(path.parent)


def read_file(path: Path, limit: int = -1) -> bytes | None:
    """Return the content of a file, its first `limit` bytes at most, None if there is none.

    What is no file is not waited for.

    :raises StoreError: when it can't be read, which does not mean that it is empty.
    """
    with local_errors("read", path):
        try:
            # To open a pipe would block until somebody writes to it.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a file")

            return file.read(limit)


def set_aside(path: Path, aside: Path) -> None:
    """Give what is at `path` another name, if it is there.

    :raises StoreError: when that can't be done.
    """
    with local_errors("set aside", path), step("rename", aside), suppress(FileNotFoundError):
        path.rename(aside)


def remove(path: Path) -> None:
    """Remove a file if it is there.

    :raises StoreError: when that can't be done.
    """
    with local_errors("remove", path), step("unlink", path):
        path.unlink(missing_ok=True)


def free_bytes(path: Path) -> tuple[int, int]:
    """Return how many bytes may still be written to the file system of `path`, and in what units it hands them out.

    :raises StoreError: when it does not say.
    """
    with local_errors("look at the space of", path):
        status = os.statvfs(path)

    return status.f_bavail * status.f_frsize, status.f_frsize


def in_blocks(size: int, unit: int) -> int:
    """Return how many bytes a file of `size` bytes takes in blocks of `unit` bytes each."""
    return -(-size // unit) * unit


def _write_new(path: Path, content: bytes, *, sync: bool) -> None:
    with step("open", path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)

    try:
        view = memoryview(content)
        while view:
            with step("write", path):
                view = view[os.write(descriptor, view) :]

        if sync:
            with step("fsync", path):
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_or_drop(descriptor: int, temporary: Path) -> None:
    try:
        with step("fsync", temporary):
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

        raise


def _sync(path: Path, flags: int) -> None:
    with local_errors("sync", path):
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        leniency = _if_there_is_such() if flags & os.O_DIRECTORY else _NOTHING
        try:
            with leniency, step("fsync", path):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
