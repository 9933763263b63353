"""How a host fares: pauses, outages, and who may find out whether it is back."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest
from clocks import ManualClock, running_clock
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.errors import RateLimited, Scope, Unavailable
from quaymirror.events import Event, HostPaused, HostResumed
from quaymirror.http.health import Health


def make_health(clock: ManualClock, *, patience: float = 900, events: list[Event] | None = None) -> Health:
    observer = events.append if events is not None else lambda event: None
    return Health("quay.io", patience=patience, observer=observer, clock=clock, sleep=clock.sleep)


async def _fail_for_ever(health: Health) -> None:
    while True:
        is_probe = await health.ready()
        health.failing("refused")
        if is_probe:
            health.probed()


async def test_a_pause_holds_everybody_back_and_is_told_once() -> None:
    events = list[Event]()
    async with running_clock() as clock:
        health = make_health(clock, events=events)
        for _ in range(5):
            health.pause(30, "answered 429")
            clock.now += 0.01

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(health.ready)

        assert 130 <= clock.now <= 131.1

    assert events == [HostPaused("quay.io", 30, "answered 429"), HostResumed("quay.io")]


async def test_a_host_that_was_down_is_back_when_it_answers_and_not_when_it_is_asked() -> None:
    events = list[Event]()
    async with running_clock() as clock:
        health = make_health(clock, events=events)
        while not health.is_down:
            health.failing("refused")

        assert await health.ready()
        assert not [event for event in events if isinstance(event, HostResumed)]
        health.well()

    assert events[-1] == HostResumed("quay.io")


async def test_a_host_that_fails_now_and_then_is_never_down() -> None:
    health = make_health(ManualClock())
    for number in range(1000):
        if number % 4 == 0:
            health.failing("answered 502")
        else:
            health.well()

        assert not health.is_down


async def test_a_dead_host_is_asked_by_one_at_a_time_and_less_and_less_often() -> None:
    async with running_clock() as clock:
        health = make_health(clock)
        health.well()
        asked: list[float] = []

        async def worker() -> None:
            while clock.now < 700:
                is_probe = await health.ready()
                asked.append(clock.now)
                await clock.sleep(0.01)
                if clock.now < 700:
                    health.failing("refused")
                else:
                    health.well()

                if is_probe:
                    health.probed()

        async with anyio.create_task_group() as tasks:
            for _ in range(32):
                tasks.start_soon(worker)

    during = [moment for moment in asked if 101 < moment < 700]
    assert len(during) <= 60, "ten minutes of outage"
    assert all(later - earlier > 0.5 for earlier, later in pairwise(during))


async def test_everybody_goes_on_when_the_host_is_back() -> None:
    async with running_clock() as clock:
        health = make_health(clock)
        for _ in range(30):
            health.failing("refused")

        passed = 0

        async def worker() -> None:
            nonlocal passed
            if await health.ready():
                health.well()
                health.probed()

            passed += 1

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(worker)

    assert passed == 20
    assert not health.is_down


async def test_a_prober_that_is_cancelled_leaves_the_question_to_another() -> None:
    async with running_clock() as clock:
        health = make_health(clock)
        for _ in range(30):
            health.failing("refused")

        assert await health.ready()
        others = 0

        async def other() -> None:
            nonlocal others
            others += await health.ready()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            health.probed()

    assert others == 1


async def test_a_host_that_asks_for_more_than_there_is_ends_the_run() -> None:
    health = make_health(ManualClock(), patience=900)
    health.pause(3600, "answered 429")
    with pytest.raises(RateLimited, match=r"3,600 s of patience \(answered 429\)") as caught:
        await health.ready()

    assert caught.value.scope is Scope.RUN


async def test_a_host_that_stays_away_for_longer_than_the_patience_ends_the_run() -> None:
    async with running_clock() as clock:
        health = make_health(clock, patience=300)
        health.well()
        with pytest.raises(Unavailable, match=r"in trouble for .* s: refused") as caught:
            await _fail_for_ever(health)

        assert caught.value.scope is Scope.RUN
        assert 400 <= clock.now <= 480


async def test_a_host_that_was_never_there_is_given_up_soon_and_costs_only_what_is_there() -> None:
    async with running_clock() as clock:
        health = make_health(clock, patience=900)
        with pytest.raises(Unavailable) as caught:
            await _fail_for_ever(health)

        assert caught.value.scope is Scope.IMAGE
        assert clock.now <= 200


async def test_new_trouble_long_after_the_old_has_its_own_patience() -> None:
    async with running_clock() as clock:
        health = make_health(clock, patience=100)
        health.well()
        health.pause(1, "answered 429")
        clock.now += 1000
        health.pause(1, "answered 429")
        assert not await health.ready()


@given(st.lists(st.sampled_from(["well", "failing", "pause", "probe"]), max_size=200))
def test_whatever_happens_a_host_that_answers_well_is_not_down(happenings: list[str]) -> None:
    clock = ManualClock()
    health = make_health(clock)
    for what in happenings:
        clock.now += 0.1
        match what:
            case "well":
                health.well()
                assert not health.is_down
            case "failing":
                health.failing("502")
            case "pause":
                health.pause(1, "429")
            case _:
                health.probed()
