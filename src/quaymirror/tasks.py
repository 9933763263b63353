"""Concurrent operations that succeed or fail together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from .errors.base import QuaymirrorError, most_severe


async def run_all(operations: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run `operations` concurrently; when one fails, the others are cancelled. A single one needs no task.

    :raises QuaymirrorError: the error itself, not a group of it; of several the most severe one.
    :raises BaseExceptionGroup: if anything else was raised by one of several.
    """
    several = list(operations)
    if len(several) < 2:
        for operation in several:
            await operation()

        return

    try:
        async with anyio.create_task_group() as tasks:
            for operation in several:
                tasks.start_soon(operation)
    except BaseExceptionGroup as group:
        raise from_group(group) or group from None


@asynccontextmanager
async def background(
    operation: Callable[[], Coroutine[Any, Any, None]],
) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Run `operation` beside the body; the value waits for its end, and raises its error. The exit cancels it.

    Unlike a task group, this context may be open at the `yield` of an async generator: it neither holds a cancel scope
    of the task nor cancels the body.
    """
    task = asyncio.create_task(operation())  # noqa: TID251 - cancelled and awaited below

    async def finish() -> None:
        await asyncio.wait([task])
        task.result()

    try:
        yield finish
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])

        if not task.cancelled():
            task.exception()  # an error that nothing waits for is not worth a warning of the event loop


def from_group(group: BaseExceptionGroup[BaseException]) -> QuaymirrorError | None:
    """Return the most severe error of `group`, or None if it holds any other exception."""
    ours, others = group.split(QuaymirrorError)
    if ours is None or others is not None:
        return None

    errors = (error if isinstance(error, QuaymirrorError) else from_group(error) for error in ours.exceptions)
    return most_severe(filter(None, errors))
