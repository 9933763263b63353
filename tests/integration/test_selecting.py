"""Several tags, globs for them, and help when nothing matched; against the Quay-like server."""

from __future__ import annotations

from pathlib import Path

import layouts
import pytest

import quaymirror
from quaymirror.errors import ExitCode, SelectionEmpty
from quaymirror.events import CandidateSkipped, CheckFailed, Event, TagChecked
from quaymirror.referrers.choice import ReferrerMode
from quaymirror.run.sync import run_sync
from quaymirror.selection.selection import Pin, Selection
from quaymirror.testing import Fault, QuayServer, Registry, Status, kolla_like

TAGS = ("2025.1-debian", "2025.1-debian-20250601", "2024.2-rocky")


def tagged(images: int = 3, tags: tuple[str, ...] = TAGS) -> Registry:
    registry = Registry()
    kolla = registry.organization("kolla")
    for name, image in kolla_like(images).items():
        for tag in tags:
            kolla.repository(name).push(tag, image)

    return registry


async def found(server: QuayServer, selection: Selection) -> list[str]:
    settings = quaymirror.Options.of(server=server.url)
    return sorted([image.reference.name async for image in quaymirror.discover(selection, settings)])


async def test_tags_and_globs_for_tags_are_found_each_once() -> None:
    registry = tagged()
    async with QuayServer(registry) as server:
        names = sorted(registry.organization("kolla").repositories)
        both = await found(server, Selection("kolla", "*", "2025.1-debian*,2025.1-debian"))
        assert both == sorted(f"kolla/{name}:{tag}" for name in names for tag in TAGS[:2])
        assert len(await found(server, Selection("kolla", names[0], "*"))) == len(TAGS)
        assert await found(server, Selection("kolla", f"{names[0]},{names[1]}", "2024.2-[q-s]*")) == [
            f"kolla/{name}:2024.2-rocky" for name in names[:2]
        ]


async def test_more_tags_than_a_page_has_are_paged() -> None:
    registry = tagged(images=1, tags=tuple(f"build-{number}" for number in range(230)))
    async with QuayServer(registry) as server:
        assert len(await found(server, Selection("kolla", "*", "build-*"))) == 230


async def test_all_tags_of_a_selection_land_in_one_mirror(tmp_path: Path) -> None:
    async with QuayServer(tagged()) as server:
        report = await quaymirror.sync(
            Selection("kolla", "*", "2025.1*"), tmp_path / "mirror", quaymirror.Options.of(server=server.url)
        )

    assert report.exit_code is ExitCode.OK
    assert len(layouts.names(tmp_path / "mirror")) == 6
    layouts.check(tmp_path / "mirror")


async def test_selections_of_one_run_share_it_and_an_image_of_both_is_mirrored_once(tmp_path: Path) -> None:
    registry = tagged()
    events: list[Event] = []
    async with QuayServer(registry) as server:
        selections = [Selection("kolla", "*", "2025.1-debian"), Selection("kolla", "*", "2025.1*")]
        settings = quaymirror.Options.of(server=server.url)
        report = await run_sync(selections, tmp_path / "mirror", settings, observer=events.append)

    assert report.exit_code is ExitCode.OK
    assert len(report.outcomes) == 6
    assert sum(isinstance(event, TagChecked) for event in events) == 6


async def test_an_empty_selection_of_several_does_not_end_the_others(tmp_path: Path) -> None:
    async with QuayServer(tagged()) as server:
        selections = [Selection("kolla", "zzz", "x"), Selection("kolla", "*", "2025.1-debian")]
        report = await run_sync(selections, tmp_path / "mirror", quaymirror.Options.of(server=server.url))

    assert len(report.outcomes) == 3
    assert report.exit_code is ExitCode.EMPTY


async def test_pinned_images_are_mirrored_although_their_tag_has_moved(tmp_path: Path) -> None:
    # Quay stops serving an image without a tag: another tag keeps it.
    registry = tagged(images=1, tags=("latest", "build-1"))
    (name,) = registry.organization("kolla").repositories
    async with QuayServer(registry) as server:
        settings = quaymirror.Options.of(server=server.url, referrers=ReferrerMode.NONE)
        (image,) = [image async for image in quaymirror.discover(Selection("kolla"), settings)]
        registry.organization("kolla").repository(name).push("latest", next(iter(kolla_like(1, seed="x").values())))
        assert image.reference.digest is not None
        pinned = Selection("kolla", pinned=(Pin(name, "latest", image.reference.digest),))
        before = server.count("^/api/")
        report = await quaymirror.sync(pinned, tmp_path / "mirror", settings)
        assert server.count("^/api/") == before

    assert report.exit_code is ExitCode.OK
    assert [outcome.reference.digest for outcome in report.outcomes] == [image.reference.digest]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            Selection("kolla", "*", "2025.1-debain"),
            "no repository of kolla has the tag 2025.1-debain; nearest: 2025.1-debian",
        ),
        (Selection("kolla", "*", "debian*"), "no repository of kolla has the tag debian*; nearest: 2025.1-debian"),
        (Selection("kolla", "nvoa-api", "x"), "no repository of kolla matches nvoa-api; nearest: nova-api"),
        (Selection("kolla", "zzzz*", "x"), "no repository of kolla matches zzzz*"),
    ],
    ids=["tag", "tag glob", "repository", "nothing near"],
)
async def test_a_selection_without_images_says_what_is_near(selection: Selection, message: str, tmp_path: Path) -> None:
    registry = tagged(images=1)
    registry.organization("kolla").repository("nova-api").push("2025.1-debian", next(iter(kolla_like(1).values())))
    async with QuayServer(registry) as server:
        with pytest.raises(SelectionEmpty) as caught:
            await found(server, selection)

        report = await quaymirror.sync(selection, tmp_path / "mirror", quaymirror.Options.of(server=server.url))

    assert caught.value.message.startswith(message)
    assert report.fatal is not None
    assert report.fatal.message == caught.value.message
    assert report.exit_code is ExitCode.EMPTY


async def test_a_check_that_fails_for_a_tag_glob_is_a_failure_with_its_words(tmp_path: Path) -> None:
    events: list[Event] = []
    async with QuayServer(tagged()) as server:
        server.faults.append(Fault(r".*/tag/.*", Status(403), listener="quay"))
        settings = quaymirror.Options.of(server=server.url, retries=0)
        report = await quaymirror.sync(
            Selection("kolla", "*", "2025.1*"), tmp_path / "mirror", settings, observer=events.append
        )

    assert report.exit_code is ExitCode.CREDENTIALS
    assert len([event for event in events if isinstance(event, CheckFailed)]) == 3
    assert {outcome["reference"].partition(":2")[2] for outcome in report.to_json()["outcomes"]} == {"025.1*"}
    assert not [event for event in events if isinstance(event, CandidateSkipped)]
