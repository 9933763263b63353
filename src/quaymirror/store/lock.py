"""One writer a mirror: an advisory lock that the kernel frees, however its holder ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LockHeld
from .fsops import local_errors


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock at `path` while the context lasts: alone, or `shared` with others who only read.

    The file stays: an unlinked lock file would give two holders. What it says about the holder is for people only.

    :raises LockHeld: when someone else has it.
    :raises StoreError: when the file can't be opened, or the file system knows no locks.
    """
    with local_errors("open", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    try:
        _take(descriptor, path, shared=shared)
        if not shared:
            _introduce(descriptor, path)

        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for one's turn with the file or directory at `path`, and have it while the context lasts. It blocks.

    :raises StoreError: when it can't be opened, or the file system knows no locks.
    """
    with local_errors("lock", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    try:
        with local_errors("lock", path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)

        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, *, shared: bool) -> None:
    try:
        with local_errors("lock", path):
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except Exception as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise LockHeld(f"{path.parent.parent} is in use by another run{_holder(descriptor)}") from None

        raise


def _introduce(descriptor: int, path: Path) -> None:
    with local_errors("write", path):
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder["started"])))
        return f" (process {int(holder['pid'])} on {str(holder['host'])!r}, since {started})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return ""
