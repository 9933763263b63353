"""Sets of images over several nights: snapshots, rollback, holds, retention, and publication at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import layouts
import peers
import pytest
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Event, Options, Report, Selection, Status
from quaymirror.errors import ExitCode
from quaymirror.events import ImageFinished, Notice
from quaymirror.http.retry import RetryPolicy
from quaymirror.referrers.choice import ReferrerMode
from quaymirror.testing import Fault, QuayServer, Registry, bad_gateway

EVERYTHING = Selection("kolla", "*", TAG)


async def night(server: QuayServer, mirror: Path, **options: Any) -> Report:
    return await quaymirror.sync(EVERYTHING, mirror, Options.of(server=server.url, full_check_every=0, **options))


def push(registry: Registry, name: str, seed: str) -> str:
    """Move the tag of an image, and return its name in a mirror."""
    registry.organization("kolla").repository(name).push(TAG, small_image(seed))
    return f"kolla/{name}:{TAG}"


async def snapshots(mirror: Path, *words: str) -> list[dict[str, Any]]:
    done = await commands.run("snapshots", str(mirror), "--json", *words, cwd=mirror.parent, check=0)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


async def test_a_broken_build_is_rolled_back_held_over_the_nights_and_released_on_friday(tmp_path: Path) -> None:
    registry, images = kolla(6)
    mirror = tmp_path / "mirror"
    broken, other = sorted(images)[:2]

    async def cli(*words: str, check: int = 0) -> str:
        return (await commands.run(words[0], "mirror", *words[1:], cwd=tmp_path, check=check)).stdout

    async with QuayServer(registry) as server:
        places = ["--server", server.url, "--to", "mirror", "--full-check", "--progress", "none"]

        async def night() -> str:
            words = ("sync", "kolla", "*", TAG, *places, "--publish", "end", "--prune")
            return (await commands.run(*words, cwd=tmp_path, check=0)).stderr

        await night()
        monday = layouts.names(mirror)
        name = push(registry, broken, "tuesday, broken")
        push(registry, other, "tuesday, good")
        await night()
        tuesday = layouts.names(mirror)
        assert tuesday != monday
        assert len((await cli("rollback", "--to", "previous", "--reason", "nova does not start")).splitlines()) == 2
        assert layouts.names(mirror) == monday
        for day in ("wednesday", "thursday"):
            push(registry, broken, day)
            assert "held             6, of 2 of them the source has another image" in await night()
            assert layouts.names(mirror) == monday

        assert "nova does not start" in await cli("hold")
        assert len((await cli("unhold", "*:*")).splitlines()) == len(images)
        await night()

    friday = layouts.names(mirror)
    assert friday == monday | {
        name: small_image("thursday").digest,
        f"kolla/{other}:{TAG}": tuesday[f"kolla/{other}:{TAG}"],
    }
    assert [each["cause"] for each in await snapshots(mirror)] == ["sync", "sync", "rollback", "sync"]
    assert await cli("diff", "--exit-code", check=3) == f"moved  kolla/{broken}:{TAG}\nmoved  kolla/{other}:{TAG}\n"
    layouts.check(mirror)


async def test_a_rollback_of_selected_names_leaves_the_others_and_a_removed_image_returns(tmp_path: Path) -> None:
    registry, images = kolla(4)
    mirror = tmp_path / "mirror"
    first, second, gone, *_ = sorted(images)
    async with QuayServer(registry) as server:
        await night(server, mirror)
        before = layouts.names(mirror)
        moved = [push(registry, name, f"new {name}") for name in (first, second)]
        registry.organization("kolla").repository(gone).delete_tag(TAG)
        await night(server, mirror, prune=True, grace=0, max_delete=100)
        await night(server, mirror, prune=True, grace=0, max_delete=100)
        after = layouts.names(mirror)
        assert f"kolla/{gone}:{TAG}" not in after
        selected = ("--select", moved[0], "--select", f"kolla/{gone}:*")
        await commands.run("rollback", "mirror", "--to", "previous", *selected, cwd=tmp_path, check=0)
        held = await commands.run("hold", "mirror", "--json", cwd=tmp_path, check=0)
        assert [each["name"] for each in json.loads(held.stdout)] == sorted([moved[0], f"kolla/{gone}:{TAG}"])
        # What the source has lost stays as long as it is held.
        await night(server, mirror, prune=True, grace=0, max_delete=100)
        await night(server, mirror, prune=True, grace=0, max_delete=100)

    names = layouts.names(mirror)
    assert names == before | {moved[1]: after[moved[1]]}
    layouts.check(mirror)


async def test_damage_in_the_snapshot_stops_a_rollback_before_anything_changes(tmp_path: Path) -> None:
    registry, images = kolla(3)
    mirror, name = tmp_path / "mirror", min(images)
    async with QuayServer(registry) as server:
        await night(server, mirror)
        digest = layouts.names(mirror)[f"kolla/{name}:{TAG}"]
        push(registry, name, "new")
        await night(server, mirror)

    blob = mirror / "blobs" / digest.replace(":", "/")
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[::-1])
    before = layouts.names(mirror)
    done = await commands.run("rollback", "mirror", "--to", "previous", cwd=tmp_path, check=8)
    assert digest in done.stderr
    assert layouts.names(mirror) == before
    held = await commands.run("hold", "mirror", "--json", cwd=tmp_path, check=0)
    assert json.loads(held.stdout) == []


async def test_retention_keeps_two_snapshots_protected_ones_and_labels_and_a_record_of_the_others(
    tmp_path: Path,
) -> None:
    registry, images = kolla(3)
    mirror, name = tmp_path / "mirror", min(images)
    async with QuayServer(registry) as server:
        await night(server, mirror)
        for number in range(5):
            push(registry, name, f"night {number}")
            label = {"snapshot_label": "release"} if number == 1 else {}
            await night(server, mirror, **label)

    found = await snapshots(mirror, "--protect", (await snapshots(mirror))[1]["id"][:5])
    assert all(each["own_bytes"] for each in found)
    prune = ("prune", "mirror", "--grace", "0", "--keep-label", "release")
    plan = json.loads((await commands.run(*prune, "--json", cwd=tmp_path, check=0)).stdout)
    assert [each["id"] for each in plan["snapshots"]["drop"]] == [found[0]["id"], found[3]["id"]]
    assert plan["freed_bytes"] == sum(each["freed_bytes"] for each in plan["snapshots"]["drop"])
    await commands.run(*prune, "--yes", cwd=tmp_path, check=0)
    after = await snapshots(mirror)
    assert [each["content_removed"] is not None for each in after] == [True, False, False, True, False, False]
    assert [(each["images"], each["label"]) for each in after] == [(3, "release" if n == 2 else None) for n in range(6)]
    done = await commands.run("rollback", "mirror", "--to", found[0]["id"], cwd=tmp_path, check=2)
    assert "was removed" in done.stderr
    done = await commands.run("list", "./mirror", f"kolla/{name}", "--at", found[0]["id"], cwd=tmp_path, check=0)
    assert done.stdout.split()[:3] == [f"kolla/{name}:{TAG}", images[name].digest, "-"]
    for each in after[1:3]:
        await commands.run("rollback", "mirror", "--to", each["id"], cwd=tmp_path, check=0)
        layouts.check(mirror)


async def test_with_publish_end_a_failed_image_keeps_the_last_set_and_the_next_run_publishes(tmp_path: Path) -> None:
    registry, images = kolla(4)
    mirror = tmp_path / "mirror"
    first, second, *_ = sorted(images)
    async with QuayServer(registry) as server:
        await night(server, mirror, publish="end")
        before = layouts.names(mirror)
        push(registry, first, "new first")
        push(registry, second, "new second")
        server.faults[:] = [Fault(f"/v2/kolla/{second}/", bad_gateway())]
        report = await night(server, mirror, publish="end", retries=0)
        assert report.exit_code is ExitCode.PARTIAL
        assert layouts.names(mirror) == before
        # Another command does not publish it, either.
        await commands.run("hold", "mirror", f"kolla/{first}:*", cwd=tmp_path, check=0)
        await commands.run("unhold", "mirror", "*", cwd=tmp_path, check=0)
        assert layouts.names(mirror) == before
        report = await night(server, mirror, publish="end", retries=0, max_failed=1)
        assert layouts.names(mirror) == before | {f"kolla/{first}:{TAG}": small_image("new first").digest}
        server.faults.clear()
        await night(server, mirror, publish="end")

    assert layouts.names(mirror)[f"kolla/{second}:{TAG}"] == small_image("new second").digest
    assert len(await snapshots(mirror)) == 3


@pytest.mark.parametrize("words", [("hold", "*:*"), ("rollback", "--to", "latest")], ids=["hold", "rollback"])
async def test_a_held_name_keeps_the_image_that_readers_see_if_the_run_before_published_nothing(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    registry, images = kolla(3)
    mirror = tmp_path / "mirror"
    first, second, _ = sorted(images)
    async with QuayServer(registry) as server:
        await night(server, mirror, publish="end")
        before = layouts.names(mirror)
        push(registry, first, "new first")
        push(registry, second, "new second")
        server.faults[:] = [Fault(f"/v2/kolla/{second}/", bad_gateway())]
        await night(server, mirror, publish="end", retries=0)
        await commands.run(words[0], "mirror", *words[1:], cwd=tmp_path, check=0)
        server.faults.clear()
        report = await night(server, mirror, publish="end")
        assert (report.progress.held, report.progress.held_moved) == (3, 2)
        assert layouts.names(mirror) == before
        await night(server, mirror)
        assert layouts.names(mirror) == before
        await commands.run("unhold", "mirror", "*", cwd=tmp_path, check=0)
        await night(server, mirror, publish="end")

    assert layouts.names(mirror)[f"kolla/{first}:{TAG}"] == small_image("new first").digest
    layouts.check(mirror)


async def test_a_tag_that_goes_back_is_reported_and_refused_on_request(tmp_path: Path) -> None:
    registry, images = kolla(3)
    mirror, repository = tmp_path / "mirror", min(images)
    async with QuayServer(registry) as server:
        await night(server, mirror)
        name = push(registry, repository, "newer")
        await night(server, mirror)
        registry.organization("kolla").repository(repository).push(TAG, images[repository])
        report = await night(server, mirror, refuse_older=True)
        assert report.exit_code is ExitCode.PARTIAL
        assert layouts.names(mirror)[name] == small_image("newer").digest
        where = ["--server", server.url, "--to", "mirror", "--full-check", "--report-html", "page.html"]
        done = await commands.run("sync", "kolla", "*", TAG, *where, "--report", "r.json", cwd=tmp_path, check=0)

    remark = "went back to an image that the mirror held before"
    assert f"remarks:\n  {remark} (1):\n    {name}\n" in done.stderr
    assert remark in (tmp_path / "page.html").read_text()
    outcomes = json.loads((tmp_path / "r.json").read_text())["outcomes"]
    assert [outcome["reference"].partition("/")[2] for outcome in outcomes if outcome["reason"] == remark] == [name]

    assert layouts.names(mirror)[name] == images[repository].digest


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2001-01-01", "the nearest is"),
        ("2999-01-01", "the nearest is"),
        ("2026-03-03T06:00", "no time zone"),
        ("zzzz", "the nearest is"),
        ("previous", "no snapshot before the first one"),
    ],
)
async def test_unknown_snapshots_are_refused_with_the_nearest_one(at: str, words: str, tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        await night(server, tmp_path / "mirror")

    done = await commands.run("rollback", "mirror", "--to", at, cwd=tmp_path, check=2)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_a_lost_state_is_rebuilt_from_the_files_of_snapshots_and_nothing_is_pruned_before(tmp_path: Path) -> None:
    registry, images = kolla(4)
    mirror, name = tmp_path / "mirror", min(images)
    async with QuayServer(registry) as server:
        await night(server, mirror)
        push(registry, name, "second")
        await night(server, mirror)
        await commands.run("hold", "mirror", f"kolla/{name}:*", "--reason", "a bug", cwd=tmp_path, check=0)
        before = await snapshots(mirror)
        (mirror / ".quaymirror/state.db").unlink()
        plan = await commands.run("prune", "mirror", "--grace", "0", "--json", cwd=tmp_path, check=0)
        assert json.loads(plan.stdout)["remove"] == []
        done = await commands.run("prune", "mirror", "--grace", "0", "--yes", cwd=tmp_path, check=0)
        assert "2 snapshots" in done.stderr
        assert await snapshots(mirror) == before
        held = await commands.run("hold", "mirror", "--json", cwd=tmp_path, check=0)
        assert [each["reason"] for each in json.loads(held.stdout)] == ["a bug"]
        await night(server, mirror)
        await commands.run("rollback", "mirror", "--to", before[0]["id"], cwd=tmp_path, check=0)

    assert layouts.names(mirror) == {f"kolla/{each}:{TAG}": image.digest for each, image in images.items()}
    layouts.check(mirror)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"snapshot_version": 1}',
        {"id": "0"},
        {"id": "0", "number": 1, "whole": False},
        {"id": "0", "number": 2},
        {"id": "0", "number": -31},
        {"id": "0", "number": 2**63 + 1},
        {"id": "0", "number": 33, "created": 1e300},
        {"id": "0", "snapshot_version": 2},
        {"id": "../../../0"},
        {"id": "0", "set": {"kolla/x:1": {"registry": "a", "digest": "sha256:0", "mediaType": "a/b", "size": 1}}},
    ],
    ids=repr,
)
async def test_a_file_that_is_no_snapshot_costs_no_other_snapshot(
    content: bytes | dict[str, Any], tmp_path: Path
) -> None:
    mirror, _, second = await two_nights(tmp_path)
    before = await snapshots(mirror)
    directory = mirror / ".quaymirror/snapshots"
    first = json.loads((directory / f"{before[0]['id']}.json").read_text())
    text = content if isinstance(content, bytes) else json.dumps({**first, **content}).encode()
    (directory / "0.json").write_bytes(text)
    (directory / f"{before[1]['id']} (copy).json").write_bytes((directory / f"{before[1]['id']}.json").read_bytes())
    (mirror / ".quaymirror/state.db").unlink()
    await commands.run("hold", "mirror", "*:*", cwd=tmp_path, check=0)
    after = await snapshots(mirror)
    assert [each["created"] for each in after] == [each["created"] for each in before]
    assert layouts.names(mirror) == second
    await commands.run("list", "./mirror", "--at", "previous", cwd=tmp_path, check=0)


@dataclass
class Clock:
    """The server's clock."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("count", [4, 75])
