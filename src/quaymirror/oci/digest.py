"""Content digests (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors.usage import InvalidName
from ..values import pattern

if TYPE_CHECKING:
    from hashlib import _Hash

# The algorithms that the specification registers, with the length of their lower-case hexadecimal form. Content with
# another one can't be verified, so it can't be mirrored.
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = pattern(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The digest of content: `algorithm` and lower-case hexadecimal `encoded` hash, which is safe as a file name."""

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        # fullmatch: match with `$` accepts a trailing newline.
        if len(self.encoded) != _HEX_LENGTH.get(self.algorithm) or not _HEX.fullmatch(self.encoded):
            raise InvalidName(_invalid(f"{self.algorithm}:{self.encoded}"))

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest in `text`, such as `sha256:6c3c…`.

        :raises InvalidName: if it has another algorithm, another length, or upper-case letters.
        """
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise InvalidName(_invalid(text))

        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `data`.

        :raises InvalidName: if the algorithm is not supported.
        """
        if algorithm not in _HEX_LENGTH:
            raise InvalidName(f"not sha256 or sha512: {algorithm[:100]!r}")

        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> _Hash:
        """Return a new hash object of this algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Return True if `data` has this digest."""
        return Digest.of(data, self.algorithm) == self

    @property
    def short(self) -> str:
        """The first twelve digits, for display only."""
        return self.encoded[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


def _invalid(text: str) -> str:
    return f"not a sha256 or sha512 digest: {text[:150]!r}"
