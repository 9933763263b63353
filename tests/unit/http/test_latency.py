"""The latency of a host: near or far, fast or slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.latency import Latency


@pytest.mark.parametrize(
    ("answers", "is_known", "is_far"),
    [
        ([], False, False),
        ([0.001], True, False),
        ([0.3] * 7, False, False),
        ([0.3] * 8, True, True),
        ([0.3] * 7 + [0.001], True, False),
        ([0.3] * 8 + [0.001], True, True),
        ([0.001] + [0.3] * 20, True, False),
    ],
)
def test_one_early_answer_means_near_and_only_late_ones_mean_far(
    answers: list[float], is_known: bool, is_far: bool
) -> None:
    latency = Latency()
    for seconds in answers:
        latency.record(seconds)

    assert (latency.is_known, latency.is_far) == (is_known, is_far)


@given(st.lists(st.floats(0, 10)))
def test_the_distance_is_decided_once(answers: list[float]) -> None:
    latency, verdict = Latency(), None
    for seconds in answers:
        latency.record(seconds)
        if latency.is_known:
            verdict = latency.is_far if verdict is None else verdict
            assert latency.is_far is verdict


def test_answers_that_take_much_longer_than_the_best_are_slow_once_in_a_while() -> None:
    latency = Latency()
    assert not any(latency.record(0.1) for _ in range(20))
    slow = [latency.record(5.0) for _ in range(20)]
    assert any(slow)
    assert sum(slow) < 20


@given(st.lists(st.floats(0, 0.99)))
def test_answers_within_a_second_are_never_slow(answers: list[float]) -> None:
    latency = Latency()
    assert not any(latency.record(seconds) for seconds in answers)
