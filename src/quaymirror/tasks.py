"""Several operations at once that succeed or fail as one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import anyio

from .errors import QuaymirrorError, Scope


async def run_all(operations: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run `operations` concurrently; when one fails, the others are cancelled.

    :raises QuaymirrorError: the failure itself, not a group of it; of several the one that reaches furthest.
    :raises BaseExceptionGroup: when anything else was raised.
    """
    try:
        async with anyio.create_task_group() as tasks:
            for operation in operations:
                tasks.start_soon(operation)
    except BaseExceptionGroup as group:
        raise from_group(group) or group from None


def from_group(group: BaseExceptionGroup[BaseException]) -> QuaymirrorError | None:
    """Return the error of `group` that reaches furthest, None if there is anything in it that isn't ours."""
    ours, others = group.split(QuaymirrorError)
    if ours is None or others is not None:
        return None

    return most_severe([*_leaves(ours)])


def most_severe(errors: Sequence[QuaymirrorError]) -> QuaymirrorError:
    """Return the one of `errors`, of which there are some, that reaches furthest; the first of several."""
    return next((error for error in errors if error.scope is Scope.RUN), errors[0])


def _leaves(group: BaseExceptionGroup[QuaymirrorError]) -> Iterable[QuaymirrorError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
