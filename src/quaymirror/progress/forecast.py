"""Estimates of a run: images to come, bytes to fetch, time left. Pure functions of its progress."""

from __future__ import annotations

from ..events import Status
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

    Planned images count their missing bytes, the others the mean of all images whose missing bytes are known.
    """
    planned, missing = progress.planned_in_work, progress.missing_in_work
    received = progress.meters.fetched_bytes - progress.fetched_by_images
    here = max(0, missing - max(0, received))
    to_come = _images_to_come(progress, planned)
    if to_come is None or to_come <= 0:
        return None if to_come is None else here

    samples = progress.done - progress.images[Status.SKIPPED] + planned
    mean = (progress.fetched_by_images + missing) / samples if samples >= _FEWEST_IMAGES else None
    return None if mean is None else here + to_come * mean


def seconds_left(progress: RunProgress, rate: float | None, now: float) -> float | None:
    """Return the seconds that are left at `rate` bytes per second; None: not known yet.

    Without anything to fetch, the pace of finished images decides.
    """
    remaining = remaining_bytes(progress)
    if remaining is None or remaining > 0:
        return remaining / rate if remaining is not None and rate else None

    left = _images_to_come(progress, 0)
    if left is None or progress.began_working is None or progress.done < _FEWEST_IMAGES:
        return None

    return max(0.0, left) * (now - progress.began_working) / progress.done


def _images_to_come(progress: RunProgress, planned: int) -> float | None:
    """Return the images without outcome, except `planned` ones. A run that stops finishes the ones in work only."""
    if progress.stop_reason is not None:
        return progress.in_work - planned

    expected = expected_images(progress)
    return None if expected is None else expected - progress.done - planned
