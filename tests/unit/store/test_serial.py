"""Blocking calls off the event loop."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.store.serial import Lanes, Serial


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=25))
def test_calls_follow_each_other_and_each_caller_gets_its_own_answer(calls: list[tuple[bool, int]]) -> None:
    at_work: list[int] = []
    answers: dict[int, object] = {}

    def call(number: int, fails: bool) -> int:
        assert not at_work, "two at a time"
        at_work.append(number)
        at_work.remove(number)
        if fails:
            raise LookupError(number)

        return number

    async def ask(serial: Serial, number: int, fails: bool, turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()

        try:
            answers[number] = await serial.run(call, number, fails)
        except LookupError as error:
            answers[number] = f"failed {error}"

    async def main() -> None:
        serial = Serial()
        async with anyio.create_task_group() as tasks:
            for number, (fails, turns) in enumerate(calls):
                tasks.start_soon(ask, serial, number, fails, turns)

    anyio.run(main)
    assert answers == {number: f"failed {number}" if fails else number for number, (fails, _) in enumerate(calls)}


async def test_what_is_asked_for_while_a_call_runs_goes_together() -> None:
    serial, begun, may_end = Serial(), anyio.Event(), threading.Event()
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


async def test_a_call_that_nobody_waits_for_any_more_ends_all_the_same() -> None:
    serial, begun, may_end, done = Serial(), anyio.Event(), threading.Event(), threading.Event()

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


async def test_an_error_is_raised_to_who_asked() -> None:
    serial = Serial()
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


async def test_a_call_waits_for_a_lane_that_keeps_up_and_takes_another_one_when_it_is_late() -> None:
    now, ended, slow = 0.0, list[str](), Slow()
    lanes = Lanes(2, clock=lambda: now)

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


async def test_where_all_lanes_are_late_a_call_waits_where_fewest_do() -> None:
    now, first, second = 0.0, Slow(), Slow()
    lanes = Lanes(2, clock=lambda: now)
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
