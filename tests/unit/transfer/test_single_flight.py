"""Single flight: concurrent callers share one execution."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.errors import ConfigError, Failure, NotFound, QuaymirrorError, Scope, StoreError
from quaymirror.tasks import run_all
from quaymirror.transfer.single_flight import SingleFlight


async def test_concurrent_callers_share_one_execution() -> None:
    flown: list[str] = []
    landings: list[Failure | None] = []
    gate = anyio.Event()

    async def operation() -> None:
        flown.append("x")
        await gate.wait()

    async def ask(flights: SingleFlight[str]) -> None:
        landings.append(await flights.run("x", operation))

    async with anyio.create_task_group() as tasks:
        flights = SingleFlight[str](tasks)
        for _ in range(20):
            tasks.start_soon(ask, flights)

        await anyio.wait_all_tasks_blocked()
        gate.set()

    assert flown == ["x"]
    assert landings == [None] * 20


async def test_a_failure_reaches_all_waiting_callers_and_is_forgotten() -> None:
    landings: list[Failure | None] = []

    async def broken() -> None:
        await anyio.lowlevel.checkpoint()
        raise NotFound("gone")

    async def fine() -> None:
        pass

    async def ask(flights: SingleFlight[str]) -> None:
        landings.append(await flights.run("x", broken))

    async with anyio.create_task_group() as tasks:
        flights = SingleFlight[str](tasks)
        async with anyio.create_task_group() as askers:
            askers.start_soon(ask, flights)
            askers.start_soon(ask, flights)

        assert [str(error) for error in landings] == ["gone", "gone"]
        assert await flights.run("x", fine) is None


async def test_an_operation_outlives_the_caller_that_started_it() -> None:
    landed: list[str] = []
    gate = anyio.Event()

    async def operation() -> None:
        await gate.wait()
        landed.append("x")

    async with anyio.create_task_group() as tasks:
        flights = SingleFlight[str](tasks)
        async with anyio.create_task_group() as image:
            image.start_soon(flights.run, "x", operation)
            await anyio.wait_all_tasks_blocked()
            image.cancel_scope.cancel()

        gate.set()
        assert await flights.run("x", operation) is None

    assert landed == ["x"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 3)), max_size=30))
def test_a_key_never_has_two_operations_at_once(requests: list[tuple[str, bool, int]]) -> None:
    in_flight: set[str] = set()

    def operation(key: str, fails: bool, steps: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def fly() -> None:
            assert key not in in_flight
            in_flight.add(key)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()

            in_flight.remove(key)
            if fails:
                raise NotFound(key)

        return fly

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            flights = SingleFlight[str](tasks)
            for key, fails, steps in requests:
                tasks.start_soon(flights.run, key, operation(key, fails, steps))
                await anyio.lowlevel.checkpoint()

    anyio.run(main)
    assert not in_flight


async def test_run_all_raises_the_failure_itself_and_cancels_the_others() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("waits")

    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        await run_all([waits, fails])

    assert ended == ["waits"]


async def test_run_all_raises_the_most_severe_of_several_failures() -> None:
    def failing(error: QuaymirrorError) -> Callable[[], Coroutine[Any, Any, None]]:
        async def fail() -> None:
            raise error

        return fail

    with pytest.raises(StoreError) as caught:
        await run_all([failing(NotFound("gone")), failing(StoreError("full")), failing(NotFound("gone"))])

    assert caught.value.scope is Scope.RUN


async def test_a_bug_among_the_failures_is_not_hidden() -> None:
    async def bug() -> None:
        raise ZeroDivisionError

    async def fail() -> None:
        raise ConfigError("no")

    with pytest.raises(BaseExceptionGroup):
        await run_all([bug, fail])
