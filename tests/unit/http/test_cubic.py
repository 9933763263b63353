"""The request rate that a host takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.cubic import CubicRate


def test_a_host_that_never_complains_has_no_limit() -> None:
    cubic = CubicRate(5.0)
    for moment in range(100):
        cubic.record_answer(float(moment))

    assert not cubic.is_limited
    assert cubic.rate(100.0) is None


def test_the_first_complaint_confirms_the_documented_limit_with_little_caution() -> None:
    cubic = CubicRate(5.0)
    assert cubic.record_complaint(100.0, pause=1.0)
    assert cubic.is_limited
    assert cubic.rate(101.0) == 4.8125


def test_without_a_documented_limit_it_is_what_passed_before_the_complaint() -> None:
    cubic = CubicRate()
    for number in range(200):
        cubic.record_answer(100 + number / 50)

    cubic.record_complaint(104.0, pause=0.0)
    assert cubic.rate(104.0) == pytest.approx(0.7 * 50, rel=0.05)
    assert cubic.rate(104.0 + 16) == pytest.approx(50, rel=0.05)
    later = cubic.rate(104.0 + 40)
    assert later is not None
    assert later > 50


def test_a_complaint_after_few_requests_is_not_about_their_rate() -> None:
    cubic = CubicRate()
    cubic.record_answer(99.0)
    assert cubic.record_complaint(100.0, pause=1.0)
    assert not cubic.is_limited


def test_complaints_about_one_burst_count_once() -> None:
    cubic = CubicRate(5.0)
    assert [cubic.record_complaint(100 + number / 10, pause=1.0) for number in range(10)] == [True] + [False] * 9
    assert cubic.record_complaint(103.0, pause=1.0)


@given(st.lists(st.tuples(st.floats(0.001, 5), st.booleans()), max_size=100), st.sampled_from([None, 5.0, 50.0]))
def test_the_rate_is_always_positive_or_unlimited(steps: list[tuple[float, bool]], documented: float | None) -> None:
    cubic, now = CubicRate(documented), 100.0
    for seconds, complains in steps:
        now += seconds
        if complains:
            cubic.record_complaint(now, pause=seconds)
        else:
            cubic.record_answer(now)

        rate = cubic.rate(now)
        assert rate is None or 0.5 <= rate < 10_000
