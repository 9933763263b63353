"""The tags that earlier runs looked up, as far as the listing alone shows that they have not moved.

A repository's stamp changes whenever a tag moves. For Quay it is the newest start of its living tags: so a tag can't
have moved since it was checked if the repository still has the stamp that it had then, and that is older than the
check, by the server's own clock. A tag that was deleted or has expired does not change the stamp: so every tag is
checked again from time to time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..catalog.base import Tag, TagAnswer
from ..store.records import TagCheck
from .listing import Candidate

# Times are whole seconds, and several servers and read replicas answer for one: a push this close to a check may have
# been hidden from it.
_MARGIN_SECONDS = 10


class TagCache:
    """The tags that earlier runs checked, and those that this run checks.

    `full_check_seconds` is the time for which a check is valid; 0 means that every tag is checked. Unless `is_kept`,
    the checks of this run are forgotten, because nothing will save them.
    """

    def __init__(
        self, checks: Iterable[TagCheck] = (), *, full_check_seconds: float = 0.0, is_kept: bool = True
    ) -> None:
        self._is_kept = is_kept
        self._known = {(check.registry, check.repository, check.tag): check for check in checks}
        self._full_check_seconds = full_check_seconds
        self._new: list[TagCheck] = []
        self.repositories: set[str] = {
            f"{check.registry}/{check.repository}" for check in self._known.values() if check.digest
        }
        """Repositories, with their registries, that had a selected tag in an earlier run."""
        self._candidates: dict[str, Candidate] = {}

    def note(self, candidate: Candidate) -> None:
        """Remember that the tags of `candidate` are checked after this listing of it."""
        if self._is_kept:
            self._candidates[str(candidate.repository)] = candidate

    def may_have_moved(self, candidate: Candidate) -> bool:
        """Return True if this listing shows that a tag has, or may have, moved since the candidate was noted."""
        before, listed = self._candidates.get(str(candidate.repository)), candidate.listed
        if listed.stamp is None:
            return False  # the listing can't show it

        if before is None or before.listed.stamp != listed.stamp:
            return True

        return before.at is not None and listed.updated is not None and listed.updated + _MARGIN_SECONDS >= before.at

    def recall(self, candidate: Candidate, tag: str, *, dated: bool = False) -> TagAnswer | None:
        """Return the answer of an earlier check, None unless the listing of `candidate` shows that it is still true.

        If `dated`, a tag whose start is unknown is not enough.
        """
        check = self._known.get((candidate.repository.registry, candidate.repository.name, tag))
        if check is None or not self._is_valid(check, candidate):
            return None

        if check.digest is None:
            return TagAnswer(None, check.checked)

        if dated and check.start is None:
            return None

        return TagAnswer(Tag(tag, check.digest, check.start, check.size, check.expires), check.checked)

    def _is_valid(self, check: TagCheck, candidate: Candidate) -> bool:
        listed, now = candidate.listed, candidate.at
        if now is None or check.last_modified != listed.stamp:
            return False

        is_settled = listed.updated is None or listed.updated + _MARGIN_SECONDS < check.checked
        is_recent = check.checked <= now + _MARGIN_SECONDS and now - check.checked < self._full_check_seconds
        is_alive = check.expires is None or now + _MARGIN_SECONDS < check.expires
        return is_settled and is_recent and is_alive

    def remember(self, candidate: Candidate, tag: str, answer: TagAnswer) -> None:
        """Keep the answer of a lookup, if both the repository's stamp and the server's time are known."""
        if not self._is_kept or answer.at is None or candidate.listed.stamp is None:
            return

        found = answer.tag
        seen = (found.digest, found.start, found.size, found.expires) if found else ()
        repository = candidate.repository
        check = TagCheck(repository.registry, repository.name, tag, candidate.listed.stamp, answer.at, *seen)
        self._known[check.registry, check.repository, check.tag] = check
        self._new.append(check)

    def take_new(self) -> list[TagCheck]:
        """Return the checks that were added since the last call."""
        new, self._new = self._new, []
        return new