async def test_tags_that_move_during_the_run_are_mirrored_again_and_named_with_few_requests(
    count: int, tmp_path: Path
) -> None:
    clock = Clock()
    registry, moved = Registry(now=clock), dict[str, str]()
    names = [f"image-{number:03}" for number in range(150)]
    for name in names:
        registry.organization("kolla").repository(name).push(TAG, small_image("same"))

    def move(event: Event) -> None:
        if isinstance(event, ImageFinished) and len(moved) < count:
            name = names[len(moved)]
            moved[push(registry, name, f"newer {name}")] = small_image(f"newer {name}").digest

        clock.now += 1  # links to content last some minutes

    mirror = tmp_path / "mirror"
    clock.now += 3600
    async with QuayServer(registry) as server:
        given = Options.of(server=server.url, referrers=ReferrerMode.NONE)
        report = await quaymirror.sync(EVERYTHING, mirror, given, observer=move)
        listings = server.count("/api/v1/repository$")
        checks = server.count("/tag/")

    assert report.exit_code is ExitCode.OK
    assert layouts.names(mirror) == {f"kolla/{name}:{TAG}": small_image("same").digest for name in names} | moved
    found = report.to_json()["moved_in_run"]
    assert {name.partition("/")[2] for name in found} <= moved.keys()
    assert found
    assert len(report.outcomes) == len(names) == report.counts[Status.MIRRORED]
    assert listings in (4, 6, 8), "two pages for each listing"
    assert checks <= len(names) + 2 * count
    assert len(await snapshots(mirror)) == 1


