"""The limiter of a host and class of endpoints: slots, and a rate that adapts to the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from clocks import ManualClock, running_clock
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.errors import HostDown, RateLimited, Scope
from quaymirror.events import Event, HostPaced, HostPaused, HostResumed
from quaymirror.http.health import Health
from quaymirror.http.limiter import KINDS, Host, HostLimiter, HostLimiters, Limits, Runtime, Slot
from quaymirror.http.rate import Throttle
from quaymirror.testing import LimitRule
from quaymirror.testing.limits import RateLimiter as ServerLimits

UNKNOWN = Limits(4, 8)


def make_limiter(clock: ManualClock, limits: Limits = UNKNOWN, *, events: list[Event] | None = None) -> HostLimiter:
    runtime = Runtime(events.append if events is not None else lambda event: None, clock, clock.sleep)
    return HostLimiter(Host(Health("quay.io"), runtime), limits, kind="api", runtime=runtime)


@asynccontextmanager
async def request(limiter: HostLimiter, *, patient: bool = True) -> AsyncIterator[None]:
    """Send one request, which passes unless an error is raised."""
    with Slot(limiter) as slot:
        await limiter.admit(slot, patient=patient)
        yield

    slot.leave()


async def test_no_more_requests_are_in_flight_than_the_window_has_slots() -> None:
    limiter, active, peak = make_limiter(ManualClock(), Limits(3, 3)), 0, 0

    async def send() -> None:
        nonlocal active, peak
        async with request(limiter):
            active += 1
            peak = max(peak, active)
            await anyio.lowlevel.checkpoint()
            active -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(send)

    assert peak == 3


async def test_a_pause_holds_back_whoever_waits_for_a_slot_too() -> None:
    events = list[Event]()
    async with running_clock() as clock:
        limiter = make_limiter(clock, Limits(1, 1), events=events)
        started: list[float] = []

        async def send() -> None:
            async with request(limiter):
                started.append(clock.now)
                if len(started) == 1:
                    limiter.record_complaint(pause=30, reason="answered 429")

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(send)

    assert started[0] == 100
    assert all(moment >= 130 for moment in started[1:])
    assert [event for event in events if not isinstance(event, HostPaced)] == [
        HostPaused("quay.io", 30, "answered 429"),
        HostResumed("quay.io"),
    ]


async def test_the_pause_of_one_class_of_endpoints_is_the_pause_of_the_whole_host() -> None:
    async with running_clock() as clock:
        limiters = HostLimiters(Runtime(clock=clock, sleep=clock.sleep))
        limiters("quay.io", "api").record_complaint(pause=10, reason="answered 429")
        async with request(limiters("cdn.quay.io", "blobs")):
            assert clock.now == 100

        async with request(limiters("quay.io", "manifests")):
            assert clock.now >= 110


async def test_the_window_halves_once_for_a_burst_of_complaints_and_grows_back() -> None:
    clock = ManualClock()
    limiter = make_limiter(clock, Limits(8, 8))
    for _ in range(8):
        limiter.record_complaint(pause=0, reason="answered 429")

    assert limiter.window == 4
    for _ in range(60):
        limiter.record_success()

    assert limiter.window == 8


async def test_limits_are_told_when_they_change_notably_and_complaints_are_counted() -> None:
    events, clock = list[Event](), ManualClock()
    limiter = make_limiter(clock, Limits(8, 64, rate=5.0, burst=24.0), events=events)
    limiter.record_success()
    for _ in range(8):
        limiter.record_complaint(pause=0, reason="answered 429")

    limiter.record_success()

    first, halved, counted = (event for event in events if isinstance(event, HostPaced))
    assert first == HostPaced("quay.io", "api", window=8, rate=None, throttled=0)
    assert (halved.window, halved.rate, halved.throttled) == (4, 4.8125, 1)
    assert counted.throttled == 8


async def test_a_window_that_grows_a_little_with_each_answer_is_told_a_few_times() -> None:
    events = list[Event]()
    limiter = make_limiter(ManualClock(), Limits(8, 64), events=events)
    for _ in range(10_000):
        limiter.record_success()

    told = [event.window for event in events if isinstance(event, HostPaced)]
    assert told == [8, 10, 13, 17, 22, 28, 35, 44, 55]


async def test_the_window_halves_when_answers_get_slow() -> None:
    limiter = make_limiter(ManualClock(), Limits(8, 8))
    for _ in range(20):
        limiter.record_success(0.1)

    for _ in range(20):
        limiter.record_success(5.0)

    assert limiter.window <= 4


async def _ask(
    clock: ManualClock,
    limiter: HostLimiter,
    server: ServerLimits | None,
    count: int,
    *,
    latency: float,
    path: str = "/api/",
) -> int:
    """Ask until `count` requests passed, 16 at a time; return how many were refused."""
    left, refused = count, 0

    async def worker() -> None:
        nonlocal left, refused
        while left > 0:
            left -= 1
            try:
                async with request(limiter):
                    began = clock.now
                    await clock.sleep(latency / 2)
                    passed = server is None or server.admits(path, address="1.2.3.4")
                    await clock.sleep(latency / 2)
                    if not passed:
                        limiter.record_complaint(pause=1, reason="answered 429")
                        raise ConnectionError

                    limiter.record_success(clock.now - began)
            except ConnectionError:
                left += 1
                refused += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(16):
            tasks.start_soon(worker)

    return refused


@pytest.mark.parametrize("latency", [0.005, 0.05, 0.2])
@pytest.mark.parametrize(("kind", "rate", "burst", "count"), [("api", 5, 25, 1000), ("manifests", 50, 10, 1500)])
async def test_a_host_that_is_limited_as_quay_is_asked_nearly_as_fast_as_it_allows(
    kind: str, rate: float, burst: int, count: int, latency: float
) -> None:
    async with running_clock() as clock:
        server = ServerLimits([LimitRule("^/", "zone", rate, burst)], clock=clock)
        refused = await _ask(clock, make_limiter(clock, KINDS[kind]), server, count, latency=latency)
        elapsed = clock.now - 100

    assert elapsed <= 1.25 * (count - burst - 1) / rate
    assert refused <= 0.01 * (count + refused)


@pytest.mark.parametrize(("rate", "burst"), [(10, 5), (20, 5), (120, 20)])
async def test_a_limit_that_is_none_of_quay_s_is_found(rate: float, burst: int) -> None:
    async with running_clock() as clock:
        server, count = ServerLimits([LimitRule("^/", "zone", rate, burst)], clock=clock), int(rate * 60)
        refused = await _ask(clock, make_limiter(clock, KINDS["manifests"]), server, count, latency=0.02)
        elapsed = clock.now - 100

    assert elapsed <= 1.5 * count / rate
    assert refused <= 0.1 * (count + refused)


@pytest.mark.parametrize("kind", ["api", "manifests"])
@pytest.mark.parametrize("latency", [0.005, 0.1])
async def test_a_host_without_limits_is_found_out_within_a_few_round_trips(kind: str, latency: float) -> None:
    async with running_clock() as clock:
        refused = await _ask(clock, make_limiter(clock, KINDS[kind]), None, 200, latency=latency)
        elapsed = clock.now - 100

    assert refused == 0
    # Eight at a time would take 25 round trips for the API's.
    assert elapsed <= 26 * latency


async def test_a_total_rate_holds_over_all_limiters_together() -> None:
    async with running_clock() as clock:
        limiters = HostLimiters(
            Runtime(clock=clock, sleep=clock.sleep, total=Throttle(20, clock=clock, sleep=clock.sleep))
        )
        starts: list[float] = []

        async def worker(kind: str, host: str) -> None:
            for _ in range(25):
                async with request(limiters(host, kind)):
                    starts.append(clock.now)
                    await clock.sleep(0.01)
                    limiters(host, kind).record_success(0.01)

        async with anyio.create_task_group() as tasks:
            for kind in ("api", "manifests", "blobs"):
                for host in ("quay.io", "cdn.example"):
                    tasks.start_soon(worker, kind, host)

    starts.sort()
    assert len(starts) == 150
    assert starts[-1] - starts[0] == pytest.approx(149 / 20, abs=0.01)
    for first in range(0, 150, 7):
        for last in range(first, 150, 5):
            assert last - first <= 20 * (starts[last] - starts[first]) + 1e-6


async def test_an_impatient_request_fails_as_soon_as_the_host_shows_a_limit() -> None:
    async with running_clock() as clock:
        limiter = make_limiter(clock, KINDS["api"])
        outcomes: list[str] = []

        async def eager() -> None:
            try:
                async with request(limiter, patient=False):
                    await clock.sleep(0.1)
                    if len(outcomes) == 26:
                        limiter.record_complaint(pause=1, reason="answered 429")

                    outcomes.append("asked")
            except RateLimited as error:
                outcomes.append("refused" if error.scope is Scope.IMAGE else "failed")

        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(eager)

    assert outcomes.count("asked") <= 30
    assert outcomes.count("asked") + outcomes.count("refused") == 60


@pytest.mark.parametrize(("latency", "window"), [(0.001, 4), (0.05, 40)])
async def test_many_at_a_time_are_for_hosts_that_are_far_away(latency: float, window: int) -> None:
    limiter = make_limiter(ManualClock(), Limits(4, 64, far=40))
    for _ in range(8):
        limiter.record_success(latency)

    assert limiter.window == window


async def test_a_near_host_that_had_enough_gets_as_much_again_after_a_while() -> None:
    async with running_clock() as clock:
        limiter = make_limiter(clock, Limits(4, 64, far=40))
        limiter.record_success(0.001)
        limiter.record_complaint(pause=1, reason="answered 429")
        assert limiter.window == 2
        for _ in range(30):
            limiter.record_success(0.001)

        assert limiter.window == 4


async def test_a_far_host_that_has_enough_gets_less_and_grows_from_there() -> None:
    limiter = make_limiter(ManualClock(), Limits(4, 64, far=40))
    for _ in range(8):
        limiter.record_success(0.05)

    limiter.record_complaint(pause=1, reason="answered 429")
    assert limiter.window == 20
    for _ in range(21):
        limiter.record_success(0.05)

    assert limiter.window == 21


async def test_a_probe_that_is_answered_with_an_error_counts_as_one_failure() -> None:
    events = list[Event]()
    async with running_clock() as clock:
        runtime = Runtime(events.append, clock, clock.sleep)
        host = Host(Health("quay.io", uniform=lambda least, most: most), runtime)
        limiter = HostLimiter(host, UNKNOWN, kind="api", runtime=runtime)
        while not host.health.is_down:
            host.record_failure("answered 503")

        async def send() -> None:
            with Slot(limiter) as slot:
                assert await limiter.admit(slot)
                host.record_failure("answered 503")
                raise HostDown("quay.io: still answers 503")

        for _ in range(3):
            with pytest.raises(HostDown):
                await send()

    pauses = [event.seconds for event in events if isinstance(event, HostPaused)]
    assert pauses == [2.0, 4.0, 8.0]


async def test_a_cancelled_wait_takes_no_slot() -> None:
    limiter = make_limiter(ManualClock(), Limits(1, 1))
    async with request(limiter), anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.admit, Slot(limiter))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    with anyio.fail_after(1):
        async with request(limiter):
            pass


@given(st.lists(st.one_of(st.just("answer"), st.floats(0, 100)), max_size=60), st.sampled_from(list(KINDS.values())))
def test_whatever_a_host_answers_there_is_always_a_slot_and_a_pace(answers: list[str | float], limits: Limits) -> None:
    clock = ManualClock()
    limiter = make_limiter(clock, limits)
    for answer in answers:
        clock.now += 0.5
        if isinstance(answer, str):
            limiter.record_success()
        else:
            limiter.record_complaint(pause=answer, reason="answered 503")

        assert 1 <= limiter.window <= limits.most
        assert limiter.rate is None or limiter.rate >= 0.5


async def test_requests_of_another_process_are_granted_at_the_rate_of_all_and_take_no_place_in_the_window() -> None:
    async with running_clock() as clock:
        runtime = Runtime(clock=clock, sleep=clock.sleep, total=Throttle(10, clock=clock, sleep=clock.sleep))
        limiter = HostLimiters(runtime)("quay.io", "blobs")
        began = clock.now
        for _ in range(limiter.window * 10):
            await limiter.grant(2)

        granted = limiter.window * 20
        assert granted - 2 <= 10 * (clock.now - began) <= granted


async def test_requests_without_a_grant_are_made_up_for_by_later_ones() -> None:
    async with running_clock() as clock:
        limiters = HostLimiters(
            Runtime(clock=clock, sleep=clock.sleep, total=Throttle(10, clock=clock, sleep=clock.sleep))
        )
        limiter, began = limiters("quay.io", "blobs"), clock.now
        await limiter.grant(1)
        limiter.charge(19)
        limiter.charge(-5)
        await limiter.grant(1)
        assert clock.now - began == pytest.approx(2.0)
        assert limiters.requests == 21


async def test_nothing_is_granted_while_the_host_wants_a_pause_and_the_pause_is_told_to_other_processes() -> None:
    seen = list[tuple[str, float, str]]()
    async with running_clock() as clock:
        runtime = Runtime(clock=clock, sleep=clock.sleep, pause_seen=lambda *pause: seen.append(pause))
        limiter, began = HostLimiters(runtime)("quay.io", "blobs"), clock.now
        limiter.record_complaint(30, "answered 429")
        limiter.host.record_failure("cannot connect")
        await limiter.grant(1)
        assert clock.now - began >= 30

    assert seen == [("quay.io", 30, "answered 429")]
