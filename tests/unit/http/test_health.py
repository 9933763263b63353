"""The health of a host: pauses, outages, and the one request that finds out whether it is back."""

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
from quaymirror.http.limiter import Host, Runtime


def make_host(clock: ManualClock, *, patience: float = 900, events: list[Event] | None = None) -> Host:
    observer = events.append if events is not None else lambda event: None
    return Host(Health("quay.io", patience=patience), Runtime(observer, clock, clock.sleep))


async def _fail_for_ever(host: Host) -> None:
    while True:
        is_probe = await host.wait_until_available()
        host.record_failure("refused")
        if is_probe:
            host.probe_finished()


async def test_a_pause_holds_all_requests_back_and_is_reported_once() -> None:
    events = list[Event]()
    async with running_clock() as clock:
        host = make_host(clock, events=events)
        for _ in range(5):
            host.pause(30, "answered 429")
            clock.now += 0.01

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(host.wait_until_available)

        assert 130 <= clock.now <= 131.1

    assert events == [HostPaused("quay.io", 30, "answered 429"), HostResumed("quay.io")]


async def test_a_host_that_was_down_is_back_when_it_answers_and_not_when_it_is_asked() -> None:
    events = list[Event]()
    async with running_clock() as clock:
        host = make_host(clock, events=events)
        while not host.health.is_down:
            host.record_failure("refused")

        assert await host.wait_until_available()
        host.record_failure("refused")
        assert not [event for event in events if isinstance(event, HostResumed)]
        host.record_success()

    assert events[-1] == HostResumed("quay.io")


async def test_a_host_that_fails_now_and_then_is_never_down() -> None:
    host = make_host(ManualClock())
    for number in range(1000):
        if number % 4 == 0:
            host.record_failure("answered 502")
        else:
            host.record_success()

        assert not host.health.is_down


async def test_a_dead_host_is_asked_by_one_at_a_time_and_less_and_less_often() -> None:
    async with running_clock() as clock:
        host = make_host(clock)
        host.record_success()
        asked: list[float] = []

        async def worker() -> None:
            while clock.now < 700:
                is_probe = await host.wait_until_available()
                asked.append(clock.now)
                await clock.sleep(0.01)
                if clock.now < 700:
                    host.record_failure("refused")
                else:
                    host.record_success()

                if is_probe:
                    host.probe_finished()

        async with anyio.create_task_group() as tasks:
            for _ in range(32):
                tasks.start_soon(worker)

    during = [moment for moment in asked if 101 < moment < 700]
    assert len(during) <= 60, "ten minutes of outage"
    assert all(later - earlier > 0.5 for earlier, later in pairwise(during))


async def test_all_requests_continue_when_the_host_is_back() -> None:
    async with running_clock() as clock:
        host = make_host(clock)
        for _ in range(30):
            host.record_failure("refused")

        passed = 0

        async def worker() -> None:
            nonlocal passed
            if await host.wait_until_available():
                host.record_success()
                host.probe_finished()

            passed += 1

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(worker)

    assert passed == 20
    assert not host.health.is_down


async def test_a_prober_that_is_cancelled_leaves_the_question_to_another() -> None:
    async with running_clock() as clock:
        host = make_host(clock)
        for _ in range(30):
            host.record_failure("refused")

        assert await host.wait_until_available()
        others = 0

        async def other() -> None:
            nonlocal others
            others += await host.wait_until_available()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            host.probe_finished()

    assert others == 1


async def test_a_host_that_asks_for_more_than_there_is_ends_the_run() -> None:
    host = make_host(ManualClock(), patience=900)
    host.pause(3600, "answered 429")
    with pytest.raises(RateLimited, match=r"requested a pause of 3,600 s \(answered 429\)") as caught:
        await host.wait_until_available()

    assert caught.value.scope is Scope.RUN


async def test_a_host_that_stays_away_for_longer_than_the_patience_ends_the_run() -> None:
    async with running_clock() as clock:
        host = make_host(clock, patience=300)
        host.record_success()
        with pytest.raises(Unavailable, match=r"failing for .* s: refused") as caught:
            await _fail_for_ever(host)

        assert caught.value.scope is Scope.RUN
        assert 400 <= clock.now <= 480


