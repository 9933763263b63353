"""Nightly runs: the requests they save, the changes they notice, and the files they leave."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import layouts
import pytest
from click.testing import CliRunner
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Selection, Status
from quaymirror.catalog.base import Discovery
from quaymirror.cli.main import main
from quaymirror.errors import ExitCode
from quaymirror.events import StopRequested
from quaymirror.run.report import Report
from quaymirror.testing import DribbleBody, Fault, Hold, QuayServer, Registry
from quaymirror.testing import Status as Answer

EVERYTHING = Selection("kolla", "*", TAG)
HOUR, DAY = 3600.0, 86_400.0


@dataclass
class Clock:
    """The server's clock, advanced by the test."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def organization(count: int, clock: Clock) -> Registry:
    """Return a registry of `count` repositories, all with the same small image, pushed an hour ago."""
    registry = Registry(now=clock)
    kolla = registry.organization("kolla")
    image = small_image("same")
    for number in range(count):
        kolla.repository(f"image-{number:04}").push(TAG, image)

    clock.advance(HOUR)
    return registry


async def night(server: QuayServer, mirror: Path, selection: Selection = EVERYTHING, **options: Any) -> Report:
    """Run once, after clearing the recorded requests."""
    server.reset_records()
    return await quaymirror.sync(selection, mirror, Options.of(server=server.url, **options))


def checked(server: QuayServer) -> list[str]:
    """Return the repositories whose tag was looked up (not those whose tags were listed for suggestions)."""
    requests = [r for r in server.requests if r.path.endswith("/tag/") and "specificTag" in r.query]
    return sorted(r.path.split("/")[5] for r in requests)


# Modules with much code, none of which a night without changes needs.
_UNNEEDED = (
    "aiohttp.web",
    "cryptography",
    "difflib",
    "jinja2",
    "multiprocessing",
    "obstore",
    "occystrap",
    "quaymirror.carry",
    "quaymirror.config",
    "quaymirror.emit",
    "quaymirror.registry.push",
    "quaymirror.serve",
    "quaymirror.store.bucket",
    "quaymirror.trust",
    "quaymirror.ui.dashboard",
    "rich",
    "sigstore",
    "tenacity",
    "yaml",
)


async def test_a_night_without_changes_imports_nothing_that_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUAYMIRROR_SERVER")  # its name would be checked
    async with QuayServer(organization(3, Clock())) as server:
        await night(server, tmp_path / "mirror")
        words = f"sync kolla * {TAG} --server {server.url} --to {tmp_path / 'mirror'} --progress none"
        command = [sys.executable, "-X", "importtime", "-m", "quaymirror", *words.split()]
        done = await anyio.run_process(command, check=True)

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert {"aiohttp", "quaymirror.run.sync"} <= imported
    assert not imported.intersection(_UNNEEDED)


async def test_an_unchanged_organization_of_1000_repositories_costs_10_requests(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1000, clock)
    async with QuayServer(registry) as server:
        first = await night(server, tmp_path / "mirror")
        clock.advance(DAY)
        second = await night(server, tmp_path / "mirror")
        assert len(server.requests) == 10
        assert server.count("^/api/v1/repository$") == 10

        clock.advance(DAY)
        kolla = registry.organization("kolla")
        for number in (7, 500, 999):
            kolla.repository(f"image-{number:04}").push(TAG, small_image(f"new {number}"))

        clock.advance(HOUR)
        third = await night(server, tmp_path / "mirror")
        assert checked(server) == ["image-0007", "image-0500", "image-0999"]
        about = {tuple(r.path.split("/")[2:4]) for r in server.requests if r.path.startswith("/v2/")}
        assert about == {("kolla", name) for name in checked(server)}
        # Ten pages, and for each changed one: its tag, its manifest, config and layer, which the CDN answers, its
        # digest tags and its referrers.
        # At the end ten pages show that nothing else has moved.
        assert len(server.requests) == 2 * 10 + 3 * (1 + 1 + 2 * 2 + 1 + 1)

    assert first.counts == {Status.MIRRORED: 1000, Status.SKIPPED: 0}
    assert second.counts == {Status.UNCHANGED: 1000, Status.SKIPPED: 0}
    assert third.counts == {Status.UNCHANGED: 997, Status.MIRRORED: 3, Status.SKIPPED: 0}
    assert third.changes is not None
    assert [name.rpartition("/")[2] for name in third.changes.moved] == [f"image-{n:04}:{TAG}" for n in (7, 500, 999)]


