"""The probe for a documented rate limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.probe import RateLimitProbe


def test_requests_within_the_limit_start_at_once_and_are_no_trials() -> None:
    probe = RateLimitProbe(rate=4, burst=3)
    assert [probe.admit(100.0) for _ in range(4)] == [(0.0, False)] * 4


def test_beyond_the_limit_two_try_and_the_others_wait() -> None:
    probe = RateLimitProbe(rate=4, burst=0)
    probe.admit(100.0)
    assert [probe.admit(100.0) for _ in range(3)] == [(0.0, True), (0.0, True), (0.25, False)]


def test_each_trial_that_passes_allows_more_until_the_limit_is_disproved() -> None:
    probe = RateLimitProbe(rate=4, burst=0)
    probe.admit(100.0)
    for _ in range(6):
        assert not probe.is_over
        assert probe.admit(100.0) == (0.0, True)
        probe.finish(passed=True)

    assert probe.is_over
    assert probe.admit(100.0) == (0.0, False)


def test_a_complaint_ends_the_probe() -> None:
    probe = RateLimitProbe(rate=4, burst=0)
    probe.end()
    assert probe.is_over


@given(st.lists(st.booleans(), max_size=50))
def test_trials_that_fail_prove_nothing(results: list[bool]) -> None:
    probe, passed = RateLimitProbe(rate=1, burst=0), 0
    probe.admit(100.0)
    for result in results:
        if probe.is_over:
            break

        delay, is_trial = probe.admit(100.0)
        assert (delay, is_trial) == (0.0, True)
        probe.finish(passed=result)
        passed += result

    assert probe.is_over == (passed >= 6)
