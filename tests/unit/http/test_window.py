"""The window of concurrent requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.http.window import Window


def test_it_grows_by_one_per_window_of_answers_and_halves_after_a_complaint() -> None:
    window = Window(4, 64)
    for _ in range(5):
        window.grow(is_far=False, is_fast=False)

    assert window.size == 5
    window.shrink()
    assert window.size == 2


def test_it_grows_by_one_per_answer_where_no_limit_is_known() -> None:
    window = Window(4, 64)
    for _ in range(10):
        window.grow(is_far=False, is_fast=True)

    assert window.size == 14


@pytest.mark.parametrize(("is_far", "size"), [(False, 4), (True, 40)])
def test_a_far_host_gets_a_large_window_at_once_and_a_near_one_never(is_far: bool, size: int) -> None:
    window = Window(4, 64, far=40)
    for _ in range(10):
        window.grow(is_far=is_far, is_fast=False)

    assert window.size == size


def test_the_window_of_a_far_host_is_enlarged_only_once() -> None:
    window = Window(4, 64, far=40)
    window.grow(is_far=True, is_fast=False)
    window.shrink()
    window.grow(is_far=True, is_fast=False)
    assert window.size == 20


@given(st.lists(st.sampled_from(["shrink", "far", "near", "fast"]), max_size=200), st.sampled_from([None, 8, 16]))
def test_it_always_holds_one_request_and_never_more_than_its_maximum(steps: list[str], far: int | None) -> None:
    window = Window(4, 16, far)
    for step in steps:
        if step == "shrink":
            window.shrink()
        else:
            window.grow(is_far=step == "far", is_fast=step == "fast")

        assert 1 <= window.size <= 16
