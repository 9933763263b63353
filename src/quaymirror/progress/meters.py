"""Byte counters of transfers. A display samples them at its own pace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..oci import Digest

__all__ = ["AllMeters", "Meter", "Meters", "Progress"]


@dataclass(slots=True, eq=False)
class Meter:
    """The bytes of one transfer. A retry may set `done` back to the offset it resumes from."""

    label: str
    digest: Digest
    total: int
    done: int = 0


class Meters:
    """All open transfers, oldest first, and the sum of all received bytes."""

    def __init__(self) -> None:
        self._open: dict[int, Meter] = {}
        self.fetched_bytes = 0
        """Received bytes of blobs and manifests, those of failed attempts included."""
        self.reused_bytes = 0
        """Bytes that images needed and that did not have to be fetched for them."""

    @contextmanager
    def transfer(self, label: str, digest: Digest, total: int) -> Iterator[Meter]:
        """Show a transfer of `total` bytes while the context lasts."""
        meter = Meter(label, digest, total)
        self._open[id(meter)] = meter
        try:
            yield meter
        finally:
            del self._open[id(meter)]

    @property
    def in_flight(self) -> tuple[Meter, ...]:
        """The open transfers, oldest first."""
        return tuple(self._open.values())


class Progress(Protocol):
    """The part of `Meters` that a display reads, of one run or of several."""

    @property
    def fetched_bytes(self) -> int:
        """Received bytes."""

    @property
    def reused_bytes(self) -> int:
        """Bytes that did not have to be fetched."""

    @property
    def in_flight(self) -> tuple[Meter, ...]:
        """The open transfers, oldest first per run."""


class AllMeters:
    """The meters of several runs, as if they were one."""

    def __init__(self) -> None:
        self._parts: list[Meters] = []

    def add(self, meters: Meters) -> None:
        """Count `meters`, too, from now on."""
        self._parts.append(meters)

    @property
    def fetched_bytes(self) -> int:
        """Received bytes of all runs."""
        return sum(part.fetched_bytes for part in self._parts)

    @property
    def reused_bytes(self) -> int:
        """Bytes that did not have to be fetched, of all runs."""
        return sum(part.reused_bytes for part in self._parts)

    @property
    def in_flight(self) -> tuple[Meter, ...]:
        """All open transfers, oldest first per run."""
        return tuple(meter for part in self._parts for meter in part.in_flight)
