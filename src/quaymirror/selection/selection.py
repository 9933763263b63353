"""The selection: an organization, globs for its repositories, and tags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from ..errors import ConfigError
from ..oci import Digest
from .grammar import fault_of_glob, fault_of_organization, fault_of_tag, is_pattern, quoted
from .parse import SCHEME, split_address, split_words
from .source import SourceAddress, is_source, parse_layout, parse_registry


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
    With `pinned` exactly these images are selected, and the other parts only describe them. `source` is where they are,
    None for the Quay server of the options; `organization` is "" if the repositories of the source belong to none.
    """

    organization: str
    globs: tuple[str, ...]
    tags: tuple[str, ...]
    exclude: tuple[str, ...]
    since: datetime | None
    pinned: tuple[Pin, ...]
    source: SourceAddress | None

    def __init__(
        self,
        organization: str,
        globs: str | Iterable[str] = "*",
        tags: str | Iterable[str] = "latest",
        exclude: str | Iterable[str] = (),
        since: datetime | None = None,
        pinned: Iterable[Pin] = (),
        source: SourceAddress | None = None,
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
            "source": source,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

        for kind, words, fault in (
            ("an organization name", (organization,), self._fault_of_organization),
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
        if is_source(text):
            return cls._at_source(text, exclude, since)

        organization, globs, tags, own_since = split_address(text, now=now or datetime.now(UTC))
        if own_since is not None and since is not None:
            raise ConfigError(f"since is given twice: in {text[:100]!r} and beside it; write it once")

        return cls(organization, globs, tags, exclude, own_since or since)

    @classmethod
    def _at_source(cls, text: str, exclude: Iterable[str], since: datetime | None) -> Selection:
        if text.startswith("ocidir://"):
            return cls("", "*", "*", exclude, since, source=parse_layout(text))

        source, globs, tags = parse_registry(text)
        return cls("", globs, tags, exclude, since, source=source)

    @property
    def prefix(self) -> str:
        """The common start of the names of its repositories: the organization and a slash, or nothing."""
        return f"{self.organization}/" if self.organization else ""

    @property
    def listed(self) -> str:
        """The organization, registry or layout that is listed, for messages."""
        if self.organization or self.source is None:
            return self.organization

        return self.source.path or self.source.host

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

    def in_repository(self, name: str) -> Selection:
        """Return the selection where images that a layout names by their tag alone belong to the repository `name`."""
        source = self.source
        if source is None or not source.is_layout or not name:
            return self

        source = replace(source, repository=name)
        return Selection("", self.globs, self.tags, self.exclude, self.since, self.pinned, source)

    def covers(self, name: str) -> bool:
        """Return True if the image called `name` (`kolla/nova-api:2025.1`) is selected."""
        repository, _, tag = name.rpartition(":")
        is_inside = repository.startswith(self.prefix)
        return is_inside and self.matches_tag(tag) and self.matches(repository.removeprefix(self.prefix))

    def matches_tag(self, tag: str) -> bool:
        """Return True if `tag` is selected."""
        return _matches_any(tag, self.tags)

    def __str__(self) -> str:
        """Return the canonical address: everything but `exclude`, which an address can't express."""
        query = "" if self.since is None else f"?since={_spelled(self.since)}"
        names, source = f"{self.prefix}{','.join(self.globs)}:{','.join(self.tags)}", self.source
        if source is None or source.kind == "quay":
            return f"{SCHEME}{names}{query}"

        if source.is_layout:
            return str(source) if names == "*:*" else f"{source} ({names})"

        return f"{source.kind}://{source.host}/{names}{source.query or query}"

    def _fault_of_organization(self, text: str) -> str:
        if self.source is None or self.source.has_organizations:
            return fault_of_organization(text)

        return "repositories of this source belong to no organization" if text else ""


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
