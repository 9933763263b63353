"""All operations that change the disk. They decide about durability, and turn OSErrors into StoreErrors.

The order matters: a file is written under a temporary name, synced and renamed; its directory is synced before anything
that relies on the name is committed (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). Functions
raise `StoreError` if an operation fails.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from ..errors import Phase, StoreError, from_os_error

# Answers of file systems that lack an operation: network shares, FUSE, FAT.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})

Watch = Callable[[str, Path], AbstractContextManager[None]]
"""Called with the name and the path of an operation; returns the context to do it in."""

_NOTHING = nullcontext()
_watch: Watch | None = None


class Fsync(StrEnum):
    """Durability of an image when it counts as mirrored."""

    ALWAYS = "always"
    """Sync each file before its rename, and the directory before the commit: safe against power loss."""
    BATCH = "batch"
    """Sync the file system once before each commit: as safe, and cheaper if nothing else writes to it."""
    NEVER = "never"
    """Sync nothing: safe against a killed process, not against power loss."""


def watch(hook: Watch | None) -> None:
    """Surround every operation of this process with `hook` from now on, for tests that observe or interrupt them."""
    global _watch
    _watch = hook


def step(operation: str, path: Path) -> AbstractContextManager[None]:
    """Return the context to do one operation in."""
    return _NOTHING if _watch is None else _watch(operation, path)


@contextmanager
def local_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the context into a StoreError that names the operation and the path."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, path, kind=StoreError, phase=Phase.STORE) from error


@contextmanager
def _ignore_unsupported(*also: int) -> Iterator[None]:
    """Ignore errors that mean "not supported by this file system" (`also`: further errno values)."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED | set(also):
            raise


def exists(path: Path) -> bool:
    """Return True if something is at `path`, False if not; if that can't be known, it is an error."""
    with local_errors("read", path):
        return path.exists()


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents durably: a file is no safer than the directories that lead to it."""
    with local_errors("create directory", path):
        if path.is_dir():
            return

    if path.parent != path:
        make_directory(path.parent)

    with local_errors("create directory", path), step("mkdir", path):
        path.mkdir(exist_ok=True)

    sync_directory(path.parent)


def open_part(path: Path, flags: int = 0) -> int:
    """Open `path` for reading and writing, creating it; symbolic links are refused. `flags` are those of `os.open`.

    With O_TRUNC it is a new file.
    """
    if not flags & os.O_TRUNC:
        unshare(path)

    with local_errors("open", path), step("open", path):
        return _open_file(path, flags | os.O_RDWR)


def _open_file(path: Path, flags: int) -> int:
    """Open `path`, creating it; what O_TRUNC would empty may have other names, and is replaced."""
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    if not flags & os.O_TRUNC:
        return os.open(path, flags, 0o644)

    try:
        return os.open(path, flags | os.O_EXCL, 0o644)
    except FileExistsError:
        path.unlink()
        return os.open(path, flags | os.O_EXCL, 0o644)


def unshare(path: Path) -> None:
    """Replace a file that has further names, as in a copy made of hard links, by a file of its own."""
    with local_errors("copy", path), suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink < 2:
            return

        import shutil

        temporary = path.with_name(f".{path.name}.own")
        with _removed_on_failure(temporary), step("copy", path):
            temporary.unlink(missing_ok=True)
            shutil.copy2(path, temporary)
            descriptor = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

            temporary.replace(path)

        sync_directory(path.parent)


def open_unnamed(directory: Path) -> int:
    """Open a file without a name in `directory` for reading and writing: it disappears with its last descriptor."""
    with local_errors("open a file in", directory), step("open", directory):
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except (AttributeError, OSError) as error:
            # Not all file systems and kernels know this flag.
            if isinstance(error, OSError) and error.errno not in _UNSUPPORTED | {errno.EISDIR, errno.ENOENT}:
                raise

        import tempfile

        descriptor, name = tempfile.mkstemp(dir=directory)
        Path(name).unlink()
        return descriptor


def read_at(descriptor: int, length: int, offset: int, path: Path) -> bytes:
    """Return `length` bytes at `offset` of the file at `path`, which must have them."""
    with local_errors("read", path):
        content = os.pread(descriptor, length, offset)
        if not content:
            raise OSError(errno.EIO, "the file is too short")

        return content


@contextmanager
def opened(path: Path, flags: int, doing: str) -> Iterator[int]:
    """Open `path` during the context with the `flags` of `os.open`; `doing` is as in `local_errors`."""
    with local_errors(doing, path):
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)

    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, chunks: Iterable[bytes | memoryview], path: Path, *, offset: int | None = None) -> None:
    """Write all of `chunks` one after the other, starting at `offset` or at the current position."""
    with local_errors("write", path):
        _write(descriptor, chunks, path, offset)


def _write(descriptor: int, chunks: Iterable[bytes | memoryview], path: Path, offset: int | None = None) -> None:
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            with step("write", path):
                written = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)

            view = view[written:]
            offset = None if offset is None else offset + written


def truncate(descriptor: int, path: Path) -> None:
    """Make the file empty."""
    with local_errors("truncate", path), step("truncate", path):
        os.ftruncate(descriptor, 0)


def seal(descriptor: int, temporary: Path, *, sync: bool = True) -> None:
    """Make the content of `temporary`, open as `descriptor`, durable if `sync`, and read-only.

    A failed fsync is final: the kernel may have dropped the pages and would report success the next time (Rebello et
    al., ATC 2020), so the file is removed.
    """
    with local_errors("write", temporary):
        if sync:
            with _removed_on_failure(temporary), step("fsync", temporary):
                os.fsync(descriptor)

        # This only prevents changes by mistake. The mode of a file that another user created can't be changed.
        with _ignore_unsupported(errno.EPERM), step("chmod", temporary):
            os.fchmod(descriptor, 0o444)


def close(descriptor: int, path: Path) -> None:
    """Close the file at `path`. It may block, and fail if a network file system reports a failed write only now."""
    with local_errors("write", path):
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Give the sealed file `temporary` its `final` name, which is durable after `sync_directory`."""
    with local_errors("write", final), step("rename", final):
        temporary.rename(final)


