"""Estimates of a run: images to come, bytes to fetch, time left. Pure functions of its progress."""

from __future__ import annotations

from ..events import HostPaced
from .images import mean_of
from .run import RunProgress

# Fewer images have no useful mean.
_FEWEST_IMAGES = 3


def expected_images(progress: RunProgress) -> float | None:
    """Return the expected number of images: the known ones, and the usual share of the unchecked repositories.

    None while repositories are still being listed, or if no repository has been checked.
    """
    if not progress.listing_ended:
        return None

    unchecked = progress.matched - progress.checked
    if unchecked <= 0:
        return progress.known_images

    looked_at = progress.checked - progress.candidates_ruled_out
    return progress.known_images + unchecked * progress.tags_expected / looked_at if looked_at > 0 else None


def likely_images(progress: RunProgress) -> int:
    """Return the best guess of the number of images, which is too low while repositories are being listed."""
    expected = expected_images(progress)
    return progress.known_images if expected is None else max(progress.known_images, round(expected))


def remaining_bytes(progress: RunProgress) -> float | None:
    """Return how many bytes are still to be fetched; None: not known yet.

    Planned images count the bytes that are fetched for them, the others the mean of the last images: what the first
    ones bring is shared by those after them.
    """
    planned, missing = progress.planned_in_work, progress.missing_in_work
    received = progress.meters.fetched_bytes - progress.fetched_by_images
    here = max(0, missing - max(0, received))
    to_come = _images_to_come(progress, planned)
    if to_come is None or to_come <= 0:
        return None if to_come is None else here

    mean = mean_of(progress.samples)
    return None if mean is None else here + to_come * mean


def total_bytes(progress: RunProgress) -> float | None:
    """Return the bytes that will have been fetched at the end; None: not known yet."""
    remaining = remaining_bytes(progress)
    return None if remaining is None else progress.meters.fetched_bytes + remaining


def seconds_left(progress: RunProgress, rate: float | None, now: float) -> float | None:
    """Return the seconds that are left at `rate` bytes per second; None: not known yet.

    Hosts that limit requests take their time for checks and manifests to come, too. Without anything to fetch, the pace
    of finished images decides.
    """
    remaining = remaining_bytes(progress)
    if remaining is None:
        return None

    requests = _seconds_of_requests(progress)
    if remaining >= 1:
        return max(remaining / rate, requests) if rate else None

    left = _images_to_come(progress, 0)
    if left is None or left <= 0:
        return 0.0 if left is not None else None

    if progress.began_working is None or progress.done < _FEWEST_IMAGES:
        return None

    return max(requests, left * (now - progress.began_working) / progress.done)


def _seconds_of_requests(progress: RunProgress) -> float:
    """Return the least time for the checks and manifests to come where a host limits them."""
    unchecked = max(0, progress.matched - progress.checked) if progress.stop_reason is None else 0
    to_come = _images_to_come(progress, progress.planned_in_work) or 0
    paces = [pace for host in progress.hosts.values() for pace in host.paces.values() if pace.rate]
    return max((_waits(pace, unchecked, to_come) for pace in paces), default=0.0)


def _waits(pace: HostPaced, unchecked: int, to_come: float) -> float:
    count = {"api": unchecked, "manifests": to_come}.get(pace.kind, 0)
    return count / pace.rate if pace.rate else 0.0


def _images_to_come(progress: RunProgress, planned: int) -> float | None:
    """Return the images without outcome, except `planned` ones. A run that stops finishes the ones in work only."""
    if progress.stop_reason is not None:
        return progress.in_work - planned

    expected = expected_images(progress)
    return None if expected is None else expected - progress.done - planned
