"""Leases: content that readers still need, which deletion leaves in place.

A reader that holds `readers` keeps a writer from deleting anything. A lease only protects the images that it lists, so
neither side waits: a server of a mirror holds one all day. The kernel releases it however its holder ends.

A lease is a locked file that lists the digests of images. It changes only while the lock `guard` is shared; a writer
that deletes blobs holds that lock alone, so that no reader can rely on an image whose blobs are being deleted.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import InvalidName, LockHeld, StoreError
from ..oci import Digest
from .fsops import local_errors, make_directory, opened, read_file, remove, write_all
from .lock import is_held, locked

DIRECTORY = "leases"
_GUARD = "guard"
_SUFFIX = ".lease"
_MAX_BYTES = 64 * 1024 * 1024
# A renewal takes milliseconds; a holder that was stopped in the middle of one must not block deletion for ever.
_GUARD_SECONDS = 5.0
_GUARD_PAUSE_SECONDS = 0.01


class FileLease:
    """A lease in the directory `directory` of a mirror; see `Lease`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{uuid.uuid4().hex}{_SUFFIX}"
        self._stack = ExitStack()
        self._inode = 0
        self._listed: frozenset[Digest] | None = None

    def renew(self, find: Callable[[], Collection[Digest]]) -> bool:
        """Lease the images that `find` returns, and no others; see `Lease.renew`."""
        make_directory(self._directory)
        try:
            with locked(self._directory / _GUARD, shared=True):
                self._open()
                self._write(frozenset(find()))
        except LockHeld:
            return False

        return True

    def close(self) -> None:
        """End the lease."""
        self._stack.close()
        with suppress(StoreError):
            remove(self._path)

    def _open(self) -> None:
        """Create the file, again if the mirror was replaced by another one."""
        if self._inode and self._current_inode() == self._inode:
            return

        self._stack.close()
        self._stack.enter_context(locked(self._path))
        self._inode, self._listed = self._current_inode(), None

    def _current_inode(self) -> int:
        with local_errors("read", self._path), suppress(FileNotFoundError):
            return self._path.stat().st_ino

        return 0

    def _write(self, digests: frozenset[Digest]) -> None:
        if digests == self._listed:
            return

        # In place: a new file would not be locked. No process reads it while `guard` is held.
        text = "".join(f"{digest}\n" for digest in sorted(digests))
        with opened(self._path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, "write") as descriptor:
            write_all(descriptor, [text.encode()], self._path)

        self._listed = digests


@contextmanager
def leasing(directory: Path) -> Iterator[FileLease]:
    """Hold a lease in `directory` during the context; files of holders that were killed are removed first."""
    with suppress(LockHeld, StoreError), locked(directory / _GUARD):
        for path in _files(directory):
            if not is_held(path):
                remove(path)

    lease = FileLease(directory)
    try:
        yield lease
    finally:
        lease.close()


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """Keep leases from being renewed during the context.

    :raises LockHeld: if a lease is being renewed for seconds.
    :raises StoreError: if the file system has no locks.
    """
    make_directory(directory)
    deadline = time.monotonic() + _GUARD_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(directory / _GUARD))
                break
            except LockHeld:
                if time.monotonic() > deadline:
                    raise LockHeld(f"a stopped server holds {directory / _GUARD}: end it") from None

                time.sleep(_GUARD_PAUSE_SECONDS)

        yield


def leased(directory: Path) -> set[Digest]:
    """Return the digests of all images that leases in `directory` list."""
    found: set[Digest] = set()
    for path in _files(directory):
        if is_held(path):
            for line in (read_file(path, _MAX_BYTES) or b"").decode(errors="replace").splitlines():
                with suppress(InvalidName):
                    found.add(Digest.parse(line))

    return found


def _files(directory: Path) -> list[Path]:
    with local_errors("read", directory):
        return sorted(directory.glob(f"*{_SUFFIX}")) if directory.is_dir() else []