@pytest.mark.parametrize(("publish", "code"), [("each", ExitCode.OK), ("end", ExitCode.UNAVAILABLE)])
async def test_a_set_that_may_be_a_mixture_is_not_published_at_the_end(
    publish: str, code: ExitCode, tmp_path: Path
) -> None:
    registry, mirror = Registry(), tmp_path / "mirror"
    push(registry, "nova", "new")

    def break_listings(event: Event) -> None:
        if isinstance(event, ImageFinished):
            server.faults[:] = [Fault("/api/v1/repository", bad_gateway())]

    async with QuayServer(registry) as server:
        given = Options.of(server=server.url, retries=0, publish=publish)
        report = await quaymirror.sync(EVERYTHING, mirror, given, observer=break_listings)
        assert report.exit_code is code
        assert bool(layouts.names(mirror)) is (publish == "each")
        server.faults.clear()
        await night(server, mirror, publish=publish)

    assert layouts.names(mirror) == {f"kolla/nova:{TAG}": small_image("new").digest}


@pytest.mark.parametrize(("age", "waits"), [(600.0, [1200.0]), (1800.0, [])])
async def test_a_run_waits_until_the_newest_push_is_old_enough(age: float, waits: list[float], tmp_path: Path) -> None:
    clock, waited = Clock(), list[float]()
    registry = Registry(now=clock)
    push(registry, "nova", "new")
    clock.now += age

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.now += seconds

    async with QuayServer(registry) as server:
        retry = RetryPolicy(clock=clock, sleep=sleep)
        report = await night(server, tmp_path / "mirror", settle=1800.0, retry=retry)
        assert report.counts[Status.MIRRORED] == 1
        assert waited == waits


