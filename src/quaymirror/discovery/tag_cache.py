"""When the listing alone says that a tag is what it was.

A repository's `last_modified` is the newest start of its living tags. So a tag can't have moved since it was checked if
the repository still has the `last_modified` that it had then, and that is older than the check, by the server's own
clock. What this can't see is a tag that was deleted or expired: now and then everything is checked again.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..catalog.quay.schema import Tag
from ..oci import Repository
from ..store.records import TagCheck

# Times are whole seconds, and several servers and read replicas answer for one: a push this close to a check may have
# been hidden from it.
_MARGIN_SECONDS = 10


def tag_of(check: TagCheck) -> Tag | None:
    """Return the tag as `check` saw it, None where there was none."""
    if check.digest is None:
        return None

    return Tag(check.tag, check.digest, check.start, check.size, check.expires)


class TagMemory:
    """What earlier runs learnt of the tags of one registry, and what this one learns.

    `full_check_seconds` is how long a check may vouch for a tag; 0 means that every tag is checked.
    """

    def __init__(self, checks: Iterable[TagCheck] = (), *, full_check_seconds: float = 0.0) -> None:
        self._known = {(check.repository, check.tag): check for check in checks}
        self._full_check_seconds = full_check_seconds
        self._new: list[TagCheck] = []

    def recall(
        self, repository: Repository, tag: str, *, last_modified: int | None, now: int | None
    ) -> TagCheck | None:
        """Return what is known of a tag if it can't have changed, given what the listing says `now`.

        `now` is the time of the listing by the server's clock, None where it has none: then nothing is certain.
        """
        check = self._known.get((repository.name, tag))
        if check is None or now is None or check.last_modified != last_modified:
            return None

        is_settled = check.last_modified + _MARGIN_SECONDS < check.checked <= now + _MARGIN_SECONDS
        is_recent = now - check.checked < self._full_check_seconds
        is_alive = check.expires is None or now + _MARGIN_SECONDS < check.expires
        return check if is_settled and is_recent and is_alive else None

    def remember(self, check: TagCheck) -> None:
        """Note what a check has shown."""
        self._known[check.repository, check.tag] = check
        self._new.append(check)

    def take_new(self) -> list[TagCheck]:
        """Return what was noted since this was asked last."""
        new, self._new = self._new, []
        return new
