"""The index file of a layout, and its only writer."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from ..events import Notice, Observer, ignore
from ..untrusted import InvalidDocument
from . import documents
from .records import ImageRecord
from .storage import INDEX, Storage


def update_index(
    storage: Storage, records: Iterable[ImageRecord], *, without: Collection[str] = (), observer: Observer = ignore
) -> None:
    """Write the entries of `records` to `index.json`, and remove those named in `without`; other tools' entries stay.

    A damaged index is set aside first. The file is not touched if nothing changes: programs that copy the mirror
    compare modification times.
    """
    text = storage.read(INDEX)
    document = None
    if text is not None:
        try:
            document = documents.parse_index(text)
        except InvalidDocument as error:
            aside = f"{INDEX}.damaged-{int(time.time())}"
            storage.put(aside, text)
            observer(Notice(f"{storage}/{INDEX} {error}: set aside as {aside}, written again from the state"))

    content = documents.project(document, records, without=without)
    if content != text:
        storage.replace(INDEX, content)
