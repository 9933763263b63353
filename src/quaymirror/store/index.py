"""The index file of a layout, and its only writer."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from ..events import Notice, Observer, ignore
from ..untrusted import InvalidDocument
from . import documents
from .records import ImageRecord
from .storage import INDEX, Storage


class IndexFile:
    """`index.json`. It is written from the state; entries of other tools are kept."""

    def __init__(self, storage: Storage, observer: Observer = ignore) -> None:
        self._storage = storage
        self._observer = observer

    def update(self, records: Iterable[ImageRecord], *, without: Collection[str] = ()) -> None:
        """Write the entries of `records`, and remove those named in `without`. A damaged index is set aside first.

        The file is not touched if nothing changes: programs that copy the mirror compare modification times.
        """
        text = self._storage.read(INDEX)
        content = documents.project(self._parsed(text), records, without=without)
        if content != text:
            self._storage.replace(INDEX, content)

    def _parsed(self, text: bytes | None) -> dict[str, Any] | None:
        if text is None:
            return None

        try:
            return documents.parse_index(text)
        except InvalidDocument as error:
            aside = f"{INDEX}.damaged-{int(time.time())}"
            self._storage.put(aside, text)
            self._observer(
                Notice(f"{self._storage}/{INDEX} {error}: set aside as {aside}, written again from the state")
            )
            return None
