"""The share of one shard, by rendezvous hashing: every shard computes the same division, without a word to another."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from ..errors import ConfigError
from ..oci import Digest
from ..values import dataclass, pattern

_FORM = pattern(r"([0-9]{1,4})/([0-9]{1,4})")
MOST_SHARDS = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """Shard `index`, from 0, of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Return the share that `text`, `I/N`, names.

        :raises ConfigError: if it names none.
        """
        found = _FORM.fullmatch(text)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not index < count <= MOST_SHARDS:
            raise ConfigError(
                f"not a shard: {text[:50]!r}; write I/N, with I from 0 to N-1 and N up to {MOST_SHARDS:,}"
            )

        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owner(self, digest: Digest) -> int:
        """Return the shard that `digest` belongs to."""
        return max(range(self.count), key=lambda shard: _weight(digest, shard))

    def has(self, digest: Digest) -> bool:
        """Return True if `digest` belongs to this shard."""
        return self.owner(digest) == self.index


def ranked(digest: Digest, shards: Iterable[int]) -> list[int]:
    """Return `shards` in the order in which they take over `digest`."""
    return sorted(shards, key=lambda shard: _weight(digest, shard), reverse=True)


def _weight(digest: Digest, shard: int) -> bytes:
    return blake2b(f"{digest} {shard}".encode(), digest_size=8).digest()
