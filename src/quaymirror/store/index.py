"""The index file of a layout, and its only writer."""

from __future__ import annotations

import time

from ..events import Notice, Observer, ignore
from ..untrusted import InvalidDocument
from . import documents
from .state import State
from .storage import INDEX, Storage


def update_index(storage: Storage, state: State, *, observer: Observer = ignore) -> None:
    """Write the images that readers shall see to `index.json`; entries of other tools stay.

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

    content = documents.project(document, state.visible_images(), without=state.former_names())
    if content != text:
        storage.replace(INDEX, content)