def sync_file(path: Path) -> None:
    """Make the content of a file durable that another program wrote."""
    with opened(path, os.O_NOFOLLOW, "sync") as descriptor, local_errors("sync", path), step("fsync", path):
        os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable, if the file system can sync directories."""
    with (
        opened(path, os.O_DIRECTORY, "sync") as descriptor,
        local_errors("sync", path),
        _ignore_unsupported(),
        step("fsync", path),
    ):
        os.fsync(descriptor)


def sync_file_system(path: Path) -> None:
    """Make everything durable on the file system of `path` (on systems other than Linux: on all file systems)."""
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return

    with opened(path, os.O_RDONLY, "sync") as descriptor, local_errors("sync", path), step("syncfs", path):
        if syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def replace_file(path: Path, content: bytes, *, sync: bool = True, suffix: str = "new") -> None:
    """Replace or create `path` atomically, and durably if `sync`. If it fails, `path` is unchanged.

    `suffix` distinguishes the temporary files of processes that may replace the same file at the same time.
    """
    temporary = path.with_name(f".{path.name}.{suffix}")
    with local_errors("write", path), _removed_on_failure(temporary):
        with step("open", temporary):
            descriptor = _open_file(temporary, os.O_WRONLY | os.O_TRUNC)

        try:
            _write(descriptor, [content], temporary)
            if sync:
                with step("fsync", temporary):
                    os.fsync(descriptor)
        finally:
            os.close(descriptor)

        with step("rename", path):
            temporary.replace(path)

    if sync:
        sync_directory(path.parent)


def open_for_writing(path: Path, flags: int = 0) -> int:
    """Open what the user named, which may be a device or a pipe, for writing; `flags` are further ones of `os.open`.

    :raises OSError: if it can't be opened, or is a pipe that no process reads: opening it would block.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


@contextmanager
def open_for_reading(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading during the context. Other kinds of files are refused and not waited for.

    OSErrors of the context, which reads from it, become StoreErrors, too.
    """
    with local_errors("read", path):
        # Opening a pipe would block until another process writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a file")

            yield file


def read_file(path: Path, limit: int = -1) -> bytes | None:
    """Return the content of a regular file, at most its first `limit` bytes, None if it does not exist."""
    try:
        with open_for_reading(path) as file:
            # With a limit, a buffer of that size would be made, which takes longer than reading a small file.
            is_small = limit >= 0 and os.fstat(file.fileno()).st_size <= limit
            return file.read()[:limit] if is_small else file.read(limit)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None

        raise


def set_aside(path: Path, aside: Path) -> None:
    """Rename the file at `path` if it exists."""
    with local_errors("set aside", path), step("rename", aside), suppress(FileNotFoundError):
        path.rename(aside)


def remove(path: Path) -> None:
    """Remove a file if it exists."""
    with local_errors("remove", path), step("unlink", path), suppress(NotADirectoryError):
        path.unlink(missing_ok=True)


def free_bytes(path: Path) -> tuple[int, int, int]:
    """Return the free bytes of the file system of `path`, the size of the blocks that it allocates, and all bytes."""
    with local_errors("look at the space of", path):
        status = os.statvfs(path)

    return status.f_bavail * status.f_frsize, status.f_frsize, status.f_blocks * status.f_frsize


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """Remove a temporary file if the context fails: on a full disk it would occupy space that others need."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            path.unlink(missing_ok=True)

        raise