async def test_a_repository_without_the_tag_is_not_asked_again_until_something_is_pushed(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1, clock)
    other = registry.organization("kolla").repository("other")
    other.push("2024.1", small_image("other"))
    registry.organization("kolla").repository("empty")
    clock.advance(HOUR)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        clock.advance(DAY)
        second = await night(server, tmp_path / "mirror")
        assert checked(server) == []
        other.push(TAG, small_image("other"))
        clock.advance(HOUR)
        third = await night(server, tmp_path / "mirror")
        assert checked(server) == ["other"]

    assert dict(second.skipped) == {"no such tag": 1, "no tags": 1}
    assert third.counts == {Status.UNCHANGED: 1, Status.MIRRORED: 1, Status.SKIPPED: 1}


async def test_a_push_in_the_seconds_around_a_check_is_not_missed(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1, clock)
    repository = registry.organization("kolla").repository("image-0000")
    async with QuayServer(registry) as server:
        repository.push(TAG, small_image("first"))  # in the very second of the check
        await night(server, tmp_path / "mirror")
        repository.push(TAG, small_image("second"))
        clock.advance(DAY)
        await night(server, tmp_path / "mirror")

    assert layouts.names(tmp_path / "mirror") == {f"kolla/image-0000:{TAG}": small_image("second").digest}


