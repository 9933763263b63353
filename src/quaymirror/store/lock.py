"""Advisory locks of a mirror, which the kernel releases however their holder ends.

The only writer holds `lock`. All who rely on blobs staying in place, the writer included, share `readers`; a writer
that deletes blobs holds both alone. So a mirror can be verified while a run adds to it, and no blob disappears while it
is being read.

Functions raise `StoreError` if a file can't be opened, or the file system does not support locks.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from ..errors import LockHeld, Phase, StoreError
from ..untrusted import parse_object
from .fsops import exists, local_errors, opened, read_file, unshare

WRITERS = "lock"
READERS = "readers"

_WAIT = "wait for its end; sync, run and push do with --wait"
_MAX_HOLDER_BYTES = 4096
# The time within which a helper of a process that was killed ends, and the time between two looks at it.
_CLAIM_SECONDS = 10.0
_LOOK_SECONDS = 0.02

Patience = Callable[[LockHeld], Awaitable[None]]
"""Called each time a lock is held by another run: waits before the next attempt, or raises."""


class Lock:
    """A lock that is held."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a shared lock alone during the context.

        :raises LockHeld: if others hold it, too.
        """
        try:
            _take(self._descriptor, self._path, shared=False)
            yield
        finally:
            _take(self._descriptor, self._path, shared=True)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[Lock]:
    """Hold the lock at `path` during the context: alone, or `shared` with readers.

    The file stays: a lock file that is removed could have two holders. Its content only describes the holder.

    :raises LockHeld: if another process holds it.
    """
    _unshare(path)
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, "open") as descriptor:
        _take(descriptor, path, shared=shared)
        if path.name == WRITERS:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
            with local_errors("write", path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)

        yield Lock(descriptor, path)


def _unshare(path: Path) -> None:
    """Give a lock a file of its own if a copy of the mirror has the same one, unless a process holds that."""
    if _has_more_names(path):
        with suppress(LockHeld), opened(path, os.O_RDWR | os.O_NOFOLLOW, "open") as descriptor:
            _take(descriptor, path, shared=False)
            unshare(path)


def _has_more_names(path: Path) -> bool:
    with local_errors("open", path), suppress(FileNotFoundError):
        return os.lstat(path).st_nlink > 1

    return False


class DirectoryLock:
    """A directory that is held alone, by itself: a lock file in it can be deleted, and then have a second holder."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._status = os.fstat(descriptor)
        self._path = path

    def check(self) -> None:
        """Check that the directory still is where it was.

        :raises StoreError: if it was moved away or replaced, so that files would be written elsewhere.
        """
        try:
            is_same = os.path.samestat(self._status, self._path.stat())
        except OSError:
            is_same = False

        if not is_same:
            raise StoreError(f"{self._path} was moved or replaced during the run: nothing is written into its place")


@contextmanager
def directory_locked(path: Path) -> Iterator[DirectoryLock]:
    """Hold the directory at `path` alone during the context, where the file system can lock directories: NFS can't.

    :raises LockHeld: if another process holds it.
    """
    with opened(path, os.O_RDONLY | os.O_DIRECTORY, "open") as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(f"{path} is in use by another run: {_WAIT}") from None
        except OSError:
            pass  # the lock file alone has to do

        yield DirectoryLock(descriptor, path)


@asynccontextmanager
async def patiently_locked(
    path: Path, patience: Patience | None, *, directory: Path | None = None
) -> AsyncIterator[DirectoryLock | None]:
    """Hold the lock at `path`, and a `directory`, alone during the context.

    `patience` is called while another process holds them.

    :raises LockHeld: if another process holds it, and there is no `patience`.
    """
    with ExitStack() as stack:
        while True:
            try:
                with ExitStack() as both:
                    both.enter_context(locked(path))
                    held = None if directory is None else both.enter_context(directory_locked(directory))
                    stack.push(both.pop_all())

                break
            except LockHeld as error:
                if patience is None:
                    raise

                await patience(error)

        yield held


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep blobs of the mirror whose locks are in `directory` from being deleted during the context.

    A mirror on a read-only medium needs no lock: no process can write there.

    :raises LockHeld: if blobs are being deleted.
    """
    path = directory / READERS
    with ExitStack() as stack:
        try:
            flags = os.O_NOFOLLOW | os.O_NONBLOCK | (0 if exists(path) else os.O_CREAT)
            descriptor = stack.enter_context(opened(path, flags, "open"))
        except StoreError:
            pass
        else:
            _take(descriptor, path, shared=True)

        yield


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until the file at `path`, created if necessary, is not in use, and use it during the context. It blocks."""
    # For writing: NFS has no exclusive locks on files that are open for reading (flock(2)), so none on directories.
    with opened(path, os.O_RDWR | os.O_CREAT, "open") as descriptor:
        with local_errors("lock", path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)

        yield


def claim(descriptor: int, path: Path) -> None:
    """Wait until no other process writes to the open file at `path`: a helper ends at once, but after its parent.

    It blocks. On a file system without locks it does not wait.

    :raises StoreError: if one still does after some seconds.
    """
    deadline = time.monotonic() + _CLAIM_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreError(f"{path}: another process still writes to it", phase=Phase.STORE) from None

            time.sleep(_LOOK_SECONDS)
        except OSError:
            return
        else:
            return


def is_held(path: Path) -> bool:
    """Return True if a process holds the lock at `path` alone; False if the file does not exist, too."""
    try:
        with opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, "open") as descriptor:
            _take(descriptor, path, shared=True)
    except LockHeld:
        return True
    except StoreError:
        return False

    return False


def _take(descriptor: int, path: Path, *, shared: bool) -> None:
    try:
        with local_errors("lock", path):
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), path.stat()):
                raise StoreError(f"{path} was replaced while it was being locked: try again")
    except StoreError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise LockHeld(_held(path, shared=shared)) from None

        raise


def _held(path: Path, *, shared: bool) -> str:
    """Return the message about the holder of `path`. Readers leave no description; a deleting writer does."""
    if path.name == READERS and not shared:
        return f"{path.parent.parent} is being read by verify or another run: try again when that has ended"

    return f"{path.parent.parent} is in use by another run{_holder(path.with_name(WRITERS))}: {_WAIT}"


def _holder(path: Path) -> str:
    try:
        holder = parse_object(read_file(path, _MAX_HOLDER_BYTES) or b"", limit=_MAX_HOLDER_BYTES)
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder["started"])))
        return f" (process {int(holder['pid'])} on {str(holder['host'])!r}, since {started})"
    except (StoreError, ValueError, KeyError, TypeError, OverflowError):
        return ""
