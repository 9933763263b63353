"""Bytes that a thread puts into a sink, as from a connection of its own."""

from __future__ import annotations

import anyio.lowlevel
import anyio.to_thread

from quaymirror.http.bodies import Fill


async def fill_in_thread(fill: Fill, content: bytes, *, at_a_time: int = 100_000) -> None:
    """Have a thread append `content`, at most `at_a_time` bytes per read. If it is cancelled, the thread has ended."""
    rest = memoryview(content)

    def read(view: memoryview) -> int:
        nonlocal rest
        count = min(len(view), len(rest), at_a_time)
        view[:count] = rest[:count]
        rest = rest[count:]
        return count

    try:
        await anyio.to_thread.run_sync(fill, read)
    except Exception:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise
