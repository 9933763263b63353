"""An even pace: exact over time, whoever asks and however many."""

from __future__ import annotations

import anyio
import pytest
from clocks import running_clock
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.rate import RateLimiter


@pytest.mark.parametrize("rate", [0.5, 7, 50, 1000])
async def test_no_turn_is_lost_and_none_is_given_twice(rate: float) -> None:
    async with running_clock() as clock:
        pace, began = RateLimiter(rate, clock=clock, sleep=clock.sleep), clock.now
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(pace.take)

        assert clock.now - began == pytest.approx(199 / rate)


async def test_a_megabyte_a_second_is_a_megabyte_a_second_over_many_transfers() -> None:
    async with running_clock() as clock:
        pace, began = RateLimiter(1_000_000, clock=clock, sleep=clock.sleep), clock.now

        async def transfer() -> None:
            for _ in range(100):
                await pace.take(50_000)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(transfer)

        assert clock.now - began == pytest.approx(20, abs=0.06)


@given(
    rate=st.floats(0.5, 500),
    burst=st.integers(0, 20),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_no_stretch_of_time_ever_holds_more_than_rate_and_burst(rate: float, burst: int, gaps: list[float]) -> None:
    now = 0.0
    pace = RateLimiter(rate, burst=burst, clock=lambda: now)
    turns = []
    for gap in gaps:
        now += gap
        turns.append(now + pace.spend())

    assert turns == sorted(turns)
    for first in range(len(turns)):
        for last in range(first, len(turns)):
            assert last - first + 1 <= rate * (turns[last] - turns[first]) + burst + 1 + 1e-6


async def test_what_was_not_used_gives_no_more_than_the_burst() -> None:
    async with running_clock() as clock:
        pace = RateLimiter(10, burst=3, clock=clock, sleep=clock.sleep)
        await clock.sleep(1000)
        began = clock.now
        for _ in range(10):
            await pace.take()

        assert clock.now - began == pytest.approx(0.6)
