"""The differences between the images of two runs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ..documents.report import ChangesJson, ReportJson
from ..events import ChangeCounts, Outcome
from ..text import counted
from ..values import dataclass


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences to an earlier run; names are `registry/repository:tag`.

    `since` is the id of that run, `started` its start (ISO 8601), `before` the number of images it found.
    """

    since: str
    started: str
    before: int
    came: tuple[str, ...]
    gone: tuple[str, ...]
    moved: tuple[str, ...]

    @property
    def counts(self) -> ChangeCounts:
        """The numbers of images."""
        return ChangeCounts(len(self.came), len(self.moved), len(self.gone))

    def to_json(self) -> ChangesJson:
        """Return the changes as JSON values."""
        return {
            "since": self.since,
            "started": self.started,
            "before": self.before,
            "came": list(self.came),
            "gone": list(self.gone),
            "moved": list(self.moved),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two sets of images: the names that came, went, or stand for another digest."""

    came: tuple[str, ...]
    gone: tuple[str, ...]
    moved: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.came or self.gone or self.moved)


def difference(then: Mapping[str, str], now: Mapping[str, str]) -> Difference:
    """Return the difference between two sets of images, which are digests by name."""
    return Difference(
        came=tuple(sorted(now.keys() - then.keys())),
        gone=tuple(sorted(then.keys() - now.keys())),
        moved=tuple(sorted(name for name, digest in now.items() if then.get(name, digest) != digest)),
    )


def compare(earlier: ReportJson, outcomes: Iterable[Outcome], unchecked: Collection[str] = ()) -> Changes:
    """Compare `outcomes` with the report of an earlier run that saw everything.

    Images of repositories that could not be checked this time are neither gone nor moved.
    """
    then = {entry["reference"]: entry["digest"] for entry in earlier["outcomes"] if entry["digest"]}
    seen = {outcome.reference.full_name: outcome.reference.digest for outcome in outcomes}
    now = {name: str(digest) for name, digest in seen.items() if digest is not None}
    found = difference(then, now)
    return Changes(
        since=earlier["run_id"],
        started=earlier["started"],
        before=len(then),
        came=found.came,
        gone=tuple(name for name in found.gone if name not in seen and name.rpartition(":")[0] not in unchecked),
        moved=found.moved,
    )


def shrinkage(found: int, changes: Changes | None, *, at_least: int | None, max_missing: float | None) -> str:
    """Return the limit of the user below which the `found` images of an organization are, "" if they are not.

    `at_least` is a number of images, `max_missing` a percentage of those that the earlier run found.
    """
    if at_least is not None and found < at_least:
        were = "was" if found == 1 else "were"
        fewer = f"only {counted(found, 'image')} {were} found, fewer than the expected {at_least:,}"
        return f"{fewer}: look at the source, or lower --expect-at-least"

    if max_missing is None or changes is None or not changes.gone:
        return ""

    gone, percent = len(changes.gone), 100 * len(changes.gone) / changes.before
    missing = f"{gone:,} of {counted(changes.before, 'image')} are gone since run {changes.since}"
    return f"{missing} ({percent:.0f} %, more than the allowed {max_missing:g} %)" if percent > max_missing else ""