async def test_a_host_that_was_never_there_is_given_up_soon_and_costs_only_what_is_there() -> None:
    async with running_clock() as clock:
        host = make_host(clock, patience=900)
        with pytest.raises(Unavailable) as caught:
            await _fail_for_ever(host)

        assert caught.value.scope is Scope.IMAGE
        assert clock.now <= 200


async def test_new_trouble_long_after_the_old_has_its_own_patience() -> None:
    async with running_clock() as clock:
        host = make_host(clock, patience=100)
        host.record_success()
        host.pause(1, "answered 429")
        clock.now += 1000
        host.pause(1, "answered 429")
        assert not await host.wait_until_available()


def test_the_delay_is_a_function_of_time_and_of_what_was_recorded() -> None:
    health = Health("quay.io", uniform=lambda low, high: high)
    assert health.delay(100.0) == 0
    assert health.pause(100.0, 30, "answered 429")
    assert not health.pause(100.1, 30, "answered 429")
    assert health.delay(110.0) == pytest.approx(20.1)
    assert health.delay(131.0) == 0
    assert not health.admit()


def test_only_one_request_probes_a_host_that_is_down() -> None:
    health = Health("quay.io", uniform=lambda low, high: high)
    pauses = [health.record_failure(100.0, "refused") for _ in range(21)]
    assert pauses == [0.0] * 21
    assert health.delay(100.0) == 0
    assert health.admit()
    assert health.record_failure(100.0, "refused") == 2.0
    health.probe_finished()
    assert health.delay(101.0) == 1.0
    assert health.admit()
    assert health.delay(103.0) == float("inf")
    health.probe_finished()
    assert health.delay(103.0) == 0
    assert health.admit()
    assert health.record_success(100.0)
    assert not health.record_success(100.0)
    assert health.delay(103.0) == 0


def test_the_failures_of_a_host_that_answers_a_probe_concern_what_was_requested() -> None:
    health = Health("quay.io")
    for _ in range(21):
        health.record_failure(100.0, "answered 500")

    assert health.admit()
    health.record_success(100.0)
    health.probe_finished()
    for _ in range(100):
        assert health.record_failure(130.0, "answered 500") == 0.0

    assert not health.admit()
    for _ in range(21):
        health.record_failure(170.0, "answered 500")

    assert health.admit(), "the answer was long ago"


def test_a_host_that_answers_nothing_during_a_request_is_probed() -> None:
    health = Health("quay.io")
    health.record_success(100.0)
    health.record_failure(160.0, "silence", silent_since=90.0)
    assert not health.is_down, "it answered another request"
    health.record_failure(160.0, "silence", silent_since=101.0)
    assert health.is_down


def test_one_link_to_a_cdn_that_is_limited_does_not_close_the_cdn() -> None:
    health = Health("cdn", given_up=Scope.IMAGE, is_named=True)
    health.pause(100.0, 86_400, "answered 429")
    assert health.pause_left(100.0) == 1.0
    health.record_success(102.0)
    health.pause(103.0, 300, "answered 429")
    assert health.pause_left(103.0) == 1.0
    health.pause(104.0, 300, "answered 429")
    assert health.pause_left(104.0) == 300
    for _ in range(10):
        health.pause(104.0, 86_400, "answered 429")

    with pytest.raises(RateLimited) as caught:
        health.delay(105.0)

    assert caught.value.scope is Scope.IMAGE


@given(st.lists(st.sampled_from(["success", "failure", "pause", "probe"]), max_size=200))
def test_whatever_happens_a_host_that_answers_well_is_not_down(happenings: list[str]) -> None:
    health, now = Health("quay.io"), 100.0
    for what in happenings:
        now += 0.1
        match what:
            case "success":
                health.record_success(100.0)
                assert not health.is_down
            case "failure":
                health.record_failure(now, "502")
            case "pause":
                health.pause(now, 1, "429")
            case _:
                health.probe_finished()
