"""The images of selections from any number of sources, in one iterator."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from ..catalog.base import PinnedImage
from ..discovery.discover import discover
from ..discovery.tag_cache import TagCache
from ..errors import Failure, Phase, SelectionEmpty, TargetRefused
from ..events import CheckFailed, Observer
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..settings import Options
from .wiring import OpenSources


async def find_in_sources(
    sources: OpenSources,
    selections: Sequence[Selection],
    options: Options,
    *,
    observer: Observer,
    cache: TagCache | None = None,
    strict: bool = False,
) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selections`, one source after the other; see `discover`.

    An image with the name of one from another source is a failed check.

    :raises SelectionEmpty: if a selection matches nothing, after all others.
    :raises ConfigError: if a source can't be opened.
    :raises QuaymirrorError: if a listing breaks off, or nothing else can be found.
    """
    empty: SelectionEmpty | None = None
    names = _Names(observer)
    for source, of_it in by_source(selections).items():
        services = await sources.open(source)
        registry = options.source.address_of(of_it[0]).registry_name
        found = discover(of_it, services.catalog, registry, cache=cache, observer=observer, strict=strict)
        try:
            async with aclosing(found):
                async for image in found:
                    if names.claim(image):
                        yield image
        except SelectionEmpty as error:
            empty = empty or error

    if empty is not None:
        raise empty


def by_source(selections: Iterable[Selection]) -> dict[SourceAddress | None, list[Selection]]:
    """Return `selections` by their sources, in the order of the first of each."""
    groups: dict[SourceAddress | None, list[Selection]] = {}
    for selection in selections:
        groups.setdefault(selection.source, []).append(selection)

    return groups


class _Names:
    """The names that images have in a target: one name is for one image."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._claimed: dict[str, PinnedImage] = {}

    def claim(self, image: PinnedImage) -> bool:
        """Return True if `image` is the first with its name, or the same image as the first."""
        first = self._claimed.setdefault(image.reference.name, image)
        if first is image:
            return True

        if first.digest != image.digest:
            reference = image.reference
            message = f"has the same name as {first.reference.full_name}: mirror one of them to another target"
            failure = Failure.of(TargetRefused(message, phase=Phase.DISCOVER))
            self._observer(CheckFailed(str(reference.repository), reference.tag or "", failure))

        return False
