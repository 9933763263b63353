"""The one layer that retries: the failures it retries, how often, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.errors import (
    AccessDenied,
    ConnectFailed,
    DigestMismatch,
    HostDown,
    NotFound,
    QuaymirrorError,
    RateLimited,
    ReadInterrupted,
    StoreError,
    TimedOut,
    Unavailable,
)
from quaymirror.http.dates import parse_retry_after
from quaymirror.http.retry import Attempts, RetryPolicy
from quaymirror.http.timeouts import Timeouts


class Script:
    """An operation with prepared failures that then succeeds."""

    def __init__(
        self, *failures: QuaymirrorError, retries: int = 5, patience: float = 900, timeouts: Timeouts | None = None
    ) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.waits: list[float] = []
        policy = RetryPolicy(retries=retries, patience=patience, sleep=self._sleep)
        self.attempts = Attempts(policy, "it", timeouts=(timeouts or Timeouts()).repeats)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)

        return "done"

    async def run(self) -> str:
        async for attempt in self.attempts:
            with attempt:
                return await self()

        raise AssertionError


async def test_a_temporary_failure_is_retried() -> None:
    script = Script(ReadInterrupted("cut"), Unavailable("502", status=502))
    assert await script.run() == "done"
    assert script.calls == 3


@pytest.mark.parametrize("error", [NotFound("404"), AccessDenied("401"), StoreError("full")], ids=lambda e: str(e))
async def test_a_permanent_failure_is_not_retried(error: QuaymirrorError) -> None:
    script = Script(error)
    with pytest.raises(type(error)):
        await script.run()

    assert script.calls == 1


async def test_patience_ends_with_the_last_failure_itself() -> None:
    script = Script(*(Unavailable(f"try {number}") for number in range(9)), retries=3)
    with pytest.raises(Unavailable, match="try 3"):
        await script.run()


async def test_wrong_bytes_are_fetched_again_twice_at_most() -> None:
    script = Script(*(DigestMismatch("other bytes") for _ in range(9)))
    with pytest.raises(DigestMismatch):
        await script.run()

    assert script.calls == 3


async def test_progress_renews_the_patience() -> None:
    script = Script(*(ReadInterrupted("cut") for _ in range(12)), retries=2)

    async for attempt in script.attempts:
        with attempt:
            script.attempts.progress()
            assert await script() == "done"

    assert script.calls == 13


async def test_a_server_that_says_when_is_believed_and_being_told_to_wait_is_no_failure() -> None:
    script = Script(*(RateLimited("429", retry_after=7.0) for _ in range(20)), retries=1)
    assert await script.run() == "done"
    assert script.waits == [7.0] * 20


async def test_waits_for_a_silent_429_are_long_enough_and_end_with_the_patience() -> None:
    script = Script(*(RateLimited("429") for _ in range(2000)), patience=300)
    with pytest.raises(RateLimited):
        await script.run()

    assert script.waits[0] >= 0.5
    assert all(wait >= 16 for wait in script.waits[6:])
    assert 240 <= sum(script.waits) <= 300


async def test_all_waiting_of_one_operation_has_one_budget() -> None:
    failures = [Unavailable("502", status=502), RateLimited("429", retry_after=50.0)] * 100
    script = Script(*failures, retries=1000, patience=200)
    with pytest.raises(QuaymirrorError):
        await script.run()

    assert 150 <= sum(script.waits) <= 200


async def test_progress_renews_the_budget_of_waiting_too() -> None:
    script = Script(*(RateLimited("429", retry_after=90.0) for _ in range(30)), patience=100)

    async for attempt in script.attempts:
        with attempt:
            script.attempts.progress()
            assert await script() == "done"


async def test_a_host_that_is_down_uses_up_no_attempts() -> None:
    script = Script(*(HostDown("refused") for _ in range(50)), retries=0)
    assert await script.run() == "done"
    assert sum(script.waits) == 0


async def test_a_minute_of_silence_is_waited_for_twice() -> None:
    script = Script(*(TimedOut("nothing") for _ in range(9)))
    with pytest.raises(TimedOut):
        await script.run()

    assert script.calls == 2


@pytest.mark.parametrize(
    ("seconds", "calls"), [(300.0, 2), (60.0, 2), (59.0, 2), (40.0, 3), (20.0, 6), (0.5, 6), (0.0, 2)]
)
async def test_silences_are_waited_for_as_long_as_two_minutes(seconds: float, calls: int) -> None:
    """Silences of 20 s and less are limited as other failures are, by the number of retries."""
    timeouts = Timeouts(connect=0, headers=seconds, stall=0, total=0)
    script = Script(*(TimedOut("nothing") for _ in range(9)), timeouts=timeouts)
    with pytest.raises(TimedOut):
        await script.run()

    assert script.calls == calls


async def test_a_slow_body_is_reopened_once_however_short_the_timeouts_are() -> None:
    script = Script(*(TimedOut("too slow", retries=1) for _ in range(9)), timeouts=Timeouts(1, 1, 1, 1))
    with pytest.raises(TimedOut):
        await script.run()

    assert script.calls == 2


@given(st.integers(0, 20), st.lists(st.sampled_from([Unavailable, ReadInterrupted, ConnectFailed]), max_size=30))
async def test_never_more_tries_than_promised_and_no_wait_beyond_the_cap(
    retries: int, kinds: list[type[QuaymirrorError]]
) -> None:
    script = Script(*(kind("it broke") for kind in kinds), retries=retries)
    try:
        await script.run()
    except QuaymirrorError:
        assert script.calls == retries + 1
    else:
        assert script.calls == len(kinds) + 1 <= retries + 1

    assert all(0 <= wait <= min(30, 0.5 * 2**number) for number, wait in enumerate(script.waits))


async def test_cancellation_is_never_tried_again() -> None:
    calls = 0
    with anyio.move_on_after(0):
        async for attempt in Attempts(RetryPolicy(), "it"):
            with attempt:
                calls += 1
                await anyio.sleep_forever()

    assert calls == 1


async def test_an_operation_that_succeeds_once_is_not_repeated() -> None:
    attempts, calls = Attempts(RetryPolicy(), "it"), 0
    async for attempt in attempts:
        with attempt:
            calls += 1

    async for _ in attempts:
        calls += 1

    assert calls == 1


NOW = "Tue, 24 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Tue, 24 Nov 2026 12:01:30 GMT", 90.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("-1", None),
        ("1e3", None),
        ("3.5", None),
        ("１２０", None),  # noqa: RUF001
        ("1_0", None),
        ("+5", None),
        ("9" * 30, None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_strictly(field: str | None, seconds: float | None) -> None:
    assert parse_retry_after(field, date=NOW) == seconds


@given(st.text())
def test_no_retry_after_breaks_anything(field: str) -> None:
    seconds = parse_retry_after(field, date=NOW)
    assert seconds is None or seconds >= 0


def test_without_a_date_the_time_is_counted_from_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    seconds = parse_retry_after(soon)
    assert seconds is not None
    assert 90 <= seconds <= 100


@pytest.mark.parametrize(
    "date",
    ["Tue Nov 24 12:01:30 2026", "Tuesday, 24-Nov-26 12:01:30 GMT", "Tue, 24 Nov 2026 12:01:30 -0000"],
    ids=["asctime", "RFC 850", "no zone"],
)
def test_all_of_http_s_dates_are_understood(date: str) -> None:
    assert parse_retry_after(date, date=NOW) == 90.0


@given(st.text(), st.text())
def test_no_date_beside_it_breaks_anything_either(field: str, date: str) -> None:
    seconds = parse_retry_after(field, date=date)
    assert seconds is None or seconds >= 0
