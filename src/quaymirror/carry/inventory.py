"""Inventories: the digests that the receiver of an export has, or those that it asks for.

A text, compressed by zstd or not. Lines that begin with `#` have properties, the others are digests:

    # quaymirror inventory 1
    # id 5f2c…
    # created 2026-11-30T21:05:00+00:00
    sha256:6c3c…

In a *request* each digest is one that is missing; everything else is there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from ..errors import ConfigError, InvalidName
from ..oci import Digest
from ..values import dataclass
from ..zstd import compress
from .manifest import decompress

_INVENTORY, _REQUEST = "# quaymirror inventory 1", "# quaymirror request 1"
_ZSTD = b"\x28\xb5\x2f\xfd"
# Twenty million digests.
MAX_BYTES = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Inventory:
    """The digests that a mirror has, or, if it `is_request`, those that it lacks. `created` is POSIX time.

    `remarks` are lines for people: names of images, and what imports wait for.
    """

    id: str
    created: float
    digests: frozenset[Digest]
    is_request: bool = False
    remarks: tuple[str, ...] = ()

    def has(self, digest: Digest) -> bool:
        """Return True if the receiver has `digest`."""
        return (digest in self.digests) is not self.is_request

    def to_text(self) -> str:
        """Return it as text."""
        created = datetime.fromtimestamp(self.created, UTC).isoformat(timespec="seconds")
        head = [_REQUEST if self.is_request else _INVENTORY, f"# id {self.id}", f"# created {created}"]
        return "\n".join([*head, *(f"# {remark}" for remark in self.remarks), *map(str, sorted(self.digests)), ""])

    def to_bytes(self) -> bytes:
        """Return it compressed."""
        return compress(self.to_text().encode())


def make_inventory(digests: Iterable[Digest], *, is_request: bool = False, remarks: Iterable[str] = ()) -> Inventory:
    """Return a new inventory, or request, with an identifier of its own."""
    return Inventory(secrets.token_hex(16), time.time(), frozenset(digests), is_request, tuple(remarks))


def parse_inventory(content: bytes) -> Inventory:
    """Return the inventory in `content`.

    :raises ConfigError: if it is not one; the message has the reason without a place.
    """
    if content.startswith(_ZSTD):
        content = decompress(content, MAX_BYTES)

    lines = content.decode(errors="replace").splitlines()
    if not lines or lines[0] not in (_INVENTORY, _REQUEST):
        raise ConfigError("it is not an inventory: make one with `quaymirror inventory MIRROR > FILE`")

    properties = dict(line[2:].split(" ", 1) for line in lines[1:3] if line.startswith("# ") and line.count(" ") > 1)
    try:
        created = datetime.fromisoformat(properties["created"]).timestamp()
        digests = frozenset(Digest.parse(line) for line in lines if not line.startswith("#"))
        return Inventory(properties["id"], created, digests, lines[0] == _REQUEST)
    except (KeyError, ValueError, InvalidName):
        raise ConfigError("it is damaged: it has a line that makes no sense, or it is cut short") from None