async def test_another_tag_another_server_or_a_clock_that_went_back_are_checked(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(2, clock)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        await night(server, tmp_path / "mirror", Selection("kolla", "*", "2024.1"))
        assert len(checked(server)) == 2
        clock.advance(-DAY)
        await night(server, tmp_path / "mirror")
        assert len(checked(server)) == 2

    clock.advance(2 * DAY)
    async with QuayServer(registry) as server:  # the same content on another port
        await night(server, tmp_path / "mirror")
        assert len(checked(server)) == 2


async def test_a_deleted_tag_is_noticed_by_the_full_check_every_week_or_when_asked(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(3, clock)
    kolla = registry.organization("kolla")
    kolla.repository("image-0001").push("newer", small_image("newer"))
    clock.advance(HOUR)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        kolla.repository("image-0001").delete_tag(TAG)  # last_modified stays: an older tag goes
        clock.advance(DAY)
        blind = await night(server, tmp_path / "mirror")
        assert checked(server) == []
        seeing = await night(server, tmp_path / "mirror", full_check_every=0.0)
        assert len(checked(server)) == 3
        clock.advance(8 * DAY)
        await night(server, tmp_path / "mirror")
        assert len(checked(server)) == 3

    assert blind.counts[Status.UNCHANGED] == 3
    assert seeing.counts[Status.UNCHANGED] == 2
    assert seeing.changes is not None
    assert [name.rpartition("/")[2] for name in seeing.changes.gone] == [f"image-0001:{TAG}"]


async def test_a_tag_that_expires_is_checked_when_its_time_has_come(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1, clock)
    repository = registry.organization("kolla").repository("image-0000")
    repository.push("keeps", small_image("keeps"))
    repository.set_expiry(TAG, clock.now + 3 * DAY)
    clock.advance(HOUR)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        clock.advance(DAY)
        await night(server, tmp_path / "mirror")
        assert checked(server) == []
        clock.advance(3 * DAY)
        report = await night(server, tmp_path / "mirror", allow_empty=True)
        assert checked(server) == ["image-0000"]

    assert dict(report.skipped) == {"no such tag": 1}


async def test_an_image_that_failed_is_fetched_the_next_night_without_asking_for_its_tag(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(2, clock)
    async with QuayServer(registry) as server:
        server.faults.append(Fault("^/v2/kolla/image-0001/manifests/", Answer(400)))
        first = await night(server, tmp_path / "mirror")
        server.faults.clear()
        clock.advance(DAY)
        second = await night(server, tmp_path / "mirror")
        assert checked(server) == []

    assert first.counts[Status.FAILED] == 1
    assert second.counts == {Status.UNCHANGED: 1, Status.MIRRORED: 1, Status.SKIPPED: 0}
    assert len(layouts.names(tmp_path / "mirror")) == 2


async def test_an_image_that_was_lost_is_fetched_again_although_nothing_changed(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1, clock)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        for blob in (tmp_path / "mirror" / "blobs" / "sha256").iterdir():
            blob.unlink()

        clock.advance(DAY)
        report = await night(server, tmp_path / "mirror")

    assert report.counts[Status.MIRRORED] == 1
    layouts.check(tmp_path / "mirror")


async def test_since_judges_by_what_is_remembered_of_the_tag(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1, clock)
    pushed = clock.now - HOUR
    registry.organization("kolla").repository("image-0000").push("newer", small_image("newer"))
    clock.advance(HOUR)
    since = Selection("kolla", "*", TAG, since=_utc(pushed + 60))
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        report = await night(server, tmp_path / "mirror", since, allow_empty=True)
        assert checked(server) == []

    assert dict(report.skipped) == {"not updated since": 1}


async def test_a_dry_run_uses_the_memory_and_leaves_it_alone(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(2, clock)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        history = (tmp_path / "mirror" / ".quaymirror" / "history.db").read_bytes()
        clock.advance(DAY)
        await night(server, tmp_path / "mirror", dry_run=True)
        assert len(server.requests) == 1
        await night(server, tmp_path / "nowhere", dry_run=True)

    assert (tmp_path / "mirror" / ".quaymirror" / "history.db").read_bytes() == history
    assert not (tmp_path / "nowhere").exists()


async def test_a_damaged_history_costs_a_full_check_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(2, clock)
    said: list[str] = []
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        path = tmp_path / "mirror" / ".quaymirror" / "history.db"
        path.write_bytes(b"\xff" * 5000)
        clock.advance(DAY)
        server.reset_records()
        report = await quaymirror.sync(
            EVERYTHING,
            tmp_path / "mirror",
            Options.of(server=server.url),
            observer=lambda event: said.append(getattr(event, "message", "")),
        )
        assert len(checked(server)) == 2

    assert report.exit_code is ExitCode.OK
    assert any("history.db was damaged and is set aside" in line for line in said)


async def test_what_came_went_and_moved_since_the_last_complete_run_is_reported(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(4, clock)
    kolla = registry.organization("kolla")
    async with QuayServer(registry) as server:
        first = await night(server, tmp_path / "mirror")
        kolla.repository("new").push(TAG, small_image("new"))
        kolla.repository("image-0001").push(TAG, small_image("moved"))
        kolla.delete_repository("image-0002")
        server.faults.append(Fault("/image-0003/tag/$", Answer(400)))
        kolla.repository("image-0003").push("other", small_image("other"))
        clock.advance(DAY)
        broken = await night(server, tmp_path / "mirror")
        server.faults.clear()
        report = await night(server, tmp_path / "mirror")

    # An unchecked image counts as neither missing nor moved, and not as new when it can be checked again.
    for changes in (broken.changes, report.changes):
        assert changes is not None
        assert (changes.since, changes.before) == (first.run_id, 4)
        assert [_short(name) for name in changes.came] == ["new"]
        assert [_short(name) for name in changes.gone] == ["image-0002"]
        assert [_short(name) for name in changes.moved] == ["image-0001"]

    assert report.changes is not None
    assert report.changes.to_json()["gone"] == list(report.changes.gone)
    assert report.to_json()["changes"] == report.changes.to_json()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"expect_at_least": 8}, ExitCode.OK, ""),
        ({"expect_at_least": 9}, ExitCode.UNAVAILABLE, "only 8 images were found, fewer than the expected 9"),
        ({"max_missing": 20.0}, ExitCode.OK, ""),
        ({"max_missing": 19.9}, ExitCode.UNAVAILABLE, "2 of 10 images are gone since run"),
    ],
)
async def test_an_organization_that_shrinks_suddenly_fails_the_run_but_what_is_there_is_mirrored(
    tmp_path: Path, options: dict[str, Any], code: ExitCode, words: str
) -> None:
    clock = Clock()
    registry = organization(10, clock)
    kolla = registry.organization("kolla")
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")
        kolla.delete_repository("image-0002")
        kolla.delete_repository("image-0003")
        kolla.repository("image-0001").push(TAG, small_image("moved"))
        clock.advance(DAY)
        report = await night(server, tmp_path / "mirror", **options)

    assert report.exit_code is code
    assert words in (report.fatal.message if report.fatal else "")
    assert layouts.names(tmp_path / "mirror")[f"kolla/image-0001:{TAG}"] == small_image("moved").digest


async def test_a_run_that_may_take_no_longer_finishes_what_is_in_flight_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.run.sync._OVERTIME_SHARE", 30.0)  # on a busy machine
    clock = Clock()
    registry = Registry(now=clock)
    for number in range(50):
        registry.organization("kolla").repository(f"image-{number:02}").push(TAG, small_image(f"own {number}"))

    held = asyncio.Event()
    async with QuayServer(registry) as server:
        # The first image is in flight until the time is up, however slow or fast this machine is.
        server.faults.append(Fault("/blobs/", Hold(held), nth=1))
        first = await quaymirror.sync(
            EVERYTHING,
            tmp_path / "mirror",
            Options.of(server=server.url, concurrency=1, max_duration=1.0),
            observer=lambda event: held.set() if isinstance(event, StopRequested) else None,
        )
        second = await night(server, tmp_path / "mirror")

    assert first.exit_code is ExitCode.PARTIAL
    assert first.stopped == "the time limit was reached"
    assert first.counts[Status.MIRRORED] == 1
    assert not first.counts[Status.FAILED]
    assert second.counts[Status.UNCHANGED] == 1
    assert second.counts[Status.MIRRORED] == 49


async def test_a_run_ends_some_time_after_its_limit_whatever_is_in_flight(tmp_path: Path) -> None:
    registry = Registry()
    for name in ("fast", "slow"):
        registry.organization("kolla").repository(name).push(TAG, small_image(name, 400_000))

    layer = small_image("slow", 400_000).blobs[1].digest.partition(":")[2]
    async with QuayServer(registry) as server:
        server.faults.append(Fault(layer, DribbleBody(2048, 0.1)))
        began = time.monotonic()
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url, max_duration=1.0))
        assert 1.0 < time.monotonic() - began < 8, "without the limit 20 s"
        server.faults.clear()
        server.reset_records()
        again = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))

    assert report.exit_code is ExitCode.PARTIAL
    assert report.stopped == "the time limit was reached"
    assert report.counts[Status.MIRRORED] == 1
    assert again.exit_code is ExitCode.OK


