"""The progress of an export, an import or an inventory."""

from __future__ import annotations

from ..values import dataclass


@dataclass(slots=True)
class CarryProgress:
    """The progress of an export or an import, in bytes of blobs and in parts; of an inventory, in blobs."""

    blobs: int = 0
    bytes: int = 0
    total_bytes: int = 0
    part: int = 0
    parts: int = 0
