"""Discovery by itself, for those who only want to know what there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio

from ..events import CandidateSkipped, Event, Observer
from ..quay.discovery import NO_SUCH_TAG, Candidate, Image, check, pages
from ..quay.selection import Selection
from ..quay.tags import no_such_tag
from ..transfer.together import together
from .services import Services, connect
from .settings import Settings

_CHECKERS = 16


async def find_images(selection: Selection, settings: Settings, *, observer: Observer) -> AsyncIterator[Image]:
    """Iterate over the images of `selection`; see `quaymirror.discover`.

    No task outlives a step of the iteration, so that it may be abandoned anywhere.
    """
    missed: list[str] = []
    has_found = False

    def watch(event: Event) -> None:
        observer(event)
        if isinstance(event, CandidateSkipped) and event.reason == NO_SUCH_TAG:
            missed.append(event.repository)

    async with connect(settings, observer, namespace=selection.organization) as services:
        registry = settings.origin.netloc
        async for candidates in pages(services.api, registry, selection, observer=observer):
            for image in await confirmed(candidates, services, selection, watch):
                has_found = True
                yield image

        if missed and not has_found:
            raise await no_such_tag(services.api, missed, selection)


async def confirmed(
    candidates: Sequence[Candidate], services: Services, selection: Selection, observer: Observer
) -> list[Image]:
    """Return those of `candidates` that carry the tag, in the same order; `observer` is told of the others.

    :raises QuaymirrorError: when a tag can't be checked.
    """
    limit = anyio.CapacityLimiter(_CHECKERS)
    found: dict[int, list[Image]] = {}

    async def confirm(number: int, candidate: Candidate) -> None:
        async with limit:
            result = await check(candidate, api=services.api, selection=selection)

        if isinstance(result, CandidateSkipped):
            observer(result)
        else:
            found[number] = result

    await together(partial(confirm, number, candidate) for number, candidate in enumerate(candidates))
    return [image for number in sorted(found) for image in found[number]]