async def test_every_run_is_in_the_history_with_its_outcomes(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(2, clock)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        server.faults.append(Fault("^/v2/kolla/image-0001/manifests/", Answer(400)))
        first = await night(server, mirror)
        server.faults.clear()
        second = await night(server, mirror)

    words = ["history", "--to", str(mirror)]
    table = CliRunner().invoke(main, words, standalone_mode=False).output.splitlines()
    assert [line.split()[0] for line in table] == ["run", second.run_id, first.run_id]
    assert "exit 3" in table[2]
    rows = json.loads(CliRunner().invoke(main, [*words, "--json"], standalone_mode=False).output)
    assert [row["id"] for row in rows] == [second.run_id, first.run_id]
    assert rows[1]["images"] == {"mirrored": 1, "unchanged": 0, "skipped": 0, "failed": 1, "refused": 0}
    report = json.loads(CliRunner().invoke(main, ["history", first.run_id, *words[1:], "--json"]).output)
    assert report == json.loads(json.dumps(first.to_json()))
    text = CliRunner().invoke(main, ["history", first.run_id[:6], *words[1:]], standalone_mode=False).output
    assert "failed" in text
    assert "400" in text


@pytest.mark.parametrize(("words", "complaint"), [([], "no run found for"), (["ffffffffff"], "no run has an id")])
async def test_a_history_that_is_not_there_is_told_in_one_line(
    tmp_path: Path, words: list[str], complaint: str
) -> None:
    mirror = tmp_path / "mirror"
    if words:
        clock = Clock()
        async with QuayServer(organization(1, clock)) as server:
            await night(server, mirror)

    result = CliRunner().invoke(main, ["history", *words, "--to", str(mirror)], standalone_mode=False)
    assert isinstance(result.exception, quaymirror.QuaymirrorError)
    assert complaint in str(result.exception)


def _short(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _utc(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


async def test_what_the_registry_was_asked_for_is_asked_again_when_its_age_counts(tmp_path: Path) -> None:
    clock = Clock()
    registry = organization(1, clock)
    since = Selection("kolla", "*", TAG, since=_utc(clock.now - 60))
    registry.organization("kolla").repository("image-0000").push("newer", small_image("newer"))
    clock.advance(HOUR)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror", discovery=Discovery.REGISTRY)
        assert checked(server) == []
        report = await night(server, tmp_path / "mirror", since, allow_empty=True)
        assert checked(server) == ["image-0000"]

    assert dict(report.skipped) == {"not updated since": 1}
