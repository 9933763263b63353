"""Pruning over several nights: images that have disappeared for good are removed, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import pytest
from anyio.to_thread import run_sync
from crashes import blobs_there, check_whole
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, PruneOptions, Report, Selection
from quaymirror.cli import main
from quaymirror.errors import ConfigError, DiscoveryIncomplete, ExitCode, MirrorDamaged, StoreError
from quaymirror.events import Event, Notice
from quaymirror.oci import Digest
from quaymirror.run import pruning
from quaymirror.run.sync import run_sync as mirror_all
from quaymirror.secret import Secret
from quaymirror.selection.selection import Pin
from quaymirror.store import lock, state
from quaymirror.store.prune import READER_SECONDS, PruneProgress
from quaymirror.testing import Fault, QuayServer, Registry, ReplaceBody, bad_gateway

EVERYTHING = Selection("kolla", "*", TAG)
DAY = 86_400.0


class Clock:
    """A time of day that tests advance, for pruning."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 2_000_000_000.0
        monkeypatch.setattr("quaymirror.run.pruning.time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def night(server: QuayServer, mirror: Path, **changes: object) -> Report:
    settings = Options.of(server=server.url, prune=True, keep_last=1, max_delete=50, full_check_every=0)
    return await quaymirror.sync(EVERYTHING, mirror, settings.replace(**changes))


def retire(registry: Registry, name: str) -> None:
    registry.organization("kolla").repository(name).delete_tag(TAG)


async def test_an_image_is_untagged_after_a_week_and_its_blobs_are_deleted_half_a_day_later(
    tmp_path: Path, clock: Clock
) -> None:
    registry, images = kolla(6)
    last, mirror = list(images)[-1], tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await night(server, mirror)
        retire(registry, last)
        for _ in range(7):
            clock.now += DAY
            await night(server, mirror)
            assert f"kolla/{last}:{TAG}" in layouts.names(mirror)

        clock.now += DAY
        before = blobs_there(mirror)
        await night(server, mirror)
        assert f"kolla/{last}:{TAG}" not in layouts.names(mirror)
        assert blobs_there(mirror) == before, "a client may be copying it"
        clock.now += READER_SECONDS + 1
        await night(server, mirror)

    kept = {name: image for name, image in images.items() if name != last}
    contents = {node.digest for image in kept.values() for node in image.walk()}
    contents |= {digest for image in kept.values() for digest in image.all_blobs()}
    assert blobs_there(mirror) == contents
    assert layouts.check(mirror) == contents


async def test_an_image_that_reappears_stays_and_the_clock_restarts(tmp_path: Path, clock: Clock) -> None:
    registry, images = kolla(4)
    name, mirror = next(iter(images)), tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await night(server, mirror)
        for _ in range(2):
            retire(registry, name)
            clock.now += 5 * DAY
            await night(server, mirror)
            clock.now += 5 * DAY
            registry.organization("kolla").repository(name).push(TAG, images[name])
            await night(server, mirror)

        retire(registry, name)
        clock.now += 5 * DAY
        await night(server, mirror)

    assert len(layouts.names(mirror)) == 4


async def test_nothing_is_pruned_after_an_incomplete_discovery(tmp_path: Path, clock: Clock) -> None:
    registry, images = kolla(4)
    mirror, (name, other) = tmp_path / "mirror", list(images)[:2]
    async with QuayServer(registry) as server:
        await night(server, mirror)
        retire(registry, name)
        await night(server, mirror)
        clock.now += 8 * DAY
        for path in ("^/api/v1/repository$", f"/repository/kolla/{other}/tag/"):
            server.faults[:] = [Fault(path, bad_gateway())]
            report = await night(server, mirror, retries=0)
            assert report.exit_code in (ExitCode.UNAVAILABLE, ExitCode.PARTIAL)
            assert len(layouts.names(mirror)) == 4
            plan = await pruning.prune_layout(mirror, PruneOptions(grace=0.0, keep_last=1), dry_run=True)
            assert not plan.untag
            assert "was not complete" in plan.waiting[0].uncertain_because

        server.faults.clear()
        await night(server, mirror)

    assert len(layouts.names(mirror)) == 3


async def test_images_that_only_a_token_sees_stay_if_the_token_is_missing(tmp_path: Path, clock: Clock) -> None:
    registry = Registry()
    kolla_org = registry.organization("kolla")
    kolla_org.repository("public").push(TAG, small_image("public"))
    kolla_org.repository("secret", public=False).push(TAG, small_image("secret"))
    kolla_org.grant("operator")
    token = registry.oauth_token("operator", scopes=("repo:read",))
    mirror, events = tmp_path / "mirror", list[Event]()
    async with QuayServer(registry) as server:
        await night(server, mirror, api_token=Secret(token))
        assert len(layouts.names(mirror)) == 2
        for _ in range(2):
            clock.now += 8 * DAY
            settings = Options.of(server=server.url, prune=True, keep_last=1, max_delete=100, grace=0)
            await quaymirror.sync(EVERYTHING, mirror, settings, observer=events.append)

    assert len(layouts.names(mirror)) == 2
    assert any(isinstance(event, Notice) and "with an API token" in event.message for event in events)


async def test_an_organization_that_shrinks_too_much_is_pruned_on_request_only(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    registry, images = kolla(6)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await night(server, mirror)
        for name in list(images)[:4]:
            retire(registry, name)

        report = await night(server, mirror, grace=0)
        assert report.exit_code is ExitCode.UNAVAILABLE
        assert report.fatal is not None
        assert "4 of 6 images" in report.fatal.message
        assert len(layouts.names(mirror)) == 6
        # A run that fails because of too few images does not prune.
        report = await night(server, mirror, grace=0, max_delete=100, max_missing=10)
        assert report.exit_code is ExitCode.UNAVAILABLE
        assert len(layouts.names(mirror)) == 6
        report = await night(server, mirror, grace=0, max_delete=100)
        assert report.exit_code is ExitCode.OK

    assert set(layouts.names(mirror)) == {f"kolla/{name}:{TAG}" for name in list(images)[4:]}
    check_whole(mirror, layouts.names(mirror))


SINCE = Selection.parse_uri(f"quay://kolla/*:{TAG}?since=2025-01-01")
LOCK = Selection("kolla", "*", TAG, pinned=(Pin("nova-api", TAG, Digest.of(b"")),))


@pytest.mark.parametrize(
    ("selections", "is_layout"),
    [([SINCE], True), ([EVERYTHING, SINCE], True), ([LOCK], True), ([EVERYTHING], False)],
    ids=["since", "since beside another", "lock", "no layout"],
)
def test_options_that_exclude_pruning_are_refused(selections: list[Selection], is_layout: bool) -> None:
    with pytest.raises(ConfigError, match="--prune"):
        pruning.check(selections, Options.of(prune=True), is_prunable=is_layout)


async def test_a_lock_file_says_nothing_about_images_that_it_does_not_list(tmp_path: Path, clock: Clock) -> None:
    registry, images = kolla(4)
    mirror, name = tmp_path / "mirror", min(images)
    async with QuayServer(registry) as server:
        await night(server, mirror)
        pinned = Selection("kolla", "*", TAG, pinned=(Pin(name, TAG, Digest.parse(images[name].digest)),))
        await quaymirror.sync(pinned, mirror, Options.of(server=server.url))
        await night(server, mirror, grace=0, max_delete=100)

    assert len(layouts.names(mirror)) == 4


async def test_several_selections_prune_images_that_none_of_them_finds(tmp_path: Path, clock: Clock) -> None:
    registry, images = kolla(6)
    organization, mirror = registry.organization("kolla"), tmp_path / "mirror"
    first, second, *_ = sorted(images)
    selections = [Selection("kolla", "*", "2025.1*"), Selection("kolla", first, f"{TAG},other")]
    async with QuayServer(registry) as server:
        organization.repository(second).push("other", images[second])
        organization.repository(first).push("other", images[first])
        settings = Options.of(server=server.url, prune=True, keep_last=1, grace=0.0, max_delete=100, full_check_every=0)
        await mirror_all([*selections, Selection("kolla", "*", "other")], mirror, settings.replace(prune=False))
        assert len(layouts.names(mirror)) == 8
        organization.repository(second).delete_tag(TAG)
        organization.repository(first).delete_tag("other")
        organization.repository(second).delete_tag("other")
        await mirror_all(selections, mirror, settings)

    names = set(layouts.names(mirror))
    assert f"kolla/{second}:{TAG}" not in names
    assert f"kolla/{first}:other" not in names
    # No selection of this run is about it.
    assert f"kolla/{second}:other" in names
    assert len(names) == 6


async def test_other_selections_and_other_tools_keep_what_they_have(tmp_path: Path, clock: Clock) -> None:
    registry, images = kolla(3)
    mirror, name = tmp_path / "mirror", next(iter(images))
    registry.organization("kolla").repository(name).push("other", images[name])
    async with QuayServer(registry) as server:
        await quaymirror.sync(Selection("kolla", "*", "other"), mirror, Options.of(server=server.url))
        await night(server, mirror)
        document = json.loads((mirror / "index.json").read_bytes())
        foreign = next(entry for entry in document["manifests"] if TAG in str(entry))
        document["manifests"].append({**foreign, "annotations": {"org.opencontainers.image.ref.name": "theirs"}})
        (mirror / "index.json").write_text(json.dumps(document))
        for each in images:
            retire(registry, each)

        await night(server, mirror, grace=0, max_delete=100)

    assert set(layouts.names(mirror)) == {f"kolla/{name}:other", "theirs"}
    assert blobs_there(mirror) == layouts.check(mirror)


async def gone_mirror(tmp_path: Path) -> Path:
    """A mirror of ten images with a missing image and a moved one."""
    registry, images = kolla(10)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await quaymirror.sync(EVERYTHING, mirror, Options.of(server=server.url))
        retire(registry, list(images)[-1])
        registry.organization("kolla").repository(list(images)[-2]).push(TAG, small_image("moved"))
        await quaymirror.sync(EVERYTHING, mirror, Options.of(server=server.url, full_check_every=0))

    return mirror


def prune(*words: str) -> int:
    code = main.main(["prune", *words], standalone_mode=False)
    assert isinstance(code, int)
    return code


async def test_the_command_shows_its_plan_and_needs_an_option_to_carry_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await gone_mirror(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*")}
    assert await run_sync(prune, str(mirror)) == 0
    assert "within the grace period" in capsys.readouterr().out
    assert await run_sync(prune, str(mirror), "--grace", "0", "--keep-last", "1", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [image["name"] for image in plan["untag"]] == sorted(set(layouts.names(mirror)) - kept_names(mirror, plan))
    assert plan["remove"]
    assert before == {path: path.stat().st_mtime_ns for path in mirror.rglob("*")}
    assert await run_sync(prune, str(mirror), "--grace", "0", "--keep-last", "1", "--no-dry-run") == 0
    assert "Untagged 1 image" in capsys.readouterr().err
    assert len(layouts.names(mirror)) == 9
    assert blobs_there(mirror) == layouts.check(mirror)
    assert await run_sync(prune, str(mirror), "--grace", "0", "--keep-last", "1", "--no-dry-run") == 0
    assert "Nothing to prune." in capsys.readouterr().err


async def test_the_command_exceeds_its_limit_only_if_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = await gone_mirror(tmp_path)
    command = (str(mirror), "--grace", "0", "--keep-last", "1", "--max-delete", "5", "--yes")
    with pytest.raises(DiscoveryIncomplete, match="use --ignore-max-delete"):
        await run_sync(prune, *command)

    assert len(layouts.names(mirror)) == 10
    assert await run_sync(prune, *command, "--ignore-max-delete") == 0
    assert len(layouts.names(mirror)) == 9


def kept_names(mirror: Path, plan: dict[str, list[dict[str, str]]]) -> set[str]:
    return set(layouts.names(mirror)) - {image["name"] for image in plan["untag"]}


async def test_an_unreadable_manifest_stops_pruning_unless_the_state_knows_its_blobs(
    tmp_path: Path,
) -> None:
    mirror = await gone_mirror(tmp_path)
    digest = next(iter(layouts.names(mirror).values()))
    (mirror / "blobs" / digest.replace(":", "/")).unlink()
    plan = await pruning.prune_layout(mirror, PruneOptions(grace=0.0, keep_last=1), dry_run=True)
    assert plan.remove
    (mirror / ".quaymirror/state.db").unlink()
    with pytest.raises(MirrorDamaged, match=f"{digest}.*verify --repair"):
        await pruning.prune_layout(mirror, PruneOptions(grace=0.0, keep_last=1), dry_run=True)


async def test_nothing_is_pruned_while_the_mirror_is_read(tmp_path: Path) -> None:
    registry, images = kolla(4)
    mirror, events = tmp_path / "mirror", list[Event]()
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url, prune=True, keep_last=1, grace=0, max_delete=100, full_check_every=0)
        await quaymirror.sync(EVERYTHING, mirror, settings)
        retire(registry, next(iter(images)))
        with lock.reading(mirror / ".quaymirror"):
            report = await quaymirror.sync(EVERYTHING, mirror, settings, observer=events.append)
            assert report.exit_code is ExitCode.OK
            assert len(layouts.names(mirror)) == 4
            assert any(isinstance(event, Notice) and "is being read" in event.message for event in events)

        await quaymirror.sync(EVERYTHING, mirror, settings)

    assert len(layouts.names(mirror)) == 3


async def test_a_disk_that_fails_while_pruning_fails_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, images = kolla(4)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url, prune=True, keep_last=1, grace=0, max_delete=100, full_check_every=0)
        await quaymirror.sync(EVERYTHING, mirror, settings)
        retire(registry, next(iter(images)))

        def broken(*_: object) -> None:
            raise StoreError("can't write: input/output error")

        monkeypatch.setattr(state.State, "untag", broken)
        report = await quaymirror.sync(EVERYTHING, mirror, settings)
        assert report.exit_code is ExitCode.STORAGE
        monkeypatch.undo()
        assert len(layouts.names(mirror)) == 4
        layouts.check(mirror)


async def test_an_invalid_entry_of_the_listing_may_be_any_image(tmp_path: Path, clock: Clock) -> None:
    registry, images = kolla(2)
    mirror, name = tmp_path / "mirror", next(iter(images))
    async with QuayServer(registry) as server:
        await night(server, mirror)
        page = {"repositories": [{"namespace": "kolla", "name": 7}, {"namespace": "kolla", "name": name}]}
        server.faults.append(Fault("^/api/v1/repository$", ReplaceBody(json.dumps(page).encode())))
        report = await night(server, mirror, grace=0, max_delete=100)
        assert report.rejected == 1

    assert len(layouts.names(mirror)) == 2


async def test_the_progress_of_a_prune_is_known(tmp_path: Path) -> None:
    registry, _ = kolla(3)
    async with QuayServer(registry) as server:
        await quaymirror.sync(EVERYTHING, tmp_path, Options.of(server=server.url))

    progress = PruneProgress()
    await quaymirror.prune_layout(tmp_path, PruneOptions(), dry_run=True, progress=progress)
    assert progress == PruneProgress("reading manifests", 3, 3)
    await quaymirror.prune_layout(tmp_path, PruneOptions(), dry_run=False, progress=progress)
    assert progress == PruneProgress("deleting files", 0, 0)
