"""The gate of a host: slots, pauses, and a pace that finds the host's own."""

from __future__ import annotations

import anyio
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.events import Event, HostPaused
from quaymirror.net.gate import Gate


class ManualClock:
    """A clock that moves when somebody sleeps on it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await anyio.lowlevel.checkpoint()


def make_gate(clock: ManualClock, *, start: int = 4, most: int = 8, events: list[Event] | None = None) -> Gate:
    observer = events.append if events is not None else lambda event: None
    return Gate("quay.io (api)", start=start, most=most, observer=observer, clock=clock, sleep=clock.sleep)


async def test_no_more_requests_are_in_flight_than_the_window_has_slots() -> None:
    gate, peak = make_gate(ManualClock(), start=3, most=3), 0

    async def request() -> None:
        nonlocal peak
        async with gate.slot():
            peak = max(peak, gate.statistics().active)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(request)

    assert peak == 3
    assert gate.statistics().active == 0


async def test_a_pause_holds_everybody_back_and_is_told_once() -> None:
    clock, events = ManualClock(), list[Event]()
    gate = make_gate(clock, events=events)
    gate.overloaded(pause=30, reason="answered 429")
    gate.overloaded(pause=20, reason="answered 429")
    async with gate.slot():
        assert clock.now >= 130

    assert events == [HostPaused("quay.io (api)", 30, "answered 429")]


async def test_the_window_halves_once_for_a_burst_of_complaints_and_grows_back() -> None:
    clock = ManualClock()
    gate = make_gate(clock, start=8, most=8)
    for _ in range(8):
        gate.overloaded(pause=0, reason="answered 429")

    assert gate.statistics().window == 4
    assert gate.statistics().rate is None, "one burst says nothing of a rate"
    for _ in range(60):
        gate.answered()

    assert gate.statistics().window == 8


async def test_a_host_that_counts_requests_a_second_is_given_its_pace_with_few_complaints() -> None:
    clock = ManualClock()
    gate = make_gate(clock, start=4, most=16)
    level, last, refused, asked = 0.0, clock.now, 0, 0
    while asked - refused < 1000:
        async with gate.slot():
            asked += 1
            # nginx's leaky bucket as Quay sets it up: 5 requests a second, 25 may burst.
            level, last = max(0.0, level - (clock.now - last) * 5), clock.now
            if level + 1 > 26:
                refused += 1
                gate.overloaded(pause=1, reason="answered 429")
            else:
                level += 1
                gate.answered()

            await clock.sleep(0.02)

    assert refused <= 0.01 * asked
    assert clock.now - 100 <= 1.25 * (1000 - 26) / 5


async def test_a_cancelled_wait_takes_no_slot() -> None:
    gate = make_gate(ManualClock(), start=1, most=1)
    async with gate.slot(), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gate.slot().__aenter__())
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    with anyio.fail_after(1):
        async with gate.slot():
            assert gate.statistics().active == 1


@given(st.lists(st.one_of(st.just("answer"), st.floats(0, 100)), max_size=60))
def test_whatever_a_host_answers_there_is_always_a_slot_and_a_pace(answers: list[str | float]) -> None:
    clock = ManualClock()
    gate = make_gate(clock)
    for answer in answers:
        clock.now += 0.5
        if isinstance(answer, str):
            gate.answered()
        else:
            gate.overloaded(pause=answer, reason="answered 503")

        statistics = gate.statistics()
        assert 1 <= statistics.window <= 8
        assert statistics.rate is None or statistics.rate >= 0.5
