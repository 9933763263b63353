"""Buffers of uploads, which are used again: the pages of a new one have to be zeroed.

The kernel does that when a thread receives bytes into them, not when the event loop takes one.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, insort

from ..budget import Budget

# The allocator keeps the memory of smaller ones.
_LEAST_KEPT_BYTES = 128 * 1024
# A buffer is used for at least one part of its size out of so many.
_MOST_TIMES = 2

Buffer = bytearray | mmap.mmap


class BufferPool:
    """The buffers of all transfers of a process, which together hold at most `size` bytes. For one thread."""

    def __init__(self, size: int) -> None:
        self.budget: Budget = Budget(size)
        """The bytes that transfers may take."""
        self._size = size
        self._kept = 0
        """The number of bytes of all buffers that are lent or free, without small ones."""
        self._free: list[mmap.mmap] = []

    def take(self, size: int) -> Buffer:
        """Return a buffer of at least `size` bytes; its content is arbitrary."""
        if size < _LEAST_KEPT_BYTES:
            return bytearray(size)

        for position in range(bisect_left(self._free, size, key=len), len(self._free)):
            found = self._free[position]
            if len(found) > _MOST_TIMES * size:
                break

            if not _is_shared(found):
                return self._free.pop(position)

        self._kept += size
        self._drop(self._size)
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)

    def give_back(self, buffer: Buffer) -> None:
        """Take back a buffer, which a library may still be reading: it is not used again before that has ended."""
        if isinstance(buffer, mmap.mmap):
            insort(self._free, buffer, key=len)
            # Without transfers nothing is kept.
            self._drop(self._size if self.budget.is_used else 0)

    def _drop(self, size: int) -> None:
        """Forget free buffers, the largest first, until all of them hold at most `size` bytes."""
        while self._free and self._kept > size:
            self._kept -= len(self._free.pop())


def _is_shared(buffer: mmap.mmap) -> bool:
    """Return True if a view of the buffer exists: its size can't be changed then."""
    try:
        buffer.resize(len(buffer))
    except BufferError:
        return True
    except SystemError:
        return False  # a system that can change no size looks for views first

    return False
