"""Discovery by itself: the images of a selection, without mirroring them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..catalog.base import PinnedImage
from ..catalog.kinds import check_selection
from ..discovery.discover import discover
from ..events import Observer
from ..selection.selection import Selection
from ..settings import Options
from .wiring import connect


async def find_images(selection: Selection, options: Options, *, observer: Observer) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selection`; see `quaymirror.discover`."""
    check_selection(selection, options.discovery.discovery)
    async with connect(options, observer) as services:
        found = discover([selection], services.catalog, options.source.origin.netloc, observer=observer, strict=True)
        async with aclosing(found):
            async for image in found:
                yield image
