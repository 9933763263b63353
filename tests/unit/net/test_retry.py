"""The one layer that tries again: what is worth it, how often, and when."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.errors import (
    AccessDenied,
    DigestMismatch,
    NotFound,
    QuaymirrorError,
    RateLimited,
    ReadInterrupted,
    StoreError,
    Unavailable,
)
from quaymirror.net.retry import Attempts, RetryPolicy, parse_retry_after


class Script:
    """An operation that fails as it is told, then succeeds."""

    def __init__(self, *failures: QuaymirrorError, retries: int = 5, patience: float = 900) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.waits: list[float] = []
        self.attempts = Attempts(RetryPolicy(retries=retries, patience=patience, sleep=self._sleep), "it")

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)

        return "done"

    async def run(self) -> str:
        return await self.attempts.run(self)


async def test_what_may_pass_is_tried_again() -> None:
    script = Script(ReadInterrupted("cut"), Unavailable("502", status=502))
    assert await script.run() == "done"
    assert script.calls == 3


@pytest.mark.parametrize("error", [NotFound("404"), AccessDenied("401"), StoreError("full")], ids=lambda e: str(e))
async def test_what_will_not_change_is_not_tried_again(error: QuaymirrorError) -> None:
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

    async def advancing() -> str:
        script.attempts.progress()
        return await script()

    assert await script.attempts.run(advancing) == "done"
    assert script.calls == 13


async def test_a_server_that_says_when_is_believed_and_being_told_to_wait_is_no_failure() -> None:
    script = Script(*(RateLimited("429", retry_after=7.0) for _ in range(20)), retries=1)
    assert await script.run() == "done"
    assert script.waits == [7.0] * 20


async def test_waits_for_a_silent_429_are_long_enough_and_end() -> None:
    script = Script(*(RateLimited("429") for _ in range(2000)), patience=300)
    with pytest.raises(RateLimited):
        await script.run()

    assert all(wait >= 1 for wait in script.waits[:1])
    assert sum(script.waits) < 300 + 60 * 7


async def test_cancellation_is_never_tried_again() -> None:
    calls = 0

    async def waits() -> None:
        nonlocal calls
        calls += 1
        await anyio.sleep_forever()

    with anyio.move_on_after(0):
        await Attempts(RetryPolicy(), "it").run(waits)

    assert calls == 1


NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


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
    assert parse_retry_after(field, now=NOW) == seconds


@given(st.text())
def test_no_retry_after_breaks_anything(field: str) -> None:
    seconds = parse_retry_after(field, now=NOW)
    assert seconds is None or seconds >= 0
