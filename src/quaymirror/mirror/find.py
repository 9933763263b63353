"""Discovery by itself, for those who only want to know what there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio

from ..events import CandidateSkipped, Observer
from ..quay.discovery import Candidate, Image, check, pages
from ..quay.selection import Selection
from ..transfer.together import together
from .services import Services, connect
from .settings import Settings

_CHECKERS = 16


async def find_images(selection: Selection, settings: Settings, *, observer: Observer) -> AsyncIterator[Image]:
    """Iterate over the images of `selection`; see `quaymirror.discover`.

    No task outlives a step of the iteration, so that it may be abandoned anywhere.
    """
    async with connect(settings, observer) as services:
        registry = settings.origin.netloc
        async for candidates in pages(
            services.api, registry, selection, observer=observer, discovery=settings.discovery
        ):
            for image in await _confirmed(candidates, services, selection, observer):
                yield image


async def _confirmed(
    candidates: Sequence[Candidate], services: Services, selection: Selection, observer: Observer
) -> list[Image]:
    limit = anyio.CapacityLimiter(_CHECKERS)
    found: dict[int, Image] = {}

    async def confirm(number: int, candidate: Candidate) -> None:
        async with limit:
            result = await check(candidate, api=services.api, tags=services.source, selection=selection)

        if isinstance(result, CandidateSkipped):
            observer(result)
        else:
            found[number] = result

    await together(partial(confirm, number, candidate) for number, candidate in enumerate(candidates))
    return [found[number] for number in sorted(found)]
