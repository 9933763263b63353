"""Verdicts on the labels of images: a digest never changes its labels, so each is read once."""

from __future__ import annotations

from collections.abc import Iterable

from ..oci import Digest
from ..store.records import LabelVerdict


class LabelVerdicts:
    """The verdicts of earlier runs, and those of this run. `conditions` is the text of the conditions they are for."""

    def __init__(self, known: Iterable[LabelVerdict] = ()) -> None:
        self._known = {(each.digest, each.conditions): each for each in known}
        self._new: list[LabelVerdict] = []

    def recall(self, digest: Digest, conditions: str) -> bool | None:
        """Return the verdict on an image, None if it is unknown."""
        found = self._known.get((digest, conditions))
        return None if found is None else found.holds

    def remember(self, digest: Digest, conditions: str, holds: bool) -> None:
        """Keep a verdict."""
        verdict = LabelVerdict(digest, conditions, holds)
        self._known[digest, conditions] = verdict
        self._new.append(verdict)

    def take_new(self) -> list[LabelVerdict]:
        """Return the verdicts that were added since the last call."""
        new, self._new = self._new, []
        return new
