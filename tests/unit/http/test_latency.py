"""How far away a host is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.latency import LatencyClass


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
    distance = LatencyClass()
    for seconds in answers:
        assert distance.answered(seconds) is distance.is_far

    assert (distance.is_known, distance.is_far) == (is_known, is_far)


@given(st.lists(st.floats(0, 10)))
def test_what_is_known_stays(answers: list[float]) -> None:
    distance, verdict = LatencyClass(), None
    for seconds in answers:
        distance.answered(seconds)
        if distance.is_known:
            verdict = distance.is_far if verdict is None else verdict
            assert distance.is_far is verdict
