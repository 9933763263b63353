"""What to mirror: an organization, globs for its repositories, tags. Pure parsing, no I/O.

Names follow Quay's own grammar, which is wider than the OCI distribution-spec's; tags follow the specification.
Nothing is unquoted or stripped on the way in: what isn't legal as written is an error, and every error is one line that
says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from ..errors import ConfigError
from ..oci import Digest
from ..oci.reference import is_tag

__all__ = ["Pin", "Selection", "parse_duration", "parse_since"]

_SCHEME = "quay://"
_FORM = "quay://ORG/GLOB:TAG[?since=YYYY-MM-DD]"

_ORGANIZATION = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ORGANIZATION_LENGTH = range(2, 256)

# A glob is made of these, one after the other. Inside brackets only what a name can have: `[` or `]` as members, which
# fnmatch would allow, match nothing and are always slips. Upper-case letters are let through: case counts in `matches`.
_GLOB_PARTS = re.compile(r"(?:[A-Za-z0-9._/*?-]|\[!?[A-Za-z0-9._/-]+\])+")
_GLOB_CHARACTERS = re.compile(r"[A-Za-z0-9._/*?\[\]!-]*")
_GLOB_RANGE = re.compile(r"(.)-(.)")
_BRACKETS = re.compile(r"\[!?([^]]*)\]")
# A repository name has at most 255 characters; brackets make its glob longer, but not without end.
_MAX_GLOB = 1_000

# No `?`: behind the tag it begins the query of an address.
_TAG_GLOB_PARTS = re.compile(r"(?:[A-Za-z0-9._*-]|\[!?[A-Za-z0-9._-]+\])+")
_MAX_TAG_GLOB = 500
_WILDCARDS = re.compile(r"[*?[]")

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_MOMENT = re.compile(rf"{_DATE}(?:T{_TIME}(?:Z|[+-][0-9]{{2}}:[0-9]{{2}})?)?")
_DURATION = re.compile(r"([0-9]+)([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One image of a lock: a `repository` without its organization, the tag it is called by, and its digest."""

    repository: str
    tag: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Selection:
    """The repositories of `organization` that match `glob` and none of `exclude`, at `tag`, updated after `since`.

    `glob` and `tag` may each be several, separated by commas: what matches one of them is selected. A tag may be a
    glob, too, with `*` and `[a-z]`. `since` is kept in UTC. With `pinned` these images are selected, nothing is looked
    for, and the other parts only describe them.

    :raises ConfigError: when a part breaks its grammar, or `since` has no time zone.
    """

    organization: str
    glob: str = "*"
    tag: str = "latest"
    exclude: tuple[str, ...] = ()
    since: datetime | None = None
    pinned: tuple[Pin, ...] = ()

    def __post_init__(self) -> None:
        _check_organization(self.organization)
        for glob in self.globs:
            _check_glob(glob, "glob")

        for tag in self.tags:
            _check_tag(tag)

        object.__setattr__(self, "exclude", tuple(self.exclude))
        for pattern in self.exclude:
            _check_glob(pattern, "exclude glob")

        if self.since is not None:
            object.__setattr__(self, "since", _in_utc(self.since))

    @property
    def globs(self) -> tuple[str, ...]:
        """The globs for repositories, one by one."""
        return tuple(self.glob.split(","))

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags and the globs for tags, one by one."""
        return tuple(self.tag.split(","))

    @property
    def is_one_tag(self) -> bool:
        """Whether a repository can have one image of this selection only."""
        return len(self.tags) == 1 and not is_pattern(self.tag)

    @property
    def is_one_repository(self) -> bool:
        """Whether only one repository can match."""
        return len(self.globs) == 1 and not is_pattern(self.glob)

    def matches(self, repository: str) -> bool:
        """Tell whether `repository`, a name without the organization, is selected; case counts, `*` crosses `/`."""
        # fnmatch keeps compiled patterns itself (an lru_cache), so this compiles each one once.
        return _matches_any(repository, self.globs) and not _matches_any(repository, self.exclude)

    def matches_tag(self, tag: str) -> bool:
        """Tell whether `tag` is selected."""
        return _matches_any(tag, self.tags)

    @classmethod
    def parse_uri(
        cls, text: str, *, exclude: Iterable[str] = (), since: datetime | None = None, now: datetime | None = None
    ) -> Selection:
        """Return the selection that `text` (`quay://ORG[/GLOB][:TAG][?since=SINCE]`) spells.

        It means the same as the words `ORG [GLOB] [TAG]`, and what is missing defaults as there. A `?` belongs to the
        glob unless it follows the tag or begins a `?key=value` at the end. SINCE is what `parse_since` takes, counted
        from `now` (None: the clock). `exclude` and `since` are what was said beside the URI.

        :raises ConfigError: for another form, an illegal part, a query that has an unknown or repeated key, or a
            `since` both in the URI and beside it.
        """
        if "@" in text:
            # Not quoted: what stands before it may be a password.
            raise ConfigError(f"an '@' in the address: it takes no credentials and no digest; write {_FORM}")

        if not text.startswith(_SCHEME):
            raise ConfigError(f"not a quay:// address: {_quoted(text)}; write {_FORM}")

        path, query = _split_query(text.removeprefix(_SCHEME))
        name, _, tag = path.rpartition(":") if ":" in path else (path, "", "latest")
        organization, _, glob = name.partition("/") if "/" in name else (name, "", "*")
        written = _since_of_query(query, text)
        if written is not None and since is not None:
            raise ConfigError(f"since is given twice: in {_quoted(text)} and beside it; write it once")

        if written is not None:
            since = parse_since(written, now=now or datetime.now(UTC))

        return cls(organization, glob, tag, tuple(exclude), since)

    def __str__(self) -> str:
        """Return the canonical URI: everything but `exclude`, which has no place in it."""
        query = "" if self.since is None else f"?since={_spelled(self.since)}"
        return f"{_SCHEME}{self.organization}/{self.glob}:{self.tag}{query}"


def parse_since(text: str, *, now: datetime) -> datetime:
    """Return the moment, in UTC, that `text` spells: a date, a date with time, or how long before `now`.

    Dates are as in ISO 8601 (`2025-06-30`, `2025-06-30T12:00`, `2025-06-30T12:00:00+02:00`); without a time zone they
    are UTC. Durations are `90m`, `12h`, `7d` and `2w`. `now` has to know its time zone.

    :raises ConfigError: for another form, a date that the calendar doesn't have, a moment after `now`, or a duration of
        nothing or of more than the calendar.
    """
    try:
        moment = _moment(text, now)
    except (ValueError, OverflowError):
        raise ConfigError(f"no such date or duration: {_quoted(text)}; write one as 2025-06-30 or 7d") from None

    if moment is None:
        raise ConfigError(
            f"not a date or duration: {_quoted(text)}; write 2025-06-30, 2025-06-30T12:00, or a number and m, h, d or w"
        )

    if moment > now:
        raise ConfigError(f"in the future: {_quoted(text)}; write a date that has passed (UTC), or a duration as 7d")

    return moment


def is_pattern(text: str) -> bool:
    """Tell whether `text` can match anything but itself."""
    return _WILDCARDS.search(text) is not None


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def parse_duration(text: str) -> timedelta:
    """Return how long `90m`, `12h`, `7d` or `2w` is.

    :raises ConfigError: for another form, and for nothing at all.
    """
    try:
        duration = _duration(text)
    except (ValueError, OverflowError):
        duration = None

    if duration is None:
        raise ConfigError(f"not a duration: {_quoted(text)}; write a number and m, h, d or w")

    return duration


def _duration(text: str) -> timedelta | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None

    if int(match[1]) == 0:
        raise ValueError(text)

    return int(match[1]) * _UNITS[match[2]]


def _moment(text: str, now: datetime) -> datetime | None:
    duration = _duration(text)
    if duration is not None:
        return (now - duration).astimezone(UTC)

    if not _MOMENT.fullmatch(text):
        return None

    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _split_query(text: str) -> tuple[str, str | None]:
    """Split what follows the scheme into path and query; None: there is no query.

    1. With a `=`, which nothing but a query can have, the query begins at the last `?` before it.
    2. Without one, a `?` behind the last `:` can't belong to the glob either: a tag was there.
    3. Any other `?` stands for one character of a name.
    """
    before, equals, _ = text.partition("=")
    start = before.rfind("?") if equals else text.find("?", text.rfind(":")) if ":" in text else -1
    return (text, None) if start < 0 else (text[:start], text[start + 1 :])


def _since_of_query(query: str | None, text: str) -> str | None:
    if query is None:
        return None

    values: dict[str, str] = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if key != "since" or not equals:
            raise ConfigError(f"unknown query: {_quoted(part)} in {_quoted(text)}; only ?since=YYYY-MM-DD is known")

        if key in values:
            raise ConfigError(f"since is given twice: {_quoted(text)}; write it once")

        values[key] = value

    return values["since"]


def _check_organization(text: str) -> None:
    if not _ORGANIZATION.fullmatch(text):
        hint = "organizations have lower-case letters, digits, and . _ - between them"
    elif len(text) not in _ORGANIZATION_LENGTH:
        hint = "organizations have 2 to 255 characters"
    else:
        return

    raise ConfigError(f"not an organization name: {_quoted(text)}; {hint}")


def _check_tag(text: str) -> None:
    is_glob = is_pattern(text) and _TAG_GLOB_PARTS.fullmatch(text) and len(text) <= _MAX_TAG_GLOB
    backwards = _backwards(text) if is_glob else None
    if backwards is not None:
        raise ConfigError(f"not a tag: {_quoted(text)}; write the range {backwards} the other way round")

    if not is_glob and not is_tag(text):
        raise ConfigError(
            f"not a tag: {_quoted(text)}; tags have 1 to 128 letters, digits, . _ - and don't begin with . or -"
            + ("; globs for them have * and [a-z]" if is_pattern(text) else "")
        )


def _check_glob(text: str, kind: str) -> None:
    hint = _fault_of_glob(text)
    if hint:
        raise ConfigError(f"not a valid {kind}: {_quoted(text)}; {hint}")


def _fault_of_glob(text: str) -> str:
    """Return what to write instead of a glob that can match no repository, or '' for one that can."""
    if not text:
        return "write * for every repository"

    if len(text) > _MAX_GLOB:
        return f"write at most {_MAX_GLOB:,} characters"

    if not _GLOB_CHARACTERS.fullmatch(text):
        return "write lower-case letters, digits, . _ - / and the wildcards * ? [a-z] [!a-z]"

    if text.startswith("/") or text.endswith("/") or "//" in text:
        return "write / only between two parts of a name"

    if not _GLOB_PARTS.fullmatch(text):
        return "write [ and ] in pairs around at least one character, and ! only right after ["

    backwards = _backwards(text)
    return f"write the range {backwards} the other way round" if backwards else ""


def _backwards(glob: str) -> str | None:
    """Return a range that fnmatch would take for an empty one."""
    ranges = (pair for members in _BRACKETS.findall(glob) for pair in _GLOB_RANGE.findall(members))
    return next((f"{first}-{last}" for first, last in ranges if first > last), None)


def _in_utc(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ConfigError(f"since has no time zone: '{moment}'; write datetime(..., tzinfo=UTC)")

    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ConfigError(f"since is no moment of the calendar in UTC: '{moment}'; write a later one") from None


def _spelled(moment: datetime) -> str:
    text = moment.replace(tzinfo=None).isoformat()
    return text[:-9] if text.endswith("T00:00:00") else f"{text}Z"


def _quoted(text: str) -> str:
    return f"{text[:100]!r}{'…' if len(text) > 100 else ''}"
