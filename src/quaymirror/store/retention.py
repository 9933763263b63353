"""Retention of snapshots, as restic does it, and the space that each of them takes. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from ..values import dataclass
from .records import Snapshot, Span


@dataclass(frozen=True, slots=True)
class Retention:
    """The snapshots to keep: the `last` ones, the last one of so many days, weeks and months, and all with a label.

    Days are those of the local time zone. Protected snapshots are kept, too.
    """

    last: int = 2
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    labels: tuple[str, ...] = ()

    def kept(self, snapshots: Sequence[Snapshot]) -> set[int]:
        """Return the numbers of those of `snapshots`, the oldest first, that are kept; the last one always is."""
        kept = {each.number for each in snapshots if each.protected or each.label in self.labels}
        kept |= {each.number for each in snapshots[-max(1, self.last) :]}
        for count, form in ((self.daily, "%Y-%m-%d"), (self.weekly, "%G-%V"), (self.monthly, "%Y-%m")):
            latest = {datetime.fromtimestamp(each.created).strftime(form): each.number for each in snapshots}
            # Dates are not in the order of the numbers if a clock was set back.
            kept |= set(sorted(latest.values())[len(latest) - min(count, len(latest)) :])

        return kept


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes that a snapshot needs, and those of them that nothing else needs."""

    size: int = 0
    own: int = 0


def usage(spans: Iterable[Span], numbers: Sequence[int]) -> dict[int, Usage]:
    """Return the usage of each of the snapshots with these `numbers`, in ascending order."""
    size, own = Counter[int](), Counter[int]()
    for holders, total in _by_holders(spans, numbers).items():
        indices = list(_bits(holders))
        for index in indices:
            size[index] += total

        if len(indices) == 1:
            own[indices[0]] += total

    return {number: Usage(size[index], own[index]) for index, number in enumerate(numbers)}


def freed(spans: Iterable[Span], numbers: Sequence[int], dropped: Collection[int]) -> dict[int, int]:
    """Return the bytes that go with each of the snapshots in `dropped` if they all go.

    Bytes that several of them need go with the last one.
    """
    mask = sum(1 << index for index, number in enumerate(numbers) if number in dropped)
    totals = Counter[int]()
    for holders, total in _by_holders(spans, numbers).items():
        if holders and not holders & ~mask:
            totals[numbers[holders.bit_length() - 1]] += total

    return {number: totals[number] for number in dropped}


def _by_holders(spans: Iterable[Span], numbers: Sequence[int]) -> Counter[int]:
    """Return the bytes of the blobs that the same snapshots need; bits are places in `numbers`."""
    holders: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for span in spans:
        bits = (1 << bisect_left(numbers, span.until)) - (1 << bisect_left(numbers, span.since))
        holders[span.blob] = holders.get(span.blob, 0) | bits
        sizes[span.blob] = span.size

    totals = Counter[int]()
    for blob, bits in holders.items():
        totals[bits] += sizes[blob]

    return totals


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
