"""Bringing one image home: from a pinned reference to its outcome, whatever happens to it on the way."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..catalog.base import PinnedImage
from ..errors import AccessDenied, Failure, NotFound, PlatformNotFound, QuaymirrorError, Side
from ..events import CandidateSkipped, Outcome, Status
from ..oci import Digest, Reference
from ..transfer.image import ImagePlan, Transfers, mirror_image, plan_image, platforms_key

_MOVED = "its tag has moved since it was found"


@dataclass(slots=True)
class ImageMirror:
    """What all images of a run are brought with. `look_again` checks a tag anew, when what it led to is not there."""

    transfers: Transfers
    look_again: Callable[[Reference], Awaitable[PinnedImage | CandidateSkipped]]
    dry_run: bool = False
    counted: set[Digest] = field(default_factory=set)
    """For a dry run: what it has counted already, as every blob is fetched once."""

    async def outcome(self, reference: Reference, waits: Callable[[], None] = lambda: None) -> Outcome:
        """Bring the pinned `reference` home, or say why not. Never raises for what is this image's own trouble.

        `waits` is called when it only waits for what is on its way; see `mirror_image`.
        """
        began = time.monotonic()
        try:
            return await self._outcome(reference, began, waits)
        except (NotFound, AccessDenied) as error:
            return await self._once_more(reference, began, error)
        except QuaymirrorError as error:
            return Outcome(reference, Status.FAILED, error=Failure.of(error), elapsed=time.monotonic() - began)

    async def _once_more(self, reference: Reference, began: float, error: QuaymirrorError) -> Outcome:
        """What a tag leads to can be gone a moment later, when the tag moves or is deleted: see where it leads now."""
        failed = Outcome(reference, Status.FAILED, error=Failure.of(error))
        try:
            found = await self.look_again(reference) if error.side is Side.SOURCE else None
            if isinstance(found, CandidateSkipped):
                return Outcome(reference, Status.SKIPPED, reason=found.reason, elapsed=time.monotonic() - began)

            if found is None or found.reference == reference:
                return _timed(failed, began)

            return await self._outcome(found.reference, began, moved=True)
        except QuaymirrorError:
            # The first trouble is the one to tell.
            return _timed(failed, began)

    async def _outcome(
        self, reference: Reference, began: float, waits: Callable[[], None] = lambda: None, *, moved: bool = False
    ) -> Outcome:
        transfers = self.transfers
        if await transfers.target.has_image(reference, platforms_key(transfers.platforms)):
            return Outcome(reference, Status.UNCHANGED, elapsed=time.monotonic() - began)

        try:
            if self.dry_run:
                plan = await plan_image(reference, transfers)
                fetched = self._would_fetch(plan)
            else:
                plan, progress = await mirror_image(reference, transfers, waits)
                fetched = progress.bytes
        except PlatformNotFound as error:
            return Outcome(reference, Status.SKIPPED, reason=error.message, elapsed=time.monotonic() - began)

        reason = _MOVED if moved or plan.moved else None
        elapsed = time.monotonic() - began
        return Outcome(reference, Status.MIRRORED, fetched, plan.total_bytes - fetched, elapsed, reason)

    def _would_fetch(self, plan: ImagePlan) -> int:
        pool, target = self.transfers.pool, self.transfers.target
        new = [
            node
            for node in plan.missing
            if node.digest not in self.counted and pool.locate(node, borrower=target) is None
        ]
        self.counted.update(node.digest for node in new)
        return sum(node.size for node in new)


def _timed(outcome: Outcome, began: float) -> Outcome:
    return Outcome(outcome.reference, outcome.status, elapsed=time.monotonic() - began, error=outcome.error)
