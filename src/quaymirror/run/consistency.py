"""Consistent sets: tags that move while a run goes on are found by listing the sources again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

import anyio

from ..catalog.base import Catalog, PinnedImage
from ..discovery.checks import Checker
from ..discovery.listing import Candidate, find_candidates
from ..discovery.tag_cache import TagCache
from ..discovery.unmatched import Matches
from ..errors import SelectionEmpty
from ..events import CandidateSkipped, Event, HostPaced, HostPaused, HostResumed, Notice, RetryScheduled
from ..oci import Digest
from ..selection.selection import Selection
from ..text import human_duration
from .context import Run
from .finding import by_source
from .wiring import OpenSources

_PASSED_ON = (RetryScheduled, HostPaused, HostResumed, HostPaced)


class Relisting:
    """Looks for tags that moved since they were checked; repositories that their listing shows unchanged cost nothing.

    Selections of a lock file, and sources whose listings have no dates, are left out.
    """

    def __init__(self, run: Run, sources: OpenSources, cache: TagCache) -> None:
        self._run = run
        self._sources = sources
        self._cache = cache

    async def moved(self, known: Mapping[str, Digest | None]) -> list[PinnedImage]:
        """Return the images that are new, or have another digest than in `known`, by their full names.

        :raises QuaymirrorError: if a listing breaks off, or a tag can't be checked.
        """
        moved: dict[str, PinnedImage] = {}
        failed = {check.repository for check in self._run.progress.failed_checks}
        async for selection, catalog, candidate in self._candidates():
            if str(candidate.repository) in failed or not self._cache.may_have_moved(candidate):
                continue

            found = await Checker(catalog, selection, self._cache, self._pass_on).check(candidate)
            for image in [] if isinstance(found, CandidateSkipped) else found:
                name = image.reference.full_name
                # The labels of an image that is new are not known.
                if known.get(name) != image.digest and (name in known or not selection.labels):
                    moved[name] = image

        return list(moved.values())

    async def settle(self) -> None:
        """Wait until the newest push of the selections is as old as the options say, at most until the time limit.

        :raises QuaymirrorError: if a listing breaks off.
        """
        options = self._run.options.publishing
        clock = self._run.options.client.retry.clock
        deadline = clock() + options.settle_timeout
        while options.settle and self._run.stop.reason is None:
            try:
                youngest = await self._youngest()
            except SelectionEmpty:
                return  # discovery reports it

            wait = min(options.settle - youngest, deadline - clock())
            if wait <= 0:
                return

            self._run.emit(Notice(f"the newest push is {human_duration(youngest)} old: waiting {human_duration(wait)}"))
            await self._wait(wait)

    async def _wait(self, seconds: float) -> None:
        """Wait, unless the run is stopped."""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await self._run.stop.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._run.options.client.retry.sleep(seconds)
            tasks.cancel_scope.cancel()

    async def _youngest(self) -> float:
        """Return the age of the newest push of any matching repository, by the server's clock."""
        ages = [
            candidate.at - candidate.listed.updated
            async for _, _, candidate in self._candidates()
            if candidate.at is not None and candidate.listed.updated is not None
        ]
        return float(min(ages, default=self._run.options.publishing.settle))

    async def _candidates(self) -> AsyncIterator[tuple[Selection, Catalog, Candidate]]:
        for source, selections in by_source(self._run.selections).items():
            catalog = (await self._sources.open(source)).catalog
            for selection in selections:
                registry = self._run.options.source.address_of(selection).registry_name
                if selection.pinned or not catalog.traits.has_dates:
                    continue

                most = self._run.options.discovery.max_repositories
                found = find_candidates(catalog, registry, selection, self._pass_on, Matches(), most=most)
                async with aclosing(found) as listing:
                    async for candidate in listing:
                        yield selection, catalog, candidate

    def _pass_on(self, event: Event) -> None:
        """Show retries; notices were shown, and images were counted, when they were found."""
        if isinstance(event, _PASSED_ON):
            self._run.emit(event)
