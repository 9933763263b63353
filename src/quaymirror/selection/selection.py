"""The selection: an organization, globs for its repositories, and tags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from ..errors import ConfigError
from ..oci import Digest
from .grammar import fault_of_glob, fault_of_organization, fault_of_tag, is_pattern, quoted
from .parse import SCHEME, split_address, split_words


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One image of a lock: a `repository` without its organization, the tag it is called by, and its digest."""

    repository: str
    tag: str
    digest: Digest


@dataclass(frozen=True, slots=True, init=False)
class Selection:
    """The repositories of `organization` that match one of `globs` and none of `exclude`, at `tags`.

    A tag may be a glob, with `*` and `[a-z]`. With `since` only tags updated after it are selected; it is kept in UTC.
    With `pinned` exactly these images are selected, and the other parts only describe them.
    """

    organization: str
    globs: tuple[str, ...]
    tags: tuple[str, ...]
    exclude: tuple[str, ...]
    since: datetime | None
    pinned: tuple[Pin, ...]

    def __init__(
        self,
        organization: str,
        globs: str | Iterable[str] = "*",
        tags: str | Iterable[str] = "latest",
        exclude: str | Iterable[str] = (),
        since: datetime | None = None,
        pinned: Iterable[Pin] = (),
    ) -> None:
        """Select images; a string for `globs`, `tags` or `exclude` is split at its commas.

        :raises ConfigError: if a part breaks its grammar, or `since` has no time zone.
        """
        values = {
            "organization": organization,
            "globs": split_words(globs),
            "tags": split_words(tags),
            "exclude": split_words(exclude),
            "since": None if since is None else _in_utc(since),
            "pinned": tuple(pinned),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

        for kind, words, fault in (
            ("an organization name", (organization,), fault_of_organization),
            ("a valid glob", self.globs or ("",), fault_of_glob),
            ("a tag", self.tags or ("",), fault_of_tag),
            ("a valid exclude glob", self.exclude, fault_of_glob),
        ):
            for word in words:
                if hint := fault(word):
                    raise ConfigError(f"not {kind}: {quoted(word)}; {hint}")

    @classmethod
    def parse_uri(
        cls, text: str, *, exclude: Iterable[str] = (), since: datetime | None = None, now: datetime | None = None
    ) -> Selection:
        """Return the selection that `text` (`quay://ORG[/GLOB][:TAG][?since=SINCE]`) spells.

        It means the same as the words `ORG [GLOB] [TAG]`, with the same defaults. A `?` belongs to the glob unless it
        follows the tag or begins a `?key=value` at the end. SINCE is a text for `parse_since`, counted from `now`
        (None: the clock). `exclude` and `since` are options given beside the address.

        :raises ConfigError: for another form, an illegal part, a query with an unknown or repeated key, or a `since`
            both in the address and beside it.
        """
        organization, globs, tags, own_since = split_address(text, now=now or datetime.now(UTC))
        if own_since is not None and since is not None:
            raise ConfigError(f"since is given twice: in {text[:100]!r} and beside it; write it once")

        return cls(organization, globs, tags, exclude, own_since or since)

    @property
    def is_one_tag(self) -> bool:
        """True if at most one image of a repository can be selected."""
        return len(self.tags) == 1 and not is_pattern(self.tags[0])

    @property
    def is_one_repository(self) -> bool:
        """True if only one repository can match."""
        return len(self.globs) == 1 and not is_pattern(self.globs[0])

    def matches(self, repository: str) -> bool:
        """Return True if `repository`, a name without the organization, is selected; case counts, `*` crosses `/`."""
        # fnmatch keeps compiled patterns itself (an lru_cache), so this compiles each one once.
        return _matches_any(repository, self.globs) and not _matches_any(repository, self.exclude)

    def matches_tag(self, tag: str) -> bool:
        """Return True if `tag` is selected."""
        return _matches_any(tag, self.tags)

    def __str__(self) -> str:
        """Return the canonical address: everything but `exclude`, which an address can't express."""
        query = "" if self.since is None else f"?since={_spelled(self.since)}"
        return f"{SCHEME}{self.organization}/{','.join(self.globs)}:{','.join(self.tags)}{query}"


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _in_utc(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ConfigError(f"since has no time zone: '{moment}'; write datetime(..., tzinfo=UTC)")

    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ConfigError(f"since is outside the calendar in UTC: '{moment}'; write a later one") from None


def _spelled(moment: datetime) -> str:
    text = moment.replace(tzinfo=None).isoformat()
    return text[:-9] if text.endswith("T00:00:00") else f"{text}Z"
