"""Blocking calls off the event loop."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.store.executor import ExecutorPool, SerialExecutor


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=25))
def test_calls_run_one_after_the_other_and_each_caller_gets_its_own_result(calls: list[tuple[bool, int]]) -> None:
    at_work: list[int] = []
    answers: dict[int, object] = {}

    def call(number: int, fails: bool) -> int:
        assert not at_work, "two at a time"
        at_work.append(number)
        at_work.remove(number)
        if fails:
            raise LookupError(number)

        return number

    async def ask(serial: SerialExecutor, number: int, fails: bool, turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()

        try:
            answers[number] = await serial.run(call, number, fails)
        except LookupError as error:
            answers[number] = f"failed {error}"

    async def main() -> None:
        serial = SerialExecutor()
        async with anyio.create_task_group() as tasks:
            for number, (fails, turns) in enumerate(calls):
                tasks.start_soon(ask, serial, number, fails, turns)

    anyio.run(main)
    assert answers == {number: f"failed {number}" if fails else number for number, (fails, _) in enumerate(calls)}


async def test_calls_that_arrive_while_one_runs_share_a_switch() -> None:
    serial, begun, may_end = SerialExecutor(), anyio.Event(), threading.Event()
    hops: list[int] = []

    def first() -> None:
        anyio.from_thread.run_sync(begun.set)
        may_end.wait(10)

    def hop() -> int:
        return threading.get_ident()

    async def ask() -> None:
        hops.append(await serial.run(hop))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serial.run, first)
        await begun.wait()
        for _ in range(5):
            tasks.start_soon(ask)

        await anyio.lowlevel.checkpoint()
        may_end.set()

    assert len(set(hops)) == 1
    assert len(hops) == 5


async def test_a_running_call_finishes_although_its_caller_is_cancelled() -> None:
    serial, begun, may_end, done = SerialExecutor(), anyio.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        anyio.from_thread.run_sync(begun.set)
        may_end.wait(10)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serial.run, slow)
        await begun.wait()
        tasks.cancel_scope.cancel()
        may_end.set()

    assert done.is_set()
    assert await serial.run(int, "7") == 7


async def test_an_error_is_raised_for_its_caller() -> None:
    serial = SerialExecutor()
    with pytest.raises(ValueError, match="invalid literal"):
        await serial.run(int, "seven")


class Slow:
    """A call that takes until it may end."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.may_end = threading.Event()

    def __call__(self) -> None:
        anyio.from_thread.run_sync(self.begun.set)
        self.may_end.wait(10)


async def test_a_call_goes_to_another_thread_if_the_first_one_is_late() -> None:
    now, ended, slow = 0.0, list[str](), Slow()
    lanes = ExecutorPool(2, clock=lambda: now)

    async def ask(name: str) -> None:
        await lanes.run(str)
        ended.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lanes.run, slow)
        await slow.begun.wait()
        tasks.start_soon(ask, "early")
        await anyio.wait_all_tasks_blocked()
        now = 1.0
        await ask("late")
        assert ended == ["late"]
        slow.may_end.set()

    assert ended == ["late", "early"]


async def test_if_all_threads_are_late_a_call_waits_in_the_shortest_queue() -> None:
    now, first, second = 0.0, Slow(), Slow()
    lanes = ExecutorPool(2, clock=lambda: now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lanes.run, first)
        await first.begun.wait()
        tasks.start_soon(lanes.run, str)
        await anyio.wait_all_tasks_blocked()
        now = 1.0
        tasks.start_soon(lanes.run, second)
        await second.begun.wait()
        now = 2.0
        second.may_end.set()
        await lanes.run(str)
        first.may_end.set()


async def test_a_call_whose_caller_is_cancelled_before_it_started_is_dropped() -> None:
    serial, slow, made = SerialExecutor(), Slow(), list[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serial.run, slow)
        await slow.begun.wait()
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(serial.run, made.append, "made")
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()

        slow.may_end.set()

    await serial.run(str)
    assert not made


async def test_a_cancelled_caller_waits_for_its_call_in_the_switch_of_another_one() -> None:
    serial, first, mine = SerialExecutor(), Slow(), Slow()
    log: list[str] = []

    def call() -> None:
        mine()
        log.append("the call has ended")

    async def ask() -> None:
        try:
            await serial.run(call)
        finally:
            log.append("its caller leaves")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serial.run, first)
        await first.begun.wait()
        tasks.start_soon(serial.run, str)  # leads the next hop
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            first.may_end.set()
            await mine.begun.wait()
            cancelled.cancel_scope.cancel()
            tasks.start_soon(anyio.to_thread.run_sync, mine.may_end.set)

    assert log == ["the call has ended", "its caller leaves"]


async def test_a_cancelled_caller_does_not_cancel_the_other_calls_of_its_switch() -> None:
    serial, slow = SerialExecutor(), Slow()
    answers: list[int] = []

    async def ask() -> None:
        with anyio.CancelScope(shield=True):
            answers.append(await serial.run(int, "7"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serial.run, slow)
        await slow.begun.wait()
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(serial.run, str)
            await anyio.wait_all_tasks_blocked()
            cancelled.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            slow.may_end.set()
            while serial.waiting:
                await anyio.lowlevel.checkpoint()

            cancelled.cancel_scope.cancel()

    assert answers == [7]


async def test_if_no_thread_can_be_started_each_caller_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    serial, slow = SerialExecutor(), Slow()
    answers: list[object] = []
    hop, hops = anyio.to_thread.run_sync, 0

    async def refused_once(*arguments: Any, **options: Any) -> Any:
        nonlocal hops
        hops += 1
        if hops == 1:
            raise RuntimeError("can't start new thread")

        return await hop(*arguments, **options)

    async def ask(number: int) -> None:
        try:
            answers.append(await serial.run(int, number))
        except RuntimeError as error:
            answers.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serial.run, slow)
        await slow.begun.wait()
        monkeypatch.setattr(anyio.to_thread, "run_sync", refused_once)
        for number in range(3):
            tasks.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()

        slow.may_end.set()

    assert answers == ["can't start new thread", 1, 2]
