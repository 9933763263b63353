"""Discovery by itself, for those who only want to know what there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import anyio

from ..catalog.quay.lookup import refuse_impossible
from ..errors import QuaymirrorError
from ..events import CandidateSkipped, Event, Observer
from ..run.wiring import Services, connect
from ..selection.selection import Selection
from ..settings import Options
from ..tasks import run_all
from .hints import no_such_tag
from .pipeline import NO_SUCH_TAG, Candidate, Image, check, pages

_CHECKERS = 16
# So many repositories at most are listed ahead: all of most organizations.
_AHEAD = 10_000


@dataclass(slots=True)
class _Step:
    """What came of some candidates: their images, those that follow, and what ended the listing too early."""

    images: list[Image] = field(default_factory=list)
    following: list[Candidate] = field(default_factory=list)
    trouble: QuaymirrorError | None = None


async def find_images(selection: Selection, settings: Options, *, observer: Observer) -> AsyncIterator[Image]:
    """Iterate over the images of `selection`; see `quaymirror.discover`.

    No task outlives a step of the iteration, so that it may be abandoned anywhere.
    """
    missed: list[str] = []
    has_found = False

    def watch(event: Event) -> None:
        observer(event)
        if isinstance(event, CandidateSkipped) and event.reason == NO_SUCH_TAG:
            missed.append(event.repository)

    refuse_impossible(settings.discovery.discovery, selection)
    async with (
        connect(settings, observer) as services,
        aclosing(pages(services.api, settings.source.origin.netloc, selection, observer=observer)) as listing,
    ):
        step = await _step((), listing, services, selection, watch)
        while step.following:
            trouble = step.trouble
            step = await _step(step.following, listing, services, selection, watch)
            step.trouble = step.trouble or trouble
            for image in step.images:
                has_found = True
                yield image

        if step.trouble is not None:
            raise step.trouble

        if missed and not has_found:
            raise await no_such_tag(services.api, missed, selection)


async def _step(
    candidates: Sequence[Candidate],
    listing: AsyncGenerator[list[Candidate]],
    services: Services,
    selection: Selection,
    observer: Observer,
) -> _Step:
    """Look up `candidates`; what follows them is what is listed meanwhile, and some if there are any."""
    step = _Step()
    are_looked_up = False

    async def look_up() -> None:
        nonlocal are_looked_up
        step.images.extend(await confirmed(candidates, services, selection, observer))
        are_looked_up = True

    async def look_ahead() -> None:
        try:
            async for page in listing:
                step.following.extend(page)
                if step.following and (are_looked_up or len(step.following) >= _AHEAD):
                    break
        except QuaymirrorError as error:
            step.trouble = error  # which comes after what was listed before it

    await run_all([look_up, look_ahead])
    return step


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

    await run_all(partial(confirm, number, candidate) for number, candidate in enumerate(candidates))
    return [image for number in sorted(found) for image in found[number]]
