"""Discovery by itself, for those who only want to know what there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial

import anyio

from ..events import CandidateSkipped, Event, Observer
from ..quay.check import refuse_impossible
from ..quay.discovery import NO_SUCH_TAG, Candidate, Image, check, pages
from ..quay.selection import Selection
from ..quay.tags import no_such_tag
from ..transfer.together import together
from .services import Services, connect
from .settings import Settings

_CHECKERS = 16
# So many repositories at most are listed ahead: all of most organizations.
_AHEAD = 10_000


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

    refuse_impossible(settings.discovery, selection)
    async with (
        connect(settings, observer) as services,
        aclosing(pages(services.api, settings.origin.netloc, selection, observer=observer)) as listing,
    ):
        _, candidates = await _step((), listing, services, selection, watch)
        while candidates:
            images, candidates = await _step(candidates, listing, services, selection, watch)
            for image in images:
                has_found = True
                yield image

        if missed and not has_found:
            raise await no_such_tag(services.api, missed, selection)


async def _step(
    candidates: Sequence[Candidate],
    listing: AsyncGenerator[list[Candidate]],
    services: Services,
    selection: Selection,
    observer: Observer,
) -> tuple[list[Image], list[Candidate]]:
    """Return the images of `candidates`, and those after them: what is listed meanwhile, some if there are any."""
    images: list[Image] = []
    following: list[Candidate] = []
    are_looked_up = False

    async def look_up() -> None:
        nonlocal are_looked_up
        images.extend(await confirmed(candidates, services, selection, observer))
        are_looked_up = True

    async def look_ahead() -> None:
        async for page in listing:
            following.extend(page)
            if following and (are_looked_up or len(following) >= _AHEAD):
                break

    await together([look_up, look_ahead])
    return images, following


async def confirmed(
    candidates: Sequence[Candidate], services: Services, selection: Selection, observer: Observer
) -> list[Image]:
    """Return those of `candidates` that carry the tag, in the same order; `observer` is told of the others.

    :raises QuaymirrorError: when a tag can't be checked.
    """
    limit, lookup = anyio.CapacityLimiter(_CHECKERS), services.lookup(selection)
    found: dict[int, list[Image]] = {}

    async def confirm(number: int, candidate: Candidate) -> None:
        async with limit:
            result = await check(candidate, api=services.api, lookup=lookup, selection=selection, observer=observer)

        if isinstance(result, CandidateSkipped):
            observer(result)
        else:
            found[number] = result

    await together(partial(confirm, number, candidate) for number, candidate in enumerate(candidates))
    return [image for number in sorted(found) for image in found[number]]
