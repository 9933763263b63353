"""Images in work, and the last and largest finished ones."""

from __future__ import annotations

from bisect import insort_left
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field

from ..events import ImagePlanned, Outcome, Status
from ..text import escape_controls
from ..values import dataclass
from .meters import Meter

# A list of the last images that leaves out the largest ones has twelve rows.
_LAST_KEPT = 24
_LARGEST_KEPT = 12
# The images whose bytes the mean is of: enough for a mean, few enough to follow what images share.
_SAMPLES = 200
_FEWEST_SAMPLES = 3


@dataclass(slots=True)
class ImageWork:
    """An image in work: the layers and bytes that are fetched for it, if they are known, and those that are done.

    `missing` are the bytes that are still counted for it, None until it is planned.
    """

    name: str
    layers: int = 0
    bytes: int = 0
    layers_done: int = 0
    bytes_done: int = 0
    missing: int | None = None

    def plan(self, event: ImagePlanned) -> None:
        """Take over the plan of the image; a second one replaces the first."""
        self.layers = event.blobs if event.own_layers is None else event.own_layers
        self.missing = event.missing_bytes if event.own_bytes is None else event.own_bytes
        self.bytes, self.layers_done, self.bytes_done = self.missing, 0, 0


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """An image that was mirrored: all of its bytes, those fetched for it, and the seconds that it took."""

    bytes: int
    name: str
    fetched: int
    elapsed: float


@dataclass(slots=True)
class FinishedImages:
    """The last finished images, and the largest ones, in bounded numbers."""

    last: deque[FinishedImage] = field(default_factory=lambda: deque(maxlen=_LAST_KEPT))
    largest: list[FinishedImage] = field(default_factory=list)
    """In ascending order."""

    def add(self, outcome: Outcome) -> None:
        """Record a mirrored image; others are of no interest."""
        if outcome.status is not Status.MIRRORED:
            return

        size, name = outcome.bytes_fetched + outcome.bytes_reused, escape_controls(outcome.reference.name)
        finished = FinishedImage(size, name, outcome.bytes_fetched, outcome.elapsed)
        self.last.append(finished)
        # Of images of one size the first ones stay, so that a list of them is stable.
        insort_left(self.largest, finished, key=lambda image: image.bytes)
        del self.largest[:-_LARGEST_KEPT]


def new_samples() -> deque[int]:
    """Return an empty collection for the bytes of the last images, in the order in which they became known."""
    return deque(maxlen=_SAMPLES)


def mean_of(samples: Collection[int]) -> float | None:
    """Return the mean of the later half: the first images bring what all others share. None: too few are known."""
    if len(samples) < _FEWEST_SAMPLES:
        return None

    later = list(samples)[len(samples) // 2 :]
    return sum(later) / len(later)


def received_by_image(work: Mapping[str, ImageWork], in_flight: Iterable[Meter]) -> dict[str, int]:
    """Return the bytes received for each image in work, by full name; `in_flight` are the open transfers."""
    by_label: Counter[str] = Counter()
    for meter in in_flight:
        by_label[meter.label] += meter.done

    return {full_name: image.bytes_done + by_label[image.name] for full_name, image in work.items()}
