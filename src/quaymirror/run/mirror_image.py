"""The outcome of one image: the only place where context is added to its errors."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import field, replace

from ..catalog.base import PinnedImage
from ..errors import AccessDenied, ContentError, Failure, NotFound, PlatformNotFound, QuaymirrorError, Side
from ..events import CandidateSkipped, Outcome, Status
from ..oci import Digest
from ..transfer.image import ImageTransfer, TransferContext
from ..transfer.slots import ImageSlot
from ..values import dataclass

_MOVED = "its tag has moved since it was found"
_RECOVERED = "missing at the source: taken from the target"


class SignatureRefused(ContentError):
    """The signature policy does not accept an image; the message has a reason per key or identity."""


CheckAgain = Callable[[PinnedImage], Awaitable[PinnedImage | CandidateSkipped]]


@dataclass(slots=True)
class ImageMirror:
    """One image until it has its outcome."""

    image: PinnedImage
    started: float = field(default_factory=time.monotonic)
    remark: str | None = None
    """A remark about an image that is mirrored."""
    mirrored: Digest | None = None
    """The digest that its tag had; the stored one differs if only one platform is wanted."""
    _outcome: Outcome | None = None

    async def transfers(
        self, context: TransferContext, slot: ImageSlot, check_again: CheckAgain
    ) -> AsyncIterator[ImageTransfer]:
        """Yield a transfer to run within `recording`, and another one if the tag points to another image by now.

        A tag that is moved or deleted right after its check leads to a manifest that the source does not have.
        """
        yield ImageTransfer(self.image, context, slot)
        if not self._is_missing_at_source():
            return

        try:
            found = await check_again(self.image)
        except QuaymirrorError:
            return  # the first failure is the one to report

        if isinstance(found, CandidateSkipped):
            self._outcome = Outcome(self.image.reference, Status.SKIPPED, reason=found.reason)
        elif found.reference != self.image.reference or found.is_sparse != self.image.is_sparse:
            yield ImageTransfer(found, context, slot)

    @contextmanager
    def recording(self, transfer: ImageTransfer) -> Iterator[None]:
        """Record how `transfer`, which runs in this context, ends."""
        reference = transfer.image.reference
        try:
            yield
        except PlatformNotFound as error:
            self._outcome = Outcome(reference, Status.SKIPPED, reason=error.message)
        except SignatureRefused as error:
            self._outcome = Outcome(reference, Status.REFUSED, reason=error.message)
        except QuaymirrorError as error:
            if self._outcome is None:
                self._outcome = Outcome(reference, Status.FAILED, error=Failure.of(error, phase=transfer.phase))
        else:
            self._outcome = _success(transfer, moved=reference != self.image.reference)
            self.mirrored = transfer.image.digest

    def outcome(self) -> Outcome:
        """Return the one outcome."""
        assert self._outcome is not None
        is_mirrored = self._outcome.status is Status.MIRRORED
        reason = self._outcome.reason or (self.remark if is_mirrored else None)
        return replace(self._outcome, reason=reason, elapsed=time.monotonic() - self.started)

    def _is_missing_at_source(self) -> bool:
        failure = self._outcome.error if self._outcome is not None else None
        return failure is not None and failure.is_a(NotFound, AccessDenied) and failure.side is Side.SOURCE


def _success(transfer: ImageTransfer, *, moved: bool) -> Outcome:
    reference, plan, fetched = transfer.image.reference, transfer.plan, transfer.fetched_bytes
    if transfer.stored is not None:
        reference = reference.pinned(transfer.stored)

    attached = transfer.attached
    referrers = 0 if attached is None else len(attached.attachment.referrers)
    failures = () if attached is None else attached.failures
    received = fetched + (0 if attached is None else attached.fetched_bytes)
    if plan is None:
        return Outcome(reference, Status.UNCHANGED, received, referrers=referrers, referrer_failures=failures)

    reasons = [_MOVED] * (moved or plan.moved) + [_RECOVERED] * plan.recovered
    if plan.graph.missing:
        reasons.append(f"sparse: the source lacks {', '.join(plan.graph.missing)}")

    # Content that the target lost in the meantime was fetched twice.
    reused = max(0, plan.total_bytes - fetched)
    reason = "; ".join(reasons) or None
    return Outcome(
        reference,
        Status.MIRRORED,
        received,
        reused,
        reason=reason,
        referrers=referrers,
        referrer_failures=failures,
    )
