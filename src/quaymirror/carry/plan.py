"""The plan of an export: the parts, of a limited size, and the stretches of blobs in them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ..errors import ConfigError
from ..oci import Descriptor
from ..values import dataclass
from .manifest import CarriedBlob, Stretch

BLOCK: Final = 512
# tar files end with two empty blocks, and are padded to this.
RECORD: Final = 10_240
# A smaller blob is moved to the next part instead of being cut; and no stretch is smaller.
_LEAST_CUT = 8 * 1024 * 1024
_LEAST_STRETCH = 1024 * 1024
_LEAST_MEDIUM = 16 * 1024 * 1024

# Less than the medium has: a file system needs some of it.
_MEDIA = {"dvd": 4_650_000_000, "dvd-dl": 8_450_000_000, "bd": 24_900_000_000, "fat32": 4_294_967_295}
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?(?:([KMGT])(i)?)?B?", re.IGNORECASE)


def parse_media_size(text: str) -> int:
    """Return the bytes that `text` says: `4.7G` (powers of 1000, as media are labelled), `4GiB`, `dvd`, `bd`, `fat32`.

    :raises ConfigError: if it is not a size, or less than 16 MiB.
    """
    if (known := _MEDIA.get(text.lower())) is not None:
        return known

    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"not a size: {text[:50]!r}; write 4.7G, 4GiB, {', '.join(_MEDIA)}")

    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index((match[2] or " ").upper()))
    if size < _LEAST_MEDIUM:
        raise ConfigError(f"{text[:50]!r} is too small for a part: 16MiB is the least")

    return size


def padded(size: int, unit: int = BLOCK) -> int:
    """Return `size`, rounded up to whole units."""
    return -(-size // unit) * unit


def member_size(size: int) -> int:
    """Return the size of a member of `size` bytes in a tar file, its header included."""
    return BLOCK + padded(size)


@dataclass(slots=True)
class _Part:
    """The part that is being filled."""

    number: int
    free: int


def place(nodes: Iterable[Descriptor], capacity: int | None) -> tuple[list[CarriedBlob], int]:
    """Return `nodes` with the stretches that carry them, in order, and the number of parts, one at least.

    A part holds members of `capacity` bytes in all, any number if it is None. Only blobs of 8 MiB or more are cut.

    :raises ConfigError: if a small blob is larger than a part.
    """
    part = _Part(1, capacity or 0)
    placed = []
    for node in nodes:
        if capacity is None:
            placed.append(CarriedBlob(node, (Stretch(1, 0, node.size),)))
        else:
            placed.append(CarriedBlob(node, tuple(_stretches(node, part, capacity))))

    return placed, part.number


def _stretches(node: Descriptor, part: _Part, capacity: int) -> Sequence[Stretch]:
    if member_size(node.size) > part.free and node.size < _LEAST_CUT:
        _turn(part, capacity)
        if member_size(node.size) > part.free:
            raise ConfigError(f"a part of this size has no space for {node.digest}: choose a larger --media-size")

    stretches: list[Stretch] = []
    start = 0
    while start < node.size or not stretches:
        end = min(node.size, start + (part.free - BLOCK) // BLOCK * BLOCK)
        if end < node.size and end - start < _LEAST_STRETCH:
            _turn(part, capacity)
            continue

        stretches.append(Stretch(part.number, start, end))
        part.free -= member_size(end - start)
        start = end

    return stretches


def _turn(part: _Part, capacity: int) -> None:
    part.number += 1
    part.free = capacity
