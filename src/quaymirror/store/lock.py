"""Who may do what to a mirror at the same time: advisory locks that the kernel frees, however their holder ends.

There are two. `lock` is held by the one who writes. `readers` is shared by all who rely on blobs staying where they
are, whoever writes included; whoever removes blobs holds both alone. So a mirror can be verified while a run adds to
it, and nothing goes away under anybody.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from ..errors import LockHeld, StoreError
from .fsops import local_errors

WRITERS = "lock"
READERS = "readers"

Patience = Callable[[LockHeld], Awaitable[None]]
"""Called each time a lock could not be had: to wait before the next attempt, or to raise."""


class Lock:
    """A lock that is held."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Share it with nobody while the context lasts, and with others again after it.

        :raises LockHeld: when others have it, too.
        :raises StoreError: when the file system knows no locks.
        """
        try:
            _take(self._descriptor, self._path, shared=False)
            yield
        finally:
            _take(self._descriptor, self._path, shared=True)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[Lock]:
    """Hold the lock at `path` while the context lasts: alone, or `shared` with others who only read.

    The file stays: an unlinked lock file would give two holders. What it says about the holder is for people only.

    :raises LockHeld: when someone else has it.
    :raises StoreError: when the file can't be opened, or the file system knows no locks.
    """
    with local_errors("open", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    try:
        _take(descriptor, path, shared=shared)
        if path.name == WRITERS:
            _introduce(descriptor, path)

        yield Lock(descriptor, path)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def patiently_locked(path: Path, patience: Patience | None) -> AsyncIterator[None]:
    """Hold the lock at `path` alone, as `locked`, and ask `patience` what to do as long as somebody else has it.

    :raises LockHeld: when someone else has it, and there is no patience.
    :raises StoreError: as `locked`.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path))
                break
            except LockHeld as error:
                if patience is None:
                    raise

                await patience(error)

        yield


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep others from removing blobs of the mirror that has its locks in `directory`, while the context lasts.

    Where nobody can write, nobody has to be kept away: a mirror on a read-only medium needs no lock.

    :raises LockHeld: when somebody is removing blobs.
    :raises StoreError: when the file system knows no locks.
    """
    path = directory / READERS
    try:
        descriptor = _open_for_reading(path)
    except StoreError:
        yield
        return

    try:
        _take(descriptor, path, shared=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for one's turn with the file at `path`, created if need be, and have it while the context lasts. It blocks.

    :raises StoreError: when it can't be opened, or the file system knows no locks.
    """
    with local_errors("open", path):
        # For writing: on NFS there is no exclusive lock on what is open for reading (flock(2)), so none on a directory.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    try:
        with local_errors("lock", path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)

        yield
    finally:
        os.close(descriptor)


def _open_for_reading(path: Path) -> int:
    with local_errors("open", path):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _take(descriptor: int, path: Path, *, shared: bool) -> None:
    try:
        with local_errors("lock", path):
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), path.stat()):
                raise StoreError(f"{path} was replaced while it was being locked: try again")
    except StoreError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise LockHeld(_who(path, shared=shared)) from None

        raise


def _introduce(descriptor: int, path: Path) -> None:
    with local_errors("write", path):
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _who(path: Path, *, shared: bool) -> str:
    """What to tell of whoever holds `path`: who removes blobs writes, too, but readers don't say who they are."""
    if path.name == READERS and not shared:
        return f"{path.parent.parent} is being read, by verify or another run: try again when that has ended"

    return f"{path.parent.parent} is in use by another run{_holder(path.with_name(WRITERS))}"


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes()[:4096])
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder["started"])))
        return f" (process {int(holder['pid'])} on {str(holder['host'])!r}, since {started})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ""
