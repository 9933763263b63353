"""Extents behave like a set of byte numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quaymirror.store import extents
from quaymirror.store.extents import Extents

SIZE = 40
stretches = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair))))


def numbers(pairs: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in pairs for number in range(start, end)}


@given(stretches)
def test_added_ranges_are_present_and_the_rest_is_missing(added: list[tuple[int, int]]) -> None:
    gaps = Extents(added).gaps(SIZE)

    assert numbers(gaps) == set(range(SIZE)) - numbers(added)
    assert all(start < end for start, end in gaps)
    assert all(one[1] < other[0] for one, other in pairwise(gaps))


@given(stretches)
def test_the_prefix_ends_where_the_first_gap_begins(added: list[tuple[int, int]]) -> None:
    there = Extents(added)

    assert there.prefix == next((start for start, _ in there.gaps(SIZE)), SIZE)


@given(stretches)
def test_lines_are_parsed_as_they_were_written(added: list[tuple[int, int]]) -> None:
    text = b"".join(extents.line(start, end) for start, end in added)

    assert extents.parse(text, SIZE).gaps(SIZE) == Extents(added).gaps(SIZE)


@given(stretches, st.integers(0, 200))
def test_an_incomplete_line_is_ignored(added: list[tuple[int, int]], cut: int) -> None:
    text = b"".join(extents.line(start, end) for start, end in added)

    assert set(numbers(extents.parse(text, SIZE).gaps(SIZE))) >= set(numbers(extents.parse(text[:0], SIZE).gaps(0)))
    whole_lines = text[:cut].count(b"\n")
    assert extents.parse(text[:cut], SIZE).gaps(SIZE) == Extents(added[:whole_lines]).gaps(SIZE)


@given(st.binary())
def test_nonsense_gives_no_impossible_ranges(text: bytes) -> None:
    assert all(0 <= start < end <= SIZE for start, end in extents.parse(text, SIZE).gaps(SIZE))
