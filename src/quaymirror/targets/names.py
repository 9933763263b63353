"""The names that images have in a target registry, each of which is for one image."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ..errors import InvalidName, TargetRefused
from ..events import Notice, Observer
from ..oci import Reference
from ..store.records import ImageRecord
from .registry_address import RegistryAddress


class TargetNames:
    """The names that images of this run and of earlier runs were given."""

    def __init__(self, address: RegistryAddress, observer: Observer) -> None:
        self._address = address
        self._observer = observer
        self._claimed: dict[Reference, str] = {}
        self._last: dict[Reference, str] | None = None
        self._is_reported = False

    def claim(self, reference: Reference) -> Reference:
        """Return the name of an image in the registry.

        :raises TargetRefused: if another image of this run has it.
        """
        place = self._address.place(reference.name)
        if self._claimed.setdefault(place, reference.name) != reference.name:
            raise TargetRefused(
                f"{reference.name} and {self._claimed[place]} have the same name in the target, {place.full_name}"
            )

        return place

    @property
    def needs_history(self) -> bool:
        """Return True if `is_last` must be given the images of earlier runs first, by `load`."""
        return self._last is None and not self._address.is_one_to_one

    def load(self, records: Iterable[ImageRecord]) -> None:
        """Learn which image was the last to get each name."""
        self._last = {}
        for record in sorted(records, key=lambda record: record.mirrored):
            self.record(record)

    def record(self, record: ImageRecord) -> None:
        """Note that an image got its name."""
        if self._last is None:
            return

        with suppress(InvalidName):  # rows of the state have no checksum
            self._last[self._address.place(record.name)] = record.name

    def is_last(self, reference: Reference) -> bool:
        """Return True if no image of another organization was given the name of this one since."""
        last = (self._last or {}).get(self._address.place(reference.name), reference.name)
        if last != reference.name and not self._is_reported:
            self._is_reported = True
            self._observer(
                Notice(
                    f"{reference.name} was replaced by {last}: two runs push to the same tag; the last one wins; "
                    "put {org} and {repo} into the address"
                )
            )

        return last == reference.name
