from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.text import (
    counted,
    escape_controls,
    human_bytes,
    human_duration,
    human_rate,
    one_line,
    shorten,
    shorten_middle,
    sparkline,
    table,
)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("kolla/nova-api", "kolla/nova-api"),
        ("größe 大", "größe 大"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\td", r"a\x0ab\x0dc\x09d"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\u2028\u2029\u200b\ufeff", r"\u2028\u2029\u200b\ufeff"),
        ("\ud800", r"\ud800"),
        ("\ufe0f\u034f\u3164", r"\ufe0f\u034f\u3164"),
        ("\U000e0041", r"\U000e0041"),
        ("[/x] [bold]", "[/x] [bold]"),
    ],
    ids=ascii,
)
def test_what_has_no_glyph_is_spelled_out(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


@given(st.text(st.characters(codec=None)))
def test_plain_text_is_one_printable_line_that_can_be_encoded(text: str) -> None:
    line = escape_controls(text)

    assert line.isprintable()
    line.encode()  # raises for a surrogate
    assert escape_controls(line) == line


def test_a_long_text_is_shortened_with_an_ellipsis() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (1288490189, "1.2 GiB"),
        (2**63, "8.0 EiB"),
    ],
)
def test_bytes_are_shown_in_iec_units(count: int, text: str) -> None:
    assert human_bytes(count) == text


@given(st.integers(0, 2**63))
def test_bytes_never_need_more_than_ten_characters(count: int) -> None:
    assert len(human_bytes(count)) <= 10


def test_a_rate_is_bytes_a_second() -> None:
    assert human_rate(47395635.2) == "45.2 MiB/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (12.9, "12 s"),
        (60, "1m 00s"),
        (3599.9, "59m 59s"),
        (3720, "1h 02m"),
        (183_600, "2d 03h"),
        (float("inf"), "999d 00h"),
    ],
)
def test_durations_are_shown_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_a_sparkline_shows_the_last_values_against_the_largest() -> None:
    assert sparkline([100, 0, 5, 10], 3) == "▁▅█"
    assert sparkline([0, 0], 5) == "▁▁"
    assert sparkline([], 5) == ""
    assert sparkline([1], 0) == ""
    assert sparkline([1, 2], 2, levels=".#") in {".#", "##"}


def test_a_count_agrees_with_its_noun() -> None:
    assert counted(1, "image") == "1 image"
    assert counted(2_000, "image") == "2,000 images"
    assert counted(0, "repository", "repositories") == "0 repositories"


def test_a_table_has_aligned_columns_without_control_characters() -> None:
    assert table([("a", "b\x1b", ""), ("long", "c", "d")]) == ["a     b\\x1b", "long  c      d"]
    assert table([]) == []


def test_one_line_is_of_bounded_length() -> None:
    assert len(one_line("\n" * 10_000)) == 500


def test_a_long_name_keeps_both_ends() -> None:
    assert shorten_middle("nova-compute-ironic", 11) == "nova-…ronic"
    assert shorten_middle("nova", 4) == "nova"
    assert [shorten_middle("nova", length) for length in range(4)] == ["", "…", "…a", "n…a"]