async def test_a_run_waits_for_a_source_that_never_settles_until_the_time_limit_only(tmp_path: Path) -> None:
    clock, waited = Clock(), list[float]()
    registry = Registry(now=clock)
    push(registry, "nova", "new")

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.now += seconds
        push(registry, "nova", f"newer {clock.now}")

    async with QuayServer(registry) as server:
        retry = RetryPolicy(clock=clock, sleep=sleep)
        report = await night(server, tmp_path / "mirror", settle=900.0, settle_timeout=1800.0, retry=retry)

    assert sum(waited) == 1800.0
    assert report.counts[Status.MIRRORED] == 1


async def test_a_run_that_is_stopped_waits_no_longer(tmp_path: Path) -> None:
    registry, stop = Registry(), quaymirror.Stop()
    push(registry, "nova", "new")

    def observe(event: Event) -> None:
        if isinstance(event, Notice) and "waiting" in event.message:
            stop.request("enough")

    async with QuayServer(registry) as server:
        options = Options.of(server=server.url, settle=3600.0)
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", options, observer=observe, stop=stop)

    assert report.exit_code is ExitCode.PARTIAL
    assert not report.outcomes


async def test_a_rollback_during_a_run_ends_with_7_and_changes_nothing(tmp_path: Path) -> None:
    mirror, _, second = await two_nights(tmp_path)
    registry = Registry()
    push(registry, "nova", "third")
    codes: list[int] = []

    def roll_back(event: Event) -> None:
        if isinstance(event, ImageFinished):
            for words in (
                ["rollback", "mirror", "--to", "previous"],
                ["hold", "mirror", "*:*"],
                ["unhold", "mirror", "*"],
            ):
                command = [sys.executable, "-m", "quaymirror", *words]
                done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
                codes.append(done.returncode)
                assert "another run" in done.stderr

    async with QuayServer(registry) as server:
        await quaymirror.sync(EVERYTHING, mirror, Options.of(server=server.url), observer=roll_back)

    assert codes == [7, 7, 7]
    assert layouts.names(mirror) == second | {f"kolla/nova:{TAG}": small_image("third").digest}


