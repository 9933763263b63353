"""The rotation of referrer checks: which images have to be looked at tonight.

A digest tag moves the stamp of its repository, so an unchanged stamp vouches for all of them. A referrer without a tag
leaves no trace: every image is asked for from time to time. Images of an earlier release are spread over that time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from hashlib import sha256

from ..store.records import ReferrerCheck
from ..values import dataclass

Key = tuple[str, str, str]
"""Registry, repository and digest of an image at its source."""

# As for tags: times are whole seconds, and several servers answer for one.
_MARGIN_SECONDS = 10
_UNSETTLED = -1


class Due(Enum):
    """The part of the referrers of an image that has to be looked up."""

    NOTHING = "nothing"
    TAGS = "tags"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Listed:
    """The repository of an image as its listing showed it: stamp, time of its last update, and time of the listing."""

    stamp: int | None = None
    updated: int | None = None
    at: float = 0.0


class Rotation:
    """Decides which lookups are due, by the checks of earlier runs.

    `every` is in seconds; 0 asks for every image each time.
    """

    def __init__(self, checks: Mapping[Key, ReferrerCheck], every: float, choice: str) -> None:
        self._checks = {**checks}
        self._every = every
        self._choice = choice
        self.adopted: dict[Key, ReferrerCheck] = {}
        """Checks to record for images of earlier releases."""

    def due(self, key: Key, listed: Listed, *, is_new: bool) -> Due:
        """Return the lookups that are due for an image; `is_new` if it was not mirrored before."""
        check = self._checks.get(key)
        if check is None or is_new:
            return Due.ALL

        if check.choice != self._choice or not 0 <= listed.at - check.checked < self._every:
            return Due.ALL

        # Without a stamp, tags are looked up with everything else.
        return Due.NOTHING if listed.stamp in (None, check.stamp) else Due.TAGS

    def is_unknown(self, key: Key) -> bool:
        """Return True if no run has checked an image."""
        return self._every > 0 and key not in self._checks

    def spread(self, key: Key, listed: Listed) -> None:
        """Adopt an image that an earlier release mirrored: its turn comes within `every`."""
        share = int.from_bytes(sha256(" ".join(key).encode()).digest()[:4], "big") / 2**32
        self.adopted[key] = ReferrerCheck(listed.at - self._every * share, listed.stamp, self._choice)

    def checked(self, key: Key, listed: Listed, due: Due, *, succeeded: bool) -> ReferrerCheck:
        """Return the check to record: after a failure, everything is due again."""
        if not succeeded:
            return ReferrerCheck(0.0, None, self._choice)

        is_settled = listed.updated is None or listed.updated + _MARGIN_SECONDS < listed.at
        before = self._checks.get(key)
        checked = listed.at if due is Due.ALL or before is None else before.checked
        return ReferrerCheck(checked, listed.stamp if is_settled else _UNSETTLED, self._choice)
