"""Content digests (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidName

if TYPE_CHECKING:
    from hashlib import _Hash

# Algorithms we can compute, with the length of their lower-case hexadecimal form. The specification registers these
# two; an unknown algorithm can't be verified, so its content can't be mirrored.
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of a piece of content: `algorithm` and lower-case hexadecimal `encoded` hash.

    Only instances that passed `parse` or came from `of` exist, so `encoded` is safe as a file name.
    """

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        # fullmatch, not match with `$`: that accepts a trailing newline, and this becomes a file name.
        if len(self.encoded) != _HEX_LENGTH.get(self.algorithm) or not _HEX.fullmatch(self.encoded):
            raise InvalidName(_no_digest(f"{self.algorithm}:{self.encoded}"))

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest that `text` spells, such as `sha256:6c3c…`.

        :raises InvalidName: for another algorithm, another length, upper-case letters, or anything before or after.
        """
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise InvalidName(_no_digest(text))

        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `data`.

        :raises InvalidName: for an algorithm other than sha256 and sha512.
        """
        if algorithm not in _HEX_LENGTH:
            raise InvalidName(f"not sha256 or sha512: {algorithm[:100]!r}")

        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> _Hash:
        """Return a fresh hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Tell whether `data` has this digest."""
        return Digest.of(data, self.algorithm) == self

    @property
    def short(self) -> str:
        """The first twelve digits: enough for people, never for programs."""
        return self.encoded[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


def _no_digest(text: str) -> str:
    return f"not a sha256 or sha512 digest: {text[:150]!r}"