async def two_nights(tmp_path: Path) -> tuple[Path, dict[str, str], dict[str, str]]:
    """Return a mirror with two snapshots, and the images of each."""
    registry, images = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await night(server, mirror)
        first = layouts.names(mirror)
        push(registry, min(images), "second")
        await night(server, mirror)

    return mirror, first, layouts.names(mirror)


async def test_a_checkout_is_a_layout_with_the_blobs_of_the_mirror(tmp_path: Path) -> None:
    mirror, first, second = await two_nights(tmp_path)
    done = await commands.run("checkout", "mirror", "previous", cwd=tmp_path, check=0)
    assert layouts.names(tmp_path / done.stdout.strip()) == first
    layouts.check(mirror / ".quaymirror/snapshots/previous")
    await commands.run("checkout", "mirror", "latest", "elsewhere/deep", cwd=tmp_path, check=0)
    assert layouts.names(tmp_path / "elsewhere/deep") == second
    layouts.check(tmp_path / "elsewhere/deep")
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        push(registry, "new", "third")
        await night(server, mirror)

    assert not (mirror / ".quaymirror/snapshots/previous").is_symlink(), "it would lead to an earlier snapshot"
    await commands.run("checkout", "mirror", "previous", cwd=tmp_path, check=0)
    assert layouts.names(mirror / ".quaymirror/snapshots/previous") == second
    refused = await commands.run("checkout", "mirror", "latest", ".", cwd=tmp_path, check=2)
    assert "contains other files" in refused.stderr
    blob = mirror / "blobs" / next(iter(second.values())).replace(":", "/")
    blob.unlink()
    done = await commands.run("checkout", "mirror", "previous", cwd=tmp_path, check=8)
    assert blob.name in done.stderr


