"""Rate limits are exact over time, for any number of callers."""

from __future__ import annotations

import anyio
import pytest
from clocks import running_clock
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.rate import RateLimiter, Throttle


@pytest.mark.parametrize("rate", [0.5, 7, 50, 1000])
async def test_no_turn_is_lost_and_none_is_given_twice(rate: float) -> None:
    async with running_clock() as clock:
        throttle, began = Throttle(rate, clock=clock, sleep=clock.sleep), clock.now
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(throttle.take)

        assert clock.now - began == pytest.approx(199 / rate)


async def test_a_megabyte_per_second_is_shared_by_many_transfers() -> None:
    async with running_clock() as clock:
        throttle, began = Throttle(1_000_000, clock=clock, sleep=clock.sleep), clock.now

        async def transfer() -> None:
            for _ in range(100):
                await throttle.take(50_000)

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
    limiter, now, turns = RateLimiter(rate, burst=burst), 0.0, list[float]()
    for gap in gaps:
        now += gap
        delay = limiter.delay(now)
        assert limiter.reserve(now) == delay
        turns.append(now + delay)

    assert turns == sorted(turns)
    for first in range(len(turns)):
        for last in range(first, len(turns)):
            assert last - first + 1 <= rate * (turns[last] - turns[first]) + burst + 1 + 1e-6


def test_unused_time_gives_no_more_than_the_burst() -> None:
    limiter = RateLimiter(8, burst=3)
    delays = [limiter.reserve(1000.0) for _ in range(10)]
    assert delays[:4] == [0.0] * 4
    assert delays[-1] == 0.75
