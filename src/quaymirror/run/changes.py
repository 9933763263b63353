"""What is new since the last time: two runs compared. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DiscoveryIncomplete
from ..events import Outcome


@dataclass(frozen=True, slots=True)
class Changes:
    """How the images that were found differ from those of an earlier run; names are `registry/repository:tag`.

    `since` is the id of that run, `started` when it began (ISO 8601), `before` how many images it found.
    """

    since: str
    started: str
    before: int
    came: tuple[str, ...]
    gone: tuple[str, ...]
    moved: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the changes as JSON values."""
        return {
            "since": self.since,
            "started": self.started,
            "before": self.before,
            "came": list(self.came),
            "gone": list(self.gone),
            "moved": list(self.moved),
        }


def compare(earlier: Mapping[str, Any], outcomes: Iterable[Outcome], unchecked: Collection[str] = ()) -> Changes:
    """Compare `outcomes` with the report of an earlier run that saw everything.

    An image of a repository that could not be checked this time is neither gone nor moved: nobody knows.
    """
    then = {entry["reference"]: entry["digest"] for entry in earlier["outcomes"] if entry["digest"]}
    seen = {outcome.reference.full_name: outcome.reference.digest for outcome in outcomes}
    now = {name: str(digest) for name, digest in seen.items() if digest is not None}
    return Changes(
        since=earlier["run_id"],
        started=earlier["started"],
        before=len(then),
        came=tuple(sorted(name for name in now if name not in then)),
        gone=tuple(sorted(name for name in then if name not in seen and name.rpartition(":")[0] not in unchecked)),
        moved=tuple(sorted(name for name, digest in now.items() if then.get(name, digest) != digest)),
    )


def check_expected(found: int, changes: Changes | None, *, at_least: int | None, max_missing: float | None) -> None:
    """Check that an organization has not shrunk beyond what its mirror's owner thinks possible.

    `at_least` is a number of images, `max_missing` a percentage of those that the earlier run found.

    :raises DiscoveryIncomplete: when it has.
    """
    if at_least is not None and found < at_least:
        raise DiscoveryIncomplete(f"only {found:,} images were found, fewer than the {at_least:,} that are expected")

    if max_missing is None or changes is None or not changes.gone:
        return

    percent = 100 * len(changes.gone) / changes.before
    if percent > max_missing:
        raise DiscoveryIncomplete(
            f"{len(changes.gone):,} of {changes.before:,} images are gone since run {changes.since} "
            f"({percent:.0f} %, more than the {max_missing:g} % that may be missing)"
        )
