"""Selections as people write them: arguments and quay:// addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from quaymirror.errors import ConfigError, Scope
from quaymirror.selection.parse import parse_since
from quaymirror.selection.selection import Selection

NOW = datetime(2025, 7, 1, 12, 0, tzinfo=UTC)
JUNE = datetime(2025, 6, 1, tzinfo=UTC)


def parse(text: str) -> Selection:
    return Selection.parse_uri(text, now=NOW)


def check(error: ConfigError) -> None:
    assert type(error) is ConfigError
    assert error.scope is Scope.RUN
    assert error.message.isprintable()
    assert "; " in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        pytest.param("quay://kolla", Selection("kolla"), id="only-an-organization"),
        pytest.param("quay://kolla/nova-*", Selection("kolla", "nova-*"), id="no-tag"),
        pytest.param("quay://kolla:2025.1", Selection("kolla", "*", "2025.1"), id="no-glob"),
        pytest.param("quay://kolla/nova-*:2025.1", Selection("kolla", "nova-*", "2025.1"), id="all-three"),
        pytest.param("quay://openstack.kolla/*:x", Selection("openstack.kolla", "*", "x"), id="dotted-organization"),
        pytest.param("quay://kolla/a/b-*/c:x", Selection("kolla", "a/b-*/c", "x"), id="nested-glob"),
        pytest.param("quay://kolla/a..b:x", Selection("kolla", "a..b", "x"), id="two-dots"),
        pytest.param("quay://quay.io/kolla/nova", Selection("quay.io", "kolla/nova"), id="host-is-an-organization"),
        pytest.param("quay://kolla/nova-?", Selection("kolla", "nova-?"), id="question-mark-at-the-end"),
        pytest.param("quay://kolla/?ova:x", Selection("kolla", "?ova", "x"), id="question-mark-before-the-tag"),
        pytest.param("quay://kolla/n[!a-z]?:x", Selection("kolla", "n[!a-z]?", "x"), id="brackets"),
        pytest.param("quay://kolla?since=2025-06-01", Selection("kolla", since=JUNE), id="organization-and-query"),
        pytest.param("quay://kolla/n*?since=2025-06-01", Selection("kolla", "n*", since=JUNE), id="glob-and-query"),
        pytest.param(
            "quay://kolla/n-??since=2025-06-01", Selection("kolla", "n-?", since=JUNE), id="question-mark-and-query"
        ),
        pytest.param("quay://kolla/*:x?since=2025-06-01", Selection("kolla", "*", "x", since=JUNE), id="everything"),
        pytest.param(
            "quay://kolla/?:x?since=2025-06-01T02:00:00+02:00",
            Selection("kolla", "?", "x", since=JUNE),
            id="colons-in-the-query",
        ),
        pytest.param(
            "quay://kolla/*?since=30d", Selection("kolla", since=NOW - timedelta(days=30)), id="duration-in-the-query"
        ),
    ],
)
def test_addresses_mean_the_same_as_words(text: str, selection: Selection) -> None:
    assert parse(text) == selection
    assert parse(str(selection)) == selection


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        pytest.param(Selection("kolla"), "quay://kolla/*:latest", id="defaults"),
        pytest.param(Selection("kolla", since=JUNE), "quay://kolla/*:latest?since=2025-06-01", id="date"),
        pytest.param(
            Selection("kolla", since=JUNE + timedelta(hours=1, microseconds=5)),
            "quay://kolla/*:latest?since=2025-06-01T01:00:00.000005Z",
            id="moment",
        ),
        pytest.param(
            Selection("kolla", since=JUNE.astimezone(timezone(timedelta(hours=2)))),
            "quay://kolla/*:latest?since=2025-06-01",
            id="another-time-zone",
        ),
        pytest.param(Selection("kolla", exclude=("x",)), "quay://kolla/*:latest", id="excludes-have-no-place"),
    ],
)
def test_the_canonical_address_says_everything(selection: Selection, text: str) -> None:
    assert str(selection) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("", "not a quay:// address: ''", id="empty"),
        pytest.param("kolla", "not a quay:// address: 'kolla'", id="no-scheme"),
        pytest.param("https://quay.io/kolla", "unknown kind of source: 'https'; write ORG", id="another-scheme"),
        pytest.param("HARBOR://h/p/x:1", "unknown kind of source: 'HARBOR'", id="upper-case-scheme"),
        pytest.param("quay:/kolla", "not a quay:// address", id="one-slash"),
        pytest.param(" quay://kolla", "not a quay:// address", id="space-before"),
        pytest.param("quay://", "not an organization name: ''", id="no-organization"),
        pytest.param("quay:///nova:x", "not an organization name: ''", id="empty-organization"),
        pytest.param("quay://:x", "not an organization name: ''", id="only-a-tag"),
        pytest.param("quay://?since=2025-06-01", "not an organization name: ''", id="only-a-query"),
        pytest.param("quay://kolla?", "not an organization name: 'kolla?'", id="question-mark-in-the-organization"),
        pytest.param("quay://kolla/", "not a valid glob: ''; write *", id="empty-glob"),
        pytest.param("quay://kolla/:x", "not a valid glob: ''; write *", id="empty-glob-before-a-tag"),
        pytest.param("quay://kolla/a:b:c", "not a valid glob: 'a:b'", id="two-colons"),
        pytest.param("quay://kolla/a=b", "not a valid glob: 'a=b'", id="equals-without-query"),
        pytest.param("quay://kolla/%2a", "not a valid glob: '%2a'", id="percent-encoded"),
        pytest.param("quay://kolla/nova:", "not a tag: ''", id="empty-tag"),
        pytest.param("quay://kolla/nova:?since=2025-06-01", "not a tag: ''", id="empty-tag-before-a-query"),
        pytest.param("quay://kolla:x/nova", "not a tag: 'x/nova'", id="tag-before-the-glob"),
        pytest.param("quay://kolla/nova:x\n", r"not a tag: 'x\n'", id="newline-after"),
        pytest.param("quay://kolla/nova:x?", "unknown query: ''", id="empty-query"),
        pytest.param("quay://kolla/nova:x?since", "unknown query: 'since'", id="query-without-value"),
        pytest.param("quay://kolla/nova:x?until=2025-06-01", "unknown query: 'until=2025-06-01'", id="unknown-key"),
        pytest.param("quay://kolla/nova?since=7d&x=1", "unknown query: 'x=1'", id="unknown-second-key"),
        pytest.param("quay://kolla/nova?since=7d&", "unknown query: ''", id="nothing-after-the-ampersand"),
        pytest.param("quay://kolla/nova?since=7d&since=7d", "since is given twice", id="repeated-key"),
        pytest.param("quay://kolla/nova?since=", "not a date or duration: ''", id="empty-since"),
        pytest.param("quay://kolla/nova?since=2025-02-30", "no such date or duration: '2025-02-30'", id="no-such-day"),
        pytest.param("quay://kolla/nova?since=7d#x", "not a date or duration: '7d#x'", id="fragment"),
    ],
)
def test_addresses_that_are_wrong_say_what_to_write(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)

    check(caught.value)
    assert caught.value.message.startswith(part)


@pytest.mark.parametrize(
    "text",
    ["quay://me:secret@kolla/x", "https://me:secret@quay.io/kolla", "me:secret@kolla"],
    ids=["address", "another-scheme", "no-scheme"],
)
def test_a_password_in_an_address_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="no credentials") as caught:
        parse(text)

    check(caught.value)
    assert "secret" not in caught.value.message


def test_since_is_said_in_one_place() -> None:
    assert Selection.parse_uri("quay://kolla", since=JUNE).since == JUNE
    with pytest.raises(ConfigError, match="since is given twice") as caught:
        Selection.parse_uri("quay://kolla?since=2025-06-01", since=JUNE)

    check(caught.value)


def test_without_a_given_now_the_clock_counts() -> None:
    since = Selection.parse_uri("quay://kolla?since=1h").since

    assert since is not None
    assert timedelta(0) <= datetime.now(UTC) - timedelta(hours=1) - since < timedelta(minutes=1)


@pytest.mark.parametrize("name", ["ko", "kolla", "openstack.kolla", "a-b_c.d", "0x", "a" * 255])
def test_organizations_that_quay_takes_are_legal(name: str) -> None:
    assert Selection(name).organization == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("Kolla!", "lower-case letters, digits, and . _ - between them", id="upper-case-and-mark"),
        pytest.param("", "lower-case", id="empty"),
        pytest.param("a..b", "between them", id="two-dots"),
        pytest.param("a--b", "between them", id="two-dashes"),
        pytest.param("-ab", "between them", id="leading-dash"),
        pytest.param("ab.", "between them", id="trailing-dot"),
        pytest.param("..", "between them", id="parent"),
        pytest.param("../etc", "between them", id="traversal"),
        pytest.param("kolla\n", "between them", id="newline"),
        pytest.param("kolla\0", "between them", id="nul"),
        pytest.param("ko lla", "between them", id="space"),
        pytest.param("kolla+robot", "between them", id="robot"),
        pytest.param("k\x1b[2J", "between them", id="escape"),
        pytest.param("kollа", "between them", id="cyrillic"),  # noqa: RUF001
        pytest.param("k", "2 to 255 characters", id="one-character"),
        pytest.param("k" * 256, "2 to 255 characters", id="too-long"),
        pytest.param("K" * 10_000, "between them", id="ten-thousand"),
    ],
)
def test_what_is_no_organization_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="not an organization name: ") as caught:
        Selection(name)

    check(caught.value)
    assert hint in caught.value.message


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        Selection("K" * 101)

    assert f"'{'K' * 100}'…;" in caught.value.message


@pytest.mark.parametrize(
    "glob",
    ["*", "nova-*", "a/*/b", "?", "[a-z]*", "[!0-9]x", "[a-]", "[-a]", "[--9]", "[!-]", "a-", "a.", "-*", "[a/b]x"],
)
def test_globs_of_names_and_wildcards_are_legal(glob: str) -> None:
    assert Selection("kolla", glob, exclude=(glob,)).globs == (glob,)


@pytest.mark.parametrize(
    ("glob", "hint"),
    [
        pytest.param("", "write *", id="empty"),
        pytest.param(" ", "lower-case", id="space"),
        pytest.param("nova *", "lower-case", id="space-inside"),
        pytest.param("nova\n", "lower-case", id="newline"),
        pytest.param("nova\0", "lower-case", id="nul"),
        pytest.param("{a,b}", "lower-case", id="braces"),
        pytest.param("^a$", "lower-case", id="regular-expression"),
        pytest.param("\ud800", "lower-case", id="surrogate"),
        pytest.param("/nova", "between two parts", id="leading-slash"),
        pytest.param("nova/", "between two parts", id="trailing-slash"),
        pytest.param("a//b", "between two parts", id="empty-component"),
        pytest.param("[", "in pairs", id="only-open"),
        pytest.param("nova[a-z", "in pairs", id="unclosed"),
        pytest.param("[]", "in pairs", id="empty-brackets"),
        pytest.param("[!]", "in pairs", id="empty-negation"),
        pytest.param("[]a]", "in pairs", id="bracket-as-member"),
        pytest.param("[[a]", "in pairs", id="open-twice"),
        pytest.param("[a]]", "in pairs", id="closed-twice"),
        pytest.param("a]", "in pairs", id="unopened"),
        pytest.param("[a*]", "in pairs", id="wildcard-as-member"),
        pytest.param("!nova", "only right after", id="exclamation-mark"),
        pytest.param("[z-a]", "range z-a the other way round", id="range-backwards"),
        pytest.param("[a-z][!9-0]", "range 9-0 the other way round", id="second-range-backwards"),
        pytest.param("*" * 1_001, "at most 1,000", id="too-long"),
    ],
)
def test_globs_that_can_match_nothing_are_refused(glob: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="not a valid glob: ") as caught:
        Selection("kolla", glob)

    check(caught.value)
    assert hint in caught.value.message
    with pytest.raises(ConfigError, match="not a valid exclude glob: "):
        Selection("kolla", exclude=("x", glob))


def test_an_upper_case_glob_is_legal_and_matches_no_lower_case_name() -> None:
    assert not Selection("kolla", "Nova-*").matches("nova-api")
    assert not Selection("kolla", "[A-Z]*").matches("nova-api")


def test_neighbouring_brackets_are_no_range() -> None:
    assert Selection("kolla", "[z-][-a]").matches("-a")


@pytest.mark.parametrize("tag", ["", ".x", "-x", "a b", "a/b", "x\n", "x" * 129, "é"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match="not a tag: ") as caught:
        Selection("kolla", "*", tag)

    check(caught.value)


@pytest.mark.parametrize(
    ("glob", "exclude", "name", "selected"),
    [
        pytest.param("*", (), "nova", True, id="everything"),
        pytest.param("*", (), "a/b/c", True, id="star-crosses-slashes"),
        pytest.param("?", (), "/", True, id="question-mark-crosses-slashes"),
        pytest.param("nova-*", (), "nova-api", True, id="prefix"),
        pytest.param("nova-*", (), "nova-", True, id="star-is-nothing-too"),
        pytest.param("nova-*", (), "nova", False, id="prefix-missing"),
        pytest.param("nova-*", (), "x-nova-api", False, id="only-from-the-beginning"),
        pytest.param("nova", (), "nova-api", False, id="only-to-the-end"),
        pytest.param("nova", (), "nova\n", False, id="newline-after"),
        pytest.param("nova", (), "Nova", False, id="case-counts"),
        pytest.param("a.b", (), "axb", False, id="dot-is-a-dot"),
        pytest.param("[!a-m]*", (), "nova", True, id="negation"),
        pytest.param("[!a-m]*", (), "glance", False, id="negated"),
        pytest.param("*", ("nova-*",), "nova-api", False, id="excluded"),
        pytest.param("*", ("x", "*-api"), "nova-api", False, id="excluded-by-the-second"),
        pytest.param("*", ("api",), "nova-api", True, id="excludes-are-whole-names"),
    ],
)
def test_a_glob_covers_the_whole_name(glob: str, exclude: tuple[str, ...], name: str, selected: bool) -> None:
    assert Selection("kolla", glob, exclude=exclude).matches(name) is selected


def test_a_glob_of_many_stars_is_quick() -> None:
    assert not Selection("kolla", "*a" * 50 + "b").matches("a" * 255)


def test_excludes_are_kept_as_a_tuple() -> None:
    selection = Selection.parse_uri("quay://kolla", exclude=["a", "b"])

    assert selection.exclude == ("a", "b")
    assert hash(selection) == hash(Selection("kolla", exclude=("a", "b")))


def test_since_needs_a_time_zone() -> None:
    with pytest.raises(ConfigError, match="no time zone") as caught:
        Selection("kolla", since=datetime(2025, 6, 1))

    check(caught.value)


def test_since_has_to_exist_in_utc() -> None:
    with pytest.raises(ConfigError, match="outside the calendar in UTC") as caught:
        Selection("kolla", since=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))

    check(caught.value)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        pytest.param("2025-06-01", JUNE, id="date"),
        pytest.param("2025-06-01T12:30", datetime(2025, 6, 1, 12, 30, tzinfo=UTC), id="naive-is-utc"),
        pytest.param("2025-06-01T12:30:05Z", datetime(2025, 6, 1, 12, 30, 5, tzinfo=UTC), id="utc"),
        pytest.param("2025-06-01T12:30:05.25", datetime(2025, 6, 1, 12, 30, 5, 250_000, tzinfo=UTC), id="fraction"),
        pytest.param("2025-06-01T02:00+02:00", JUNE, id="offset"),
        pytest.param("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC), id="leap-day"),
        pytest.param("2025-07-01T12:00", NOW, id="now"),
        pytest.param("90m", NOW - timedelta(minutes=90), id="minutes"),
        pytest.param("12h", NOW - timedelta(hours=12), id="hours"),
        pytest.param("7d", NOW - timedelta(days=7), id="days"),
        pytest.param("2w", NOW - timedelta(weeks=2), id="weeks"),
        pytest.param("007d", NOW - timedelta(days=7), id="leading-zeros"),
    ],
)
def test_since_is_a_date_or_a_duration(text: str, moment: datetime) -> None:
    parsed = parse_since(text, now=NOW)

    assert parsed == moment
    assert parsed.tzinfo is UTC


def test_since_is_utc_wherever_now_is() -> None:
    parsed = parse_since("7d", now=NOW.astimezone(timezone(timedelta(hours=9))))

    assert (parsed, parsed.tzinfo) == (NOW - timedelta(days=7), UTC)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("", "not a date or duration", id="empty"),
        pytest.param("yesterday", "not a date or duration", id="word"),
        pytest.param("7", "not a date or duration", id="no-unit"),
        pytest.param("d", "not a date or duration", id="no-number"),
        pytest.param("7y", "not a date or duration", id="unknown-unit"),
        pytest.param("7D", "not a date or duration", id="upper-case-unit"),
        pytest.param("-7d", "not a date or duration", id="negative"),
        pytest.param("1.5d", "not a date or duration", id="fraction"),
        pytest.param("1d12h", "not a date or duration", id="two-units"),
        pytest.param("7d\n", "not a date or duration", id="newline"),
        pytest.param(" 7d", "not a date or duration", id="space"),
        pytest.param("٣d", "not a date or duration", id="arabic-digit"),
        pytest.param("20250601", "not a date or duration", id="basic-format"),
        pytest.param("2025-W01-1", "not a date or duration", id="week-date"),
        pytest.param("2025-6-1", "not a date or duration", id="no-zeros"),
        pytest.param("01.06.2025", "not a date or duration", id="day-first"),
        pytest.param("2025-06-01T24:00", "not a date or duration", id="hour-24"),
        pytest.param("2025-06-01 12:00", "not a date or duration", id="space-for-t"),
        pytest.param("2025-02-30", "no such date or duration", id="no-such-day"),
        pytest.param("2025-02-29", "no such date or duration", id="no-leap-year"),
        pytest.param("2025-13-01", "no such date or duration", id="no-such-month"),
        pytest.param("0000-01-01", "no such date or duration", id="year-zero"),
        pytest.param("2025-06-01T12:60", "no such date or duration", id="no-such-minute"),
        pytest.param("2025-06-01T12:00+25:00", "no such date or duration", id="no-such-offset"),
        pytest.param("0001-01-01T00:00+14:00", "no such date or duration", id="before-the-calendar"),
        pytest.param("0d", "no such date or duration", id="nothing"),
        pytest.param("000w", "no such date or duration", id="nothing-at-length"),
        pytest.param("999999d", "no such date or duration", id="longer-than-the-calendar"),
        pytest.param("9" * 30 + "w", "no such date or duration", id="overflow"),
        pytest.param("9" * 10_000 + "m", "no such date or duration", id="ten-thousand-digits"),
        pytest.param("2025-07-02", "in the future", id="tomorrow"),
        pytest.param("2025-07-01T12:00:01", "in the future", id="in-a-second"),
        pytest.param("9999-12-31", "in the future", id="end-of-the-calendar"),
    ],
)
def test_any_other_since_is_refused(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_since(text, now=NOW)

    check(caught.value)
    assert caught.value.message.startswith(f"{part}: ")


def test_several_globs_and_tags_are_separated_by_commas() -> None:
    selection = parse("quay://kolla/nova-*,neutron-server:2025.1-debian*,2024.2-[a-z]*")

    assert [name for name in ("nova-api", "neutron-server", "neutron-api") if selection.matches(name)] == [
        "nova-api",
        "neutron-server",
    ]
    tags = ("2025.1-debian", "2025.1-debian-x", "2025.1", "2024.2-rocky")
    assert [tag for tag in tags if selection.matches_tag(tag)] == ["2025.1-debian", "2025.1-debian-x", "2024.2-rocky"]
    assert not selection.is_one_tag
    assert not selection.is_one_repository
    assert Selection("kolla", "nova-api", "x").is_one_repository


@pytest.mark.parametrize(
    ("glob", "tag", "part"),
    [
        ("nova,", "x", "not a valid glob: ''; write *"),
        ("nova", "x,", "not a tag: ''"),
        ("nova", "2025.*!", r"not a tag: '2025.\*!'; tags have .*; globs for them have"),
        ("nova", "2025.[z-a]", "write the range z-a the other way round"),
        ("nova", "*:", "globs for them have"),
    ],
)
def test_a_list_with_a_bad_part_names_that_part(glob: str, tag: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part.replace("?", "[?]")) as caught:
        Selection("kolla", glob, tag)

    check(caught.value)