async def test_verify_reads_the_content_of_an_earlier_snapshot(tmp_path: Path) -> None:
    mirror, first, second = await two_nights(tmp_path)
    (moved,) = {digest for name, digest in first.items() if second[name] != digest}
    done = await commands.run("verify", "mirror", "--at", "previous", cwd=tmp_path, check=0)
    assert "orphaned" not in done.stderr
    (mirror / "blobs" / moved.replace(":", "/")).unlink()
    await commands.run("verify", "mirror", cwd=tmp_path, check=0)
    done = await commands.run("verify", "mirror", "--at", "previous", cwd=tmp_path, check=8)
    assert moved in done.stdout


async def test_an_earlier_snapshot_is_pushed(tmp_path: Path) -> None:
    mirror, first, second = await two_nights(tmp_path)
    await commands.run("push", "mirror", "copy", "--at", "previous", cwd=tmp_path, check=0)
    assert layouts.names(tmp_path / "copy") == first
    layouts.check(tmp_path / "copy")
    report = await quaymirror.push(mirror, tmp_path / "copy", names=[min(first)], at="latest")
    assert report.exit_code is ExitCode.OK
    assert layouts.names(tmp_path / "copy") == first | {min(first): second[min(first)]}


@pytest.mark.parametrize(("mirror", "words"), [("mirror", "the nearest is"), ("a.tar", "only mirrors have snapshots")])
async def test_a_snapshot_that_does_not_exist_is_refused_before_anything_is_pushed(
    mirror: str, words: str, tmp_path: Path
) -> None:
    await two_nights(tmp_path)
    (tmp_path / "a.tar").touch()
    done = await commands.run("push", mirror, "copy", "--at", "1999-12-31", cwd=tmp_path, check=2)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "copy").exists()


@pytest.mark.interop
async def test_skopeo_and_podman_read_a_checkout(tmp_path: Path) -> None:
    peers.require("skopeo")
    registry, mirror = Registry(), tmp_path / "mirror"
    first, second = (small_image(each) for each in ("first", "second"))
    async with QuayServer(registry) as server:
        for image in (first, second):
            registry.organization("kolla").repository("nova").push(TAG, image)
            await night(server, mirror)

    for at, image in (("latest", second), ("previous", first)):
        await commands.run("checkout", "mirror", at, cwd=tmp_path, check=0)
        place = f"oci:{mirror}/.quaymirror/snapshots/{at}:kolla/nova:{TAG}"
        assert peers.skopeo("inspect", "--raw", place).encode() == image.raw
        # podman makes a name of the path as it is given, and .quaymirror, or any hidden directory, can't be in one.
        await commands.run("checkout", "mirror", at, f"sets/{at}", cwd=tmp_path, check=0)
        with peers.podman() as podman:
            pull = [*podman, "pull", "-q", f"oci:sets/{at}:kolla/nova:{TAG}"]
            pulled = subprocess.run(pull, cwd=tmp_path, capture_output=True, text=True, check=True)
            assert f"sha256:{pulled.stdout.strip()}" == json.loads(image.raw)["config"]["digest"]


async def test_diff_with_the_source_shows_the_work_of_the_next_sync(tmp_path: Path) -> None:
    registry, images = kolla(4)
    mirror = tmp_path / "mirror"
    moved, gone = sorted(images)[:2]
    async with QuayServer(registry) as server:
        await night(server, mirror)
        done = await commands.run("diff", "mirror", "--source", "--exit-code", cwd=tmp_path, check=0)
        assert done.stdout == ""
        push(registry, moved, "newer")
        push(registry, "new", "new")
        registry.organization("kolla").repository(gone).delete_tag(TAG)
        done = await commands.run("diff", "mirror", "--source", "--exit-code", cwd=tmp_path, check=3)

    assert done.stdout.splitlines() == [
        f"new    kolla/new:{TAG}",
        f"moved  kolla/{moved}:{TAG}",
        f"gone   kolla/{gone}:{TAG}",
    ]
