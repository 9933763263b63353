"""Listings that are wrong, endless, or change while they are read: all images are found, or the run is incomplete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import layouts
import pytest
from aiohttp import web
from organizations import TAG, small_image
from trouble import GLANCE, NOVA, messages, mirror, two_images

import quaymirror
from quaymirror import Options, ReferrerMode, Selection
from quaymirror.catalog.quay import tags
from quaymirror.discovery import listing as discovery
from quaymirror.errors import DiscoveryIncomplete, ExitCode
from quaymirror.events import Event, Notice
from quaymirror.secret import Secret
from quaymirror.testing import Call, Fault, QuayServer, Registry, ReplaceBody, RequestRecord

LISTING, TAGS = "^/api/v1/repository$", "/kolla/nova/tag/$"
Pages = Iterator[dict[str, Any]]


def pages(documents: Pages) -> Call:
    """Answer each request for a page with the next of `documents`."""
    return Call(lambda _: web.json_response(next(documents)))


def entry(name: object, **more: object) -> dict[str, object]:
    return {"namespace": "kolla", "name": name, "last_modified": 5, **more}


def cycle() -> Pages:
    """Two pages, each of which is before the other."""
    for number in count():
        yield {"repositories": [entry(f"page-{number % 2}")], "next_page": "AB"[number % 2]}


def stuck() -> Pages:
    """A new page each time, and never a new name."""
    for number in count():
        yield {"repositories": [entry("nova"), entry("glance")], "next_page": f"token-{number}"}


def endless(size: int) -> Pages:
    """New names for ever."""
    for number in count():
        names = (entry(f"image-{number}-{each}", last_modified=None) for each in range(size))
        yield {"repositories": list(names), "next_page": f"token-{number}"}


def dripping() -> Pages:
    """A new name now and then, among many that are none."""
    for number in count():
        yield {"repositories": [entry(f"image-{number}", last_modified=None), *[5] * 9_999], "next_page": f"{number}"}


ENDLESS: dict[str, tuple[Callable[[], Pages], str]] = {
    "two pages that follow each other": (cycle, "goes in circles"),
    "a new page each time and no new name": (stuck, "does not advance"),
    "new names for ever": (lambda: endless(100), "more than 2,000 repositories"),
    "new pages for ever": (lambda: endless(1), "more than 100 pages"),
    "a million entries that are none": (dripping, "more than 100 pages"),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_a_listing_without_an_end_is_given_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_MAX_PAGES", 100)
    make, says = ENDLESS[name]
    notices: list[Event] = []
    async with QuayServer(two_images()) as server:
        server.faults.append(fault := Fault(LISTING, pages(make())))
        report = await mirror(
            server,
            tmp_path / "mirror",
            lambda event: notices.append(event) if isinstance(event, Notice) else None,
            max_repositories=2_000,
        )

    assert report.exit_code is ExitCode.UNAVAILABLE, messages(report)
    assert says in messages(report)[-1]
    assert fault.fired <= 101
    assert len(notices) <= 11 * fault.fired


async def test_a_page_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    """Eight megabytes of brackets are a hundred of memory, and a million lines of a log."""
    body = b'{"repositories": [' + b"[]," * 2_500_000 + b"5]}"
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(LISTING, ReplaceBody(body)))
        report = await mirror(server, tmp_path / "mirror", retries=0)

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert messages(report) == [
        "can't list 'kolla': the API's answer has 2,500,001 repositories; the limit of a page is 10,000"
    ]


async def test_a_next_page_token_without_end_is_not_used(tmp_path: Path) -> None:
    """It would be sent back as part of a URL."""
    body = json.dumps({"repositories": [entry("nova")], "next_page": "x" * 5_000_000}).encode()
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(LISTING, ReplaceBody(body)))
        report = await mirror(server, tmp_path / "mirror", retries=0)
        assert server.count(LISTING) == 1

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert messages(report) == ["can't list 'kolla': the API's next page has a name of 5,000,000 characters"]


async def test_a_repository_that_is_listed_twice_is_there_once() -> None:
    """On one page as on several."""
    body = json.dumps({"repositories": [entry("nova"), entry("nova"), entry("glance")]}).encode()
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(LISTING, ReplaceBody(body)))
        found = quaymirror.discover(Selection("kolla", "*", TAG), Options.of(server=server.url))
        assert sorted([image.reference.name async for image in found]) == [GLANCE, NOVA]


async def test_a_listing_of_nothing_but_nonsense_is_not_an_empty_organization(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(LISTING, ReplaceBody(json.dumps({"repositories": [5, None, entry(5)]}).encode())))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "all of them invalid" in messages(report)[0]


async def test_a_repository_that_vanishes_between_two_pages_takes_no_other_along(tmp_path: Path) -> None:
    registry = Registry()
    kolla = registry.organization("kolla")
    for number in range(150):
        kolla.repository(f"image-{number:03}").push(TAG, small_image("all of them"))

    def vanish(request: RequestRecord) -> None:
        if "next_page" in request.query:
            kolla.repositories.pop("image-000", None)
            kolla.repositories.pop("image-120", None)

    async with QuayServer(registry, on_request=vanish) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert {f"kolla/image-{n:03}:{TAG}" for n in range(1, 150) if n != 120} <= {*layouts.names(tmp_path / "mirror")}


# Tags that move while their list is read


def many_tags(number: int = 150) -> Registry:
    registry = Registry()
    for each in range(number):
        registry.organization("kolla").repository("nova").push(f"build-{each:03}", small_image("all of them"))

    return registry


async def found(server: QuayServer, glob: str = "build-*") -> set[str | None]:
    settings = Options.of(server=server.url, retries=0)
    images = quaymirror.discover(Selection("kolla", "*", glob), settings)
    return {image.reference.tag async for image in images}


@pytest.mark.parametrize("change", ["deleted", "pushed again"])
async def test_a_tag_that_goes_between_two_pages_hides_no_other(change: str) -> None:
    """With it, each tag after it moves up by one place, past the place where the next page begins."""
    registry = many_tags()
    nova, done = registry.organization("kolla").repository("nova"), list[RequestRecord]()

    def move(request: RequestRecord) -> None:
        if "page=2" in request.query and not done:
            done.append(request)
            if change == "deleted":
                nova.delete_tag("build-149")
            else:
                nova.push("build-010", small_image("another"))

    async with QuayServer(registry, on_request=move) as server:
        names = await found(server)

    gone = {"build-149"} if change == "deleted" else set()
    assert names == {f"build-{each:03}" for each in range(150)} - gone


async def test_tags_that_never_hold_still_are_no_list(tmp_path: Path) -> None:
    registry = many_tags()
    registry.organization("kolla").repository("glance").push("build-1", small_image("glance"))
    numbers = count()

    def push(request: RequestRecord) -> None:
        if "page=2" in request.query:
            registry.organization("kolla").repository("nova").push(f"build-x{next(numbers)}", small_image("new"))

    async with QuayServer(registry, on_request=push) as server:
        selection, settings = Selection("kolla", "*", "build-*"), Options.of(server=server.url, retries=0)
        report = await quaymirror.sync(selection, tmp_path / "mirror", settings)
        assert server.count(TAGS) <= 8

    assert report.exit_code is ExitCode.PARTIAL
    assert "kolla/nova: the list of its tags changed 4 times while it was read" in messages(report)[0]
    assert list(layouts.names(tmp_path / "mirror")) == ["kolla/glance:build-1"]


async def test_the_tags_of_one_page_are_read_once() -> None:
    """One page is one query of the database."""
    async with QuayServer(many_tags(100)) as server:
        assert len(await found(server)) == 100
        assert server.count(TAGS) == 1


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_repository_with_tags_for_ever_fails_alone(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "_MAX_PAGES", 50)
    monkeypatch.setattr(tags, "_MAX_TAGS", 5_000)
    digest, numbers = small_image("nova").digest, count()

    def more(_: object) -> web.Response:
        entries = [{"name": f"t{next(numbers)}", "manifest_digest": digest} for _ in range(size)]
        return web.json_response({"tags": entries, "has_additional": True})

    async with QuayServer(two_images()) as server:
        server.faults.append(fault := Fault(TAGS, Call(more)))
        selection, settings = Selection("kolla", "*", "*"), Options.of(server=server.url, retries=0)
        report = await quaymirror.sync(selection, tmp_path / "mirror", settings)

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert "kolla/nova: the list of its tags does not end" in messages(report)
    assert fault.fired <= 50
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


@pytest.mark.parametrize("name", ["unheard-of", "empty"])
async def test_an_empty_or_unknown_organization_is_reported_and_nothing_is_pruned(name: str, tmp_path: Path) -> None:
    registry = two_images()
    async with QuayServer(registry) as server:
        await mirror(server, tmp_path / "mirror")
        if name == "empty":
            registry.organization("kolla").repositories.clear()
        else:
            del registry.namespaces["kolla"]

        report = await mirror(server, tmp_path / "mirror", prune=True, grace=0, max_delete=100)

    assert report.exit_code is ExitCode.EMPTY
    assert "no organization 'kolla'" in messages(report)[0] or "no repositories" in messages(report)[0]
    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}


NAN, INFINITY = float("nan"), float("inf")
TIMES: list[object] = [0, -1, 253_402_300_800, 1_795_469_801_000, "1795469801", 1e300, NAN, INFINITY, 2**64, 0.5]
ODD: list[object] = [None, True, [], {}, *TIMES]


@pytest.mark.parametrize("moment", ODD, ids=repr)
async def test_a_time_that_makes_no_sense_keeps_nothing_from_being_mirrored(moment: object, tmp_path: Path) -> None:
    """A tag without a valid date counts as new, for --since and for the tag cache of a later run."""
    listed = [entry("nova", last_modified=moment if moment is not None else 1e3), entry("glance")]
    tag = {"name": TAG, "manifest_digest": small_image("nova", 400_000).digest, "start_ts": moment, "end_ts": moment}
    listing = {"repositories": listed}
    selection = Selection("kolla", "*", TAG, since=datetime(2026, 1, 1, tzinfo=UTC))
    async with QuayServer(two_images()) as server:
        server.faults += [
            Fault(LISTING, ReplaceBody(json.dumps(listing).encode())),
            Fault(TAGS, ReplaceBody(json.dumps({"tags": [tag]}).encode())),
        ]
        settings = Options.of(server=server.url, retries=0, referrers=ReferrerMode.NONE)
        first = await quaymirror.sync(selection, tmp_path / "mirror", settings)
        again = await quaymirror.sync(selection, tmp_path / "mirror", settings)
        assert server.count(TAGS) == 2, "the listing vouches for nothing"

    assert first.exit_code is again.exit_code is ExitCode.OK, messages(first)
    assert NOVA in layouts.names(tmp_path / "mirror")


async def test_a_repository_of_another_organization_is_left_out_and_reported(tmp_path: Path) -> None:
    notices: list[str] = []
    registry = two_images()
    registry.organization("other").repository("secret").push(TAG, small_image("other"))
    listing = {"repositories": [entry("glance"), {**entry("secret"), "namespace": "other"}, entry("../other/secret")]}
    async with QuayServer(registry) as server:
        server.faults.append(Fault(LISTING, ReplaceBody(json.dumps(listing).encode())))
        report = await mirror(
            server,
            tmp_path / "mirror",
            lambda event: notices.append(event.message) if isinstance(event, Notice) else None,
        )
        assert server.count("secret") == 0

    assert report.exit_code is ExitCode.PARTIAL
    assert report.rejected == 2
    assert "'secret' of another organization, 'other'" in notices[0]
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_an_api_token_that_does_not_count_any_more_ends_the_run_and_nothing_is_pruned(
    when: str, tmp_path: Path
) -> None:
    """Quay answers 200 with the public repositories, as if the others had been deleted."""
    registry = two_images()
    kolla = registry.organization("kolla")
    kolla.grant("me")
    kolla.repository("private", public=False).push(TAG, small_image("private"))
    registry.oauth_token("me", value="canary-of-a-token")
    options: dict[str, Any] = {"api_token": Secret("canary-of-a-token"), "full_check_every": 0.0}

    def expire(request: RequestRecord) -> None:
        if when == "at once" or "/tag/" in request.path:
            registry.oauth_tokens.clear()

    async with QuayServer(registry) as server:
        assert (await mirror(server, tmp_path / "mirror", **options)).exit_code is ExitCode.OK
        server.on_request = expire
        report = await mirror(server, tmp_path / "mirror", prune=True, grace=0, max_delete=100, **options)

    assert report.exit_code is ExitCode.CREDENTIALS, messages(report)
    assert "accepted" in messages(report)[-1]
    assert "canary" not in json.dumps(report.to_json())
    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE, f"kolla/private:{TAG}"}


async def test_images_listed_before_an_interruption_are_found_before_it_is_reported() -> None:
    def broken() -> Pages:
        yield {"repositories": [entry("nova")], "next_page": "more"}
        yield {"repositories": [entry("glance")], "next_page": "even more"}
        while True:
            yield {"repositories": 5}

    found: list[str] = []

    async def find(settings: Options) -> None:
        async for image in quaymirror.discover(Selection("kolla", "*", TAG), settings):
            found.append(image.reference.name)

    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(LISTING, pages(broken())))
        with pytest.raises(DiscoveryIncomplete):
            await find(Options.of(server=server.url, retries=0))

    assert found == [NOVA, GLANCE]
