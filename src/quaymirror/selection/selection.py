"""The selection: an organization, globs for its repositories, and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, fields, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError
from ..oci import Digest
from ..oci.digest_tags import is_digest_tag, selects_digest_tags
from ..values import dataclass
from .bucket import is_bucket
from .grammar import fault_of_glob, fault_of_organization, fault_of_owner, fault_of_tag, is_pattern, quoted
from .labels import LabelCondition
from .parse import SCHEME, parse_since, split_address, split_narrowing, split_words
from .source import SourceAddress, is_catalog, is_source, parse_catalog, parse_layout, parse_registry

# Names that are written out where room is short.
_SHOWN = 4
_SAFE = "*!=:,@/[]"


@dataclass(frozen=True, slots=True)
class LockedReferrer:
    """A referrer that a lock file has; `tag` is the digest tag that leads to it, "" for none."""

    subject: Digest
    digest: Digest
    artifact_type: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Pin:
    """One image with its digest: a `repository` without its organization, and the tag it is called by, if any.

    `referrers` are exactly those to mirror with it, None if they have to be found.
    """

    repository: str
    tag: str | None
    digest: Digest
    referrers: tuple[LockedReferrer, ...] | None = None

    def __lt__(self, other: Pin) -> bool:
        return (self.repository, self.tag or "", self.digest) < (other.repository, other.tag or "", other.digest)


@dataclass(frozen=True, slots=True, init=False)
class Selection:
    """The repositories of `organization` that match one of `globs` and none of `exclude`, at `tags`.

    A tag may be a glob, with `*` and `[a-z]`. With `since` only tags updated after it are selected; it is kept in UTC.
    None of `exclude_tags` are, and of each repository only the `newest` of the tags, and those of images whose `labels`
    meet all conditions.

    With `pinned` exactly these images are selected, with `exact` only these tags, each with its repository; the other
    parts then describe them. `unnamed` are lines of a list whose images have no name, so that they can't be selected.
    `reading` says how a name with a dot was read.

    `source` is where they are, None for the Quay server of the options; `organization` is "" if the repositories of the
    source belong to none.
    """

    organization: str
    globs: tuple[str, ...]
    tags: tuple[str, ...]
    exclude: tuple[str, ...]
    since: datetime | None
    pinned: tuple[Pin, ...]
    source: SourceAddress | None
    exclude_tags: tuple[str, ...]
    newest: int | None
    labels: tuple[LabelCondition, ...]
    exact: tuple[tuple[str, str], ...]
    unnamed: tuple[str, ...]
    reading: str = field(compare=False)
    _exact_tags: Mapping[str, tuple[str, ...]] = field(compare=False, repr=False)

    def __init__(
        self,
        organization: str,
        globs: str | Iterable[str] = "*",
        tags: str | Iterable[str] = "latest",
        exclude: str | Iterable[str] = (),
        since: datetime | None = None,
        pinned: Iterable[Pin] = (),
        source: SourceAddress | None = None,
        *,
        exclude_tags: str | Iterable[str] = (),
        newest: int | None = None,
        labels: Iterable[LabelCondition | str] = (),
        exact: Iterable[tuple[str, str]] = (),
        unnamed: Iterable[str] = (),
        reading: str = "",
    ) -> None:
        """Select images; a string for `globs`, `tags`, `exclude` or `exclude_tags` is split at its commas.

        :raises ConfigError: if a part breaks its grammar, or `since` has no time zone.
        """
        pairs = tuple(dict.fromkeys(exact))
        values = {
            "organization": organization,
            "globs": split_words(globs),
            "tags": split_words(tags),
            "exclude": split_words(exclude),
            "since": None if since is None else _in_utc(since),
            "pinned": tuple(pinned),
            "source": source,
            "exclude_tags": split_words(exclude_tags),
            "newest": newest,
            "labels": tuple(LabelCondition.parse(one) if isinstance(one, str) else one for one in labels),
            "exact": pairs,
            "unnamed": tuple(unnamed),
            "reading": reading,
            "_exact_tags": _by_repository(pairs),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

        for kind, words, fault in (
            (f"{_an(source)} name", (organization,), self._fault_of_organization),
            ("a valid glob", self.globs or ("",), fault_of_glob),
            ("a tag", self.tags or ("",), fault_of_tag),
            ("a valid exclude glob", self.exclude, fault_of_glob),
            ("a tag", self.exclude_tags, fault_of_tag),
        ):
            for word in words:
                if hint := fault(word):
                    raise ConfigError(f"not {kind}: {quoted(word)}; {hint}")

        if newest is not None and newest < 1:
            raise ConfigError(f"newest must be at least 1, not {newest}")

    @classmethod
    def parse_uri(
        cls,
        text: str,
        *,
        exclude: Iterable[str] = (),
        since: datetime | None = None,
        now: datetime | None = None,
        exclude_tags: Iterable[str] = (),
        newest: int | None = None,
        labels: Iterable[LabelCondition | str] = (),
    ) -> Selection:
        """Return the selection that `text` (`quay://ORG[/GLOB][:TAG][?since=SINCE]`) spells.

        It means the same as the words `ORG [GLOB] [TAG]`, with the same defaults. A `?` belongs to the glob unless it
        follows the tag or begins a `?key=value` at the end; `%3F` always does. The query can have `since`, `newest`,
        `exclude-tag` and `image-label`. SINCE is a text for `parse_since`, counted from `now` (None: the clock). The
        other arguments are options given beside the address.

        :raises ConfigError: for another form, an illegal part, a query with an unknown or repeated key, or a `since` or
            `newest` both in the address and beside it.
        """
        now = now or datetime.now(UTC)
        text, found = split_narrowing(text)
        for key, own, beside in (("newest", found.newest, newest), ("since", found.since, since)):
            if own is not None and beside is not None:
                raise ConfigError(f"{key} is given twice: in {text[:100]!r} and beside it; write it once")

        source: SourceAddress | None = None
        if text.startswith("ocidir://") or is_bucket(text):
            organization, globs, tags, source = "", "*", "*", parse_layout(text)
        elif is_catalog(text):
            source, organization, globs, tags = parse_catalog(text)
        elif is_source(text):
            organization, (source, globs, tags) = "", parse_registry(text)
        else:
            organization, globs, tags = split_address(text)

        return cls(
            organization,
            globs.replace("%3F", "?").replace("%3f", "?"),
            tags.replace("%3F", "?").replace("%3f", "?"),
            exclude,
            parse_since(found.since, now=now) if found.since is not None else since,
            source=source,
            exclude_tags=(*found.exclude_tags, *exclude_tags),
            newest=found.newest or newest,
            labels=(*found.labels, *labels),
        )

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
        return len(self.tags) == 1 and not is_pattern(self.tags[0]) and not self.pinned

    @property
    def is_one_repository(self) -> bool:
        """True if only one repository can match."""
        return len(self.globs) == 1 and not is_pattern(self.globs[0])

    def matches(self, repository: str) -> bool:
        """Return True if `repository`, a name without the organization, is selected; case counts, `*` crosses `/`."""
        if self.exact and repository not in self._exact_tags:
            return False

        # fnmatch keeps compiled patterns itself (an lru_cache), so this compiles each one once.
        is_named = bool(self.exact) or _matches_any(repository, self.globs)
        return is_named and not _matches_any(repository, self.exclude)

    def tags_of(self, repository: str) -> tuple[str, ...]:
        """Return the tags, or globs for them, of `repository`, a selected name without the organization."""
        return self._exact_tags.get(repository, ()) if self.exact else self.tags

    def in_repository(self, name: str) -> Selection:
        """Return the selection where images that a layout names by their tag alone belong to the repository `name`."""
        source = self.source
        if source is None or not source.is_layout or not name:
            return self

        return self.replace(source=replace(source, repository=name))

    def replace(self, **changes: Any) -> Selection:
        """Return a copy with these values, by the names of the parameters.

        :raises ConfigError: if a part breaks its grammar.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "_exact_tags"}
        return Selection(**values | changes)

    def covers(self, name: str) -> bool:
        """Return True if the image called `name` (`kolla/nova-api:2025.1`) is selected."""
        full, _, tag = name.rpartition(":")
        repository = full.removeprefix(self.prefix)
        if "@" in name or not full.startswith(self.prefix) or not self.matches(repository):
            return False

        return _matches_tag(tag, self.tags_of(repository)) and not _matches_any(tag, self.exclude_tags)

    def matches_tag(self, tag: str) -> bool:
        """Return True if `tag` is selected."""
        return _matches_tag(tag, self.tags) and not _matches_any(tag, self.exclude_tags)

    def is_tag_included(self, tag: str) -> bool:
        """Return True if `tag` is not one of those to leave out."""
        return not _matches_any(tag, self.exclude_tags)

    @property
    def needs_dates(self) -> bool:
        """True if the time of the last update of each tag has to be known."""
        return self.since is not None or self.newest is not None

    @property
    def names(self) -> str:
        """The names of repositories in a few words."""
        return f"({len(self.globs):,} repositories)" if len(self.globs) > _SHOWN else ",".join(self.globs)

    @property
    def tag_names(self) -> str:
        """The tags in a few words."""
        return f"({len(self.tags):,} tags)" if len(self.tags) > _SHOWN else ",".join(self.tags)

    def __str__(self) -> str:
        """Return the canonical address: everything but `exclude`, which an address can't express."""
        query = self._query()
        names, source = f"{self.prefix}{','.join(self.globs)}:{','.join(self.tags)}", self.source
        if source is None or source.kind == "quay":
            return f"{SCHEME}{names}{query}"

        if source.is_layout:
            return str(source) if names == "*:*" else f"{source} ({names})"

        query = query.replace("?", "&") if source.query else query
        return f"{source.start}{names}{source.query}{query}"

    def _query(self) -> str:
        values = [("since", _spelled(self.since))] if self.since is not None else []
        values += [("exclude-tag", tag) for tag in self.exclude_tags]
        values += [("newest", str(self.newest))] if self.newest is not None else []
        values += [("image-label", str(label)) for label in self.labels]
        return f"?{'&'.join(f'{key}={quote(value, safe=_SAFE)}' for key, value in values)}" if values else ""

    def _fault_of_organization(self, text: str) -> str:
        if self.source is None or self.source.kind == "quay":
            return fault_of_organization(text)

        if self.source.has_organizations:
            return fault_of_owner(text)

        return "repositories of this source belong to no organization" if text else ""


def _an(source: SourceAddress | None) -> str:
    owner = "organization" if source is None else source.owner
    return f"an {owner}" if owner.startswith("o") else f"a {owner}"


def _by_repository(pairs: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for repository, tag in pairs:
        found[repository] = (*found.get(repository, ()), tag)

    return found


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matches_tag(tag: str, patterns: Iterable[str]) -> bool:
    """Return True if one of `patterns` selects `tag`: a digest tag is selected only by a pattern for such tags."""
    wanted = filter(selects_digest_tags, patterns) if is_digest_tag(tag) else patterns
    return _matches_any(tag, wanted)


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
