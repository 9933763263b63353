"""Several operations at once that succeed or fail as one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio

from .errors import QuaymirrorError, most_severe


async def run_all(operations: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run `operations` concurrently; when one fails, the others are cancelled.

    :raises QuaymirrorError: the error itself, not a group of it; of several the most severe one.
    :raises BaseExceptionGroup: if anything else was raised.
    """
    try:
        async with anyio.create_task_group() as tasks:
            for operation in operations:
                tasks.start_soon(operation)
    except BaseExceptionGroup as group:
        raise from_group(group) or group from None


def from_group(group: BaseExceptionGroup[BaseException]) -> QuaymirrorError | None:
    """Return the most severe error of `group`, or None if it holds any other exception."""
    ours, others = group.split(QuaymirrorError)
    if ours is None or others is not None:
        return None

    return most_severe(_leaves(ours))


def _leaves(group: BaseExceptionGroup[QuaymirrorError]) -> Iterable[QuaymirrorError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
