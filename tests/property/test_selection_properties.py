"""Selections survive a round trip, and any text is a selection or leads to one clear line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from hypothesis import example, given
from hypothesis import strategies as st

from quaymirror.errors import ConfigError
from quaymirror.selection.grammar import fault_of_glob
from quaymirror.selection.parse import parse_since
from quaymirror.selection.selection import Selection

NOW = datetime(2025, 7, 1, 12, 0, tzinfo=UTC)
TEXT = st.text(st.characters(), max_size=20)
# Parts of addresses, so that most of these texts are nearly addresses.
NEARLY = st.text(st.sampled_from("ab0.-_/*?[]!:=&s"), max_size=20) | st.lists(
    st.sampled_from(["kolla", "/", ":", "?", "since=", "2025-06-01", "7d", "*", "&", "[a-c]", "x"]), max_size=8
).map("".join)

ORGANIZATIONS = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True).filter(lambda text: 2 <= len(text) <= 255)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
GLOBS = st.lists(
    st.sampled_from(["nova", "-", ".", "a", "0", "*", "?", "[a-z]", "[!0-9]", "[-_]", "a/b"]), min_size=1, max_size=8
).map("".join)
GLOBS = GLOBS.filter(lambda text: not fault_of_glob(text))  # no repository has such a name
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,5}(/[a-z0-9][a-z0-9._-]{0,5})?", fullmatch=True)
MOMENTS = st.datetimes(max_value=datetime(2025, 7, 1), timezones=st.just(UTC))
SELECTIONS = st.builds(
    Selection, ORGANIZATIONS, GLOBS, TAGS, st.lists(GLOBS, max_size=2).map(tuple), st.none() | MOMENTS
)


def check_message(error: ConfigError) -> None:
    assert type(error) is ConfigError
    assert error.message.isprintable()
    assert "; " in error.message
    assert len(error.message) < 3_000


@given(SELECTIONS)
@example(Selection("kolla", "nova-?", "x", since=NOW))
@example(Selection("kolla", "??", "since", since=datetime(1, 1, 1, tzinfo=UTC)))
def test_selections_survive_a_round_trip(selection: Selection) -> None:
    assert Selection.parse_uri(str(selection), exclude=selection.exclude, now=NOW) == selection


@given(ORGANIZATIONS, GLOBS, TAGS)
def test_words_and_address_mean_the_same(organization: str, glob: str, tag: str) -> None:
    assert Selection.parse_uri(f"quay://{organization}") == Selection(organization)
    assert Selection.parse_uri(f"quay://{organization}/{glob}") == Selection(organization, glob)
    assert Selection.parse_uri(f"quay://{organization}:{tag}") == Selection(organization, tags=tag)
    assert Selection.parse_uri(f"quay://{organization}/{glob}:{tag}") == Selection(organization, glob, tag)


@given(TEXT | NEARLY, st.booleans())
def test_any_address_is_a_selection_or_refused(text: str, prefixed: bool) -> None:
    try:
        selection = Selection.parse_uri(f"quay://{text}" if prefixed else text, now=NOW)
    except ConfigError as error:
        check_message(error)
    else:
        assert Selection.parse_uri(str(selection), now=NOW) == selection


@given(TEXT | NEARLY, TEXT | NEARLY, TEXT | NEARLY, st.lists(NEARLY, max_size=2).map(tuple))
def test_any_words_are_a_selection_or_refused(organization: str, glob: str, tag: str, exclude: tuple[str, ...]) -> None:
    try:
        Selection(organization, glob, tag, exclude)
    except ConfigError as error:
        check_message(error)


@given(GLOBS, st.lists(GLOBS, max_size=2).map(tuple), NAMES | TEXT)
def test_matching_is_fnmatch_less_the_excludes(glob: str, exclude: tuple[str, ...], name: str) -> None:
    expected = fnmatchcase(name, glob) and not any(fnmatchcase(name, pattern) for pattern in exclude)

    assert Selection("kolla", glob, exclude=exclude).matches(name) is expected


@given(NAMES)
def test_a_name_is_a_glob_for_itself(name: str) -> None:
    assert Selection("kolla", name).matches(name)
    assert not Selection("kolla", exclude=(name,)).matches(name)


@given(TEXT | st.from_regex(r"[0-9]{1,12}[mhdw]") | st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-9:+.Z-]{0,15})?"))
def test_any_since_is_a_past_moment_in_utc_or_refused(text: str) -> None:
    try:
        moment = parse_since(text, now=NOW)
    except ConfigError as error:
        check_message(error)
    else:
        assert moment <= NOW
        assert moment.utcoffset() == timedelta(0)
