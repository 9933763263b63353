"""The iterator of pinned images: order, failures, bounds, and leaving it early."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from toy_catalog import ToyCatalog, ToyServer

from quaymirror import Selection
from quaymirror.catalog.base import Page, PinnedImage, TagAnswer
from quaymirror.discovery import discover as discovery
from quaymirror.discovery.discover import discover
from quaymirror.errors import CredentialsRefused, DiscoveryIncomplete, SelectionEmpty, Unavailable
from quaymirror.events import CandidateChecked, CheckFailed, Event, TagChecked
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.selection.selection import Pin

DIGEST = Digest.of(b"image")
Before = Callable[[str], Any]


class Catalog(ToyCatalog):
    """A toy catalog with `images` repositories; `before` is awaited before each lookup and each page."""

    def __init__(self, images: int, before: Before | None = None, page: Before | None = None) -> None:
        super().__init__(ToyServer())
        self.before, self.page = before, page
        self.listed = 0
        for number in range(images):
            self.server.push("kolla", f"image-{number:05}", "latest", DIGEST)

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        async with aclosing(super().pages(organization)) as pages:
            async for page in pages:
                if self.page is not None:
                    await self.page(page.repositories[0].name)

                self.listed += len(page.repositories)
                yield page

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        if self.before is not None:
            await self.before(repository.name)

        return await super().tag(repository, name, batch=batch, dated=dated)


def names(images: Sequence[PinnedImage]) -> list[str]:
    return [image.reference.repository.name.removeprefix("kolla/image-") for image in images]


async def collect(images: AsyncGenerator[PinnedImage], into: list[PinnedImage]) -> None:
    async for image in images:
        into.append(image)


async def found(catalog: Catalog, *selections: Selection, **options: Any) -> list[PinnedImage]:
    selections = selections or (Selection("kolla"),)
    return [image async for image in discover(selections, catalog, "quay.io", **options)]


async def slow_first(name: str) -> None:
    await anyio.sleep(0.05 if name.endswith("00000") else 0)


async def test_strict_images_come_in_the_order_of_the_listing() -> None:
    expected = [f"{number:05}" for number in range(100)]
    assert names(await found(Catalog(100, slow_first), strict=True)) == expected
    as_found = names(await found(Catalog(100, slow_first)))
    assert sorted(as_found) == expected
    assert as_found[0] != "00000"


async def test_a_failed_check_is_an_event_or_if_strict_raised_in_its_place() -> None:
    async def fail(name: str) -> None:
        if name.endswith("00007"):
            raise Unavailable("503")

    events: list[Event] = []
    assert len(await found(Catalog(20, fail), observer=events.append)) == 19
    (failed,) = [event for event in events if isinstance(event, CheckFailed)]
    assert (failed.repository, failed.tag, failed.error.message) == ("quay.io/kolla/image-00007", "latest", "503")

    images: list[PinnedImage] = []
    with pytest.raises(Unavailable):
        await collect(discover([Selection("kolla")], Catalog(20, fail), "quay.io", strict=True), images)

    assert names(images) == [f"{number:05}" for number in range(7)]


@pytest.mark.parametrize("strict", [True, False])
async def test_refused_credentials_end_it(strict: bool) -> None:
    async def refuse(name: str) -> None:
        if name.endswith("00007"):
            raise CredentialsRefused("expired")

    with pytest.raises(CredentialsRefused):
        await found(Catalog(1_000, refuse), strict=strict)


async def test_strict_images_listed_before_the_listing_broke_off_come_before_the_error() -> None:
    async def fail(name: str) -> None:
        if name.endswith("00010"):
            raise Unavailable("503")

    images: list[PinnedImage] = []
    with pytest.raises(DiscoveryIncomplete, match="can't list 'kolla' after 5 pages: 503"):
        await collect(discover([Selection("kolla")], Catalog(20, slow_first, fail), "quay.io", strict=True), images)

    assert names(images) == [f"{number:05}" for number in range(10)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("where", ["before", "page"])
async def test_a_bug_is_raised_and_nothing_waits_for_ever(strict: bool, where: str) -> None:
    async def crash(name: str) -> None:
        if name.endswith("00010"):
            raise ZeroDivisionError

    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup) as caught:
        await found(Catalog(100, **{where: crash}), strict=strict)

    assert caught.group_contains(ZeroDivisionError)


async def test_an_image_of_several_selections_comes_once() -> None:
    events: list[Event] = []
    selections = [Selection("kolla", "*0"), Selection("kolla", "*"), Selection("kolla", pinned=pins(30))]
    assert len(await found(Catalog(30), *selections, observer=events.append)) == 30
    assert sum(isinstance(event, TagChecked) for event in events) == 30
    assert sum(event.images for event in events if isinstance(event, CandidateChecked)) == 30


def pins(count: int) -> tuple[Pin, ...]:
    return tuple(Pin(f"image-{number:05}", "latest", DIGEST) for number in range(count))


async def test_pinned_images_are_not_looked_up() -> None:
    catalog = Catalog(0)
    assert [image.digest for image in await found(catalog, Selection("kolla", pinned=pins(3)))] == [DIGEST] * 3
    assert catalog.server.asked == []


async def test_an_empty_selection_is_raised_after_the_images_of_the_others() -> None:
    images: list[PinnedImage] = []
    selections = [Selection("kolla", "zzz"), Selection("unheard-of"), Selection("kolla")]
    with pytest.raises(SelectionEmpty, match="matches zzz"):
        await collect(discover(selections, Catalog(3), "quay.io"), images)

    assert len(images) == 3


@pytest.mark.parametrize("strict", [True, False])
async def test_the_listing_runs_ahead_within_bounds(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_AHEAD", 50)
    catalog = Catalog(1_000)
    async with aclosing(discover([Selection("kolla")], catalog, "quay.io", strict=strict)) as images:
        await anext(images)
        await anyio.wait_all_tasks_blocked()
        assert 40 <= catalog.listed <= 60
        assert len([image async for image in images]) == 999


async def test_when_it_is_closed_nothing_is_asked_any_more() -> None:
    catalog = Catalog(2_000)
    async with aclosing(discover([Selection("kolla")], catalog, "quay.io")) as images:
        async for _ in images:
            break

    asked = len(catalog.server.asked)
    await anyio.sleep(0.05)
    assert len(catalog.server.asked) == asked < 100


@pytest.mark.filterwarnings("error")
async def test_when_it_is_dropped_nothing_is_asked_any_more() -> None:
    catalog = Catalog(2_000)
    async for _ in discover([Selection("kolla")], catalog, "quay.io"):
        break

    gc.collect()
    await anyio.sleep(0.05)
    asked = len(catalog.server.asked)
    await anyio.sleep(0.05)
    assert len(catalog.server.asked) == asked < 2_000


async def test_the_consumer_may_limit_the_time_of_each_step() -> None:
    catalog = Catalog(40, slow_first)
    images = discover([Selection("kolla")], catalog, "quay.io", strict=True)
    steps = 0
    async with aclosing(images):
        while True:
            with anyio.move_on_after(5):
                if await anext(images, None) is None:
                    break

            steps += 1

    assert steps == 40


async def test_a_cancelled_consumer_takes_discovery_along() -> None:
    catalog = Catalog(100, lambda _: anyio.sleep(60))
    with anyio.move_on_after(0.05) as scope:
        await found(catalog)

    assert scope.cancelled_caught


async def test_a_failure_does_not_interrupt_what_the_consumer_awaits() -> None:
    async def fail(name: str) -> None:
        if name.endswith("00001"):
            raise CredentialsRefused("expired")

    steps = 0

    async def consume() -> None:
        nonlocal steps
        async for _ in discover([Selection("kolla")], Catalog(1_000, fail), "quay.io"):
            await anyio.sleep(0.01)
            steps += 1

    with pytest.raises(CredentialsRefused):
        await consume()

    assert steps > 0


def test_a_pinned_image_has_a_digest() -> None:
    with pytest.raises(ValueError, match="not pinned"):
        PinnedImage(Reference(Repository("quay.io", "kolla/nova"), "latest"))
