"""Byte counters of transfers. A display samples them at its own pace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..oci.digest import Digest
from ..values import dataclass
from .speeds import Speeds


@dataclass(slots=True, eq=False)
class Meter:
    """The bytes of one transfer. A retry may set `done` back to the offset it resumes from."""

    label: str
    digest: Digest
    total: int
    done: int = 0


class Meters:
    """The open transfers, oldest first, and the sum of all received bytes."""

    def __init__(self, fetched_bytes: int = 0, in_flight: Iterable[Meter] = ()) -> None:
        self.fetched_bytes = fetched_bytes
        """Received bytes of blobs and manifests, those of failed attempts included."""
        self.speeds: Speeds = Speeds()
        """The speeds of the transfers, by host."""
        self._open = {id(meter): meter for meter in in_flight}

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
