"""Shards of one plan that write to a mirror in an object store at the same time."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import bucket
import peers
import pytest
from bucket import Fault, S3Server
from crashes import kill_after
from organizations import TAG, kolla, small_image, unique_bytes

import quaymirror
from quaymirror import Options, Report, Selection, Share
from quaymirror.errors import ConfigError, LockHeld, StoreError
from quaymirror.run.paths import layout_path
from quaymirror.run.pruning import prune_layout
from quaymirror.run.snapshots import list_snapshots
from quaymirror.selection.bucket import parse_bucket
from quaymirror.store.bucket_lock import STALE_SECONDS, BucketLock
from quaymirror.store.objects import Objects
from quaymirror.store.plan_lock import PlanLock
from quaymirror.store.records import Snapshot
from quaymirror.testing import QuayServer, SourceManifest

MIRROR = "s3://mirrors/kolla"
IMAGES = 4
COUNT = 2

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with bucket.s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)

        yield server


class Site:
    """A source, a bucket, and the machines between them; `home` is the one that makes the plan."""

    def __init__(self, server: QuayServer, s3: S3Server, directory: Path) -> None:
        self.server = server
        self.s3 = s3
        self.directory = directory
        self.plan_file = directory / "plan.json"

    def options(self, name: str) -> Options:
        return Options.of(server=self.server.url, state=self.directory / name)

    async def sync(self, name: str = "home") -> Report:
        return await quaymirror.sync(Selection("kolla", "*", TAG), MIRROR, self.options(name))

    async def plan(self) -> None:
        report = await quaymirror.plan_shards(
            Selection("kolla", "*", TAG), MIRROR, self.plan_file, self.options("home")
        )
        assert report.exit_code == 0

    async def shard(self, index: int, *, state: str = "", to: str = MIRROR) -> Report:
        options = self.options(state or f"shard-{index}")
        report = await quaymirror.sync_shard(self.plan_file, Share(index, COUNT), to, options)
        self.report(index).write_text(json.dumps(report.to_json()))
        return report

    async def shards(self) -> None:
        async with anyio.create_task_group() as tasks:
            for index in range(COUNT):
                tasks.start_soon(self.shard, index)

    def report(self, index: int) -> Path:
        return self.directory / f"report-{index}.json"

    async def merge(self, indices: Sequence[int] = range(COUNT)) -> quaymirror.MergedReports:
        files = [self.report(index) for index in indices]
        return await quaymirror.merge_reports(files, options=self.options("home"))

    async def start(self, index: int, state: str = "") -> Process:
        words = ["sync", "--plan", str(self.plan_file), "--shard", f"{index}/{COUNT}", "--to", MIRROR]
        own = ["--state", state or f"shard-{index}", "--report", str(self.report(index)), "--progress", "json"]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quaymirror", *words, *own),
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def root(self, name: str) -> Path:
        return await anyio.to_thread.run_sync(layout_path, MIRROR, self.options(name))

    async def snapshots(self) -> list[Snapshot]:
        return [each.snapshot for each in await list_snapshots(await self.root("home"))]

    def names(self) -> set[str]:
        index = json.loads(self.s3.get("kolla/index.json") or b'{"manifests": []}')
        return {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]}

    def lock(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.s3.get("kolla/.quaymirror/lock") or b"{}")
        return found

    def expire(self) -> None:
        """Let the time pass after which leases that were not renewed have expired."""
        lock, past = self.lock(), time.time() - STALE_SECONDS - 1
        members = lock["members"]
        assert isinstance(members, dict)
        changed = {**lock, "renewed": past, "members": dict.fromkeys(members, past)}
        self.s3.put("kolla/.quaymirror/lock", json.dumps(changed).encode())

    async def check(self, images: Mapping[str, SourceManifest]) -> None:
        """Check that the mirror is whole, and that the next night of one machine fetches nothing."""
        assert self.names() == {f"kolla/{name}:{TAG}" for name in images}
        self.server.reset_records()
        night = await self.sync()
        counts = night.to_json()["images"]
        assert (night.exit_code, counts["unchanged"], counts["mirrored"]) == (0, len(images), 0)
        assert self.server.count("^/v2/") == 0
        verified = await quaymirror.verify(MIRROR, self.options("home"))
        assert (verified.images, verified.damages, verified.orphans) == (len(images), (), (0, 0))


async def test_shards_write_one_mirror_at_the_same_time_and_the_next_night_asks_for_nothing(
    tmp_path: Path, s3: S3Server
) -> None:
    registry, images = kolla(IMAGES)
    async with QuayServer(registry) as server:
        site = Site(server, s3, tmp_path)
        await site.plan()
        assert s3.get("kolla/oci-layout") is None
        await site.shards()
        assert server.blob_bytes() == unique_bytes(images)
        assert site.names() == {f"kolla/{name}:{TAG}" for name in images}
        assert (site.lock()["writer"], site.lock()["members"]) == ("", {})
        # The state in the bucket is that of the mirror, not of a shard.
        assert s3.get("kolla/.quaymirror/state.db") is None
        server.reset_records()
        again = [await site.shard(index) for index in range(COUNT)]
        assert [report.to_json()["images"]["mirrored"] for report in again] == [0, 0]
        assert (server.count("^/v2/"), server.blob_bytes()) == (0, 0)
        merged = await site.merge()
        assert (merged.exit_code, merged.recorded) == (0, IMAGES)
        snapshots = await site.snapshots()
        assert [(each.cause, each.images, each.complete) for each in snapshots] == [("sync", IMAGES, True)]
        s3.requests.clear()
        await site.sync()
        assert [method for method, _ in s3.requests] == ["GET"], s3.requests
        await site.check(images)


async def test_shards_replace_their_own_images_and_leave_the_entries_of_others(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(4)
    async with QuayServer(registry) as server:
        site = Site(server, s3, tmp_path)
        await site.sync()
        index = json.loads(s3.get("kolla/index.json") or b"")
        index["manifests"].append({**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "x"}})
        s3.put("kolla/index.json", json.dumps(index).encode())
        name = min(images)
        for moved in (name, "new"):
            images[moved] = small_image(moved)
            registry.organization("kolla").repository(moved).push(TAG, images[moved])

        await site.plan()
        # These shards have the state of an earlier night, in which all images were theirs.
        for number in range(COUNT):
            shutil.copytree(tmp_path / "home", tmp_path / f"shard-{number}")

        await site.shards()
        entries = {
            entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
            for entry in json.loads(s3.get("kolla/index.json") or b"")["manifests"]
        }
        assert entries.pop("x") == index["manifests"][-1]["digest"]
        assert entries == {f"kolla/{each}:{TAG}": image.digest for each, image in images.items()}
        assert (await site.merge()).exit_code == 0
        assert [each.images for each in await site.snapshots()] == [4, 5]


async def test_other_writers_wait_until_the_last_shard_has_ended_or_its_lease_has_expired(
    tmp_path: Path, s3: S3Server
) -> None:
    registry, images = kolla(IMAGES)
    async with QuayServer(registry) as server:
        site = Site(server, s3, tmp_path)
        await site.plan()
        await kill_after(1, await site.start(0))
        with pytest.raises(LockHeld, match="in use by the shards of a plan"):
            await site.sync()

        # It neither holds up the other shard, nor itself on another machine, nor the merging.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.shard, 1)
            await site.shard(0, state="elsewhere")

        assert (await site.merge()).exit_code == 0
        with pytest.raises(LockHeld):
            await site.sync("stranger")

        site.expire()
        await site.check(images)


def test_a_lease_of_a_plan_is_lost_only_to_a_writer_that_found_all_of_them_expired(s3: S3Server) -> None:
    now = [1000.0]
    objects = Objects.at(parse_bucket(MIRROR))

    def clock() -> float:
        return now[0]

    def lock(member: str, plan: str = "one") -> PlanLock:
        return PlanLock(objects, member, plan=plan, clock=clock, monotonic=clock)

    def taken(one: BucketLock) -> BucketLock:
        one.look()
        one.take(is_probed=True)
        return one

    first, second = taken(lock("first")), taken(lock("second"))
    stranger, other = BucketLock(objects, "stranger", clock=clock, monotonic=clock), lock("other", "two")
    for _ in range(4):
        now[0] += STALE_SECONDS / 3
        first.renew()
        for each in (stranger, other):
            with pytest.raises(LockHeld):
                each.look()

    # The second one did not renew its lease: it writes nothing more.
    with pytest.raises(StoreError, match="could not be renewed"):
        second.take(is_probed=True)

    now[0] += STALE_SECONDS
    taken(stranger)
    first.renew()
    with pytest.raises(StoreError, match="another run took its lock"):
        first.take(is_probed=True)

    with pytest.raises(LockHeld):
        lock("third").look()

    stranger.release()
    third = lock("third")
    taken(third)
    alone = [third.was_alone]
    fourth = taken(lock("fourth"))
    third.release()
    assert [*alone, third.was_alone] == [True, False]
    with pytest.raises(LockHeld):
        stranger.look()

    fourth.release()
    stranger.look()


async def test_nothing_is_pruned_while_a_shard_writes(tmp_path: Path, s3: S3Server) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        site = Site(server, s3, tmp_path)
        await site.sync()
        lock = PlanLock(Objects.at(parse_bucket(MIRROR)), "shard", plan="one")
        lock.look()
        lock.take(is_probed=True)
        with pytest.raises(LockHeld):
            await prune_layout(await site.root("home"), Options.of(prune=True).prune, dry_run=False)


async def test_a_bucket_without_locks_is_refused_for_shards(tmp_path: Path, s3: S3Server) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        site = Site(server, s3, tmp_path)
        await site.plan()
        s3.requests.clear()
        with pytest.raises(ConfigError, match=r"leave out \?locks=none"):
            await site.shard(0, to=f"{MIRROR}?locks=none")

        assert s3.requests == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_shard_that_is_killed_at_any_request_of_the_shards_loses_nothing(
    tmp_path: Path, s3: S3Server, when: str
) -> None:
    registry, images = kolla(2)
    async with QuayServer(registry) as server:
        for number in itertools.count():
            s3.empty()
            site = Site(server, s3, tmp_path / f"{when}-{number}")
            site.directory.mkdir()
            await site.plan()
            process = await site.start(0)
            left = itertools.count()

            def kill(*_: str, process: Process = process, left: Iterator[int] = left, number: int = number) -> int:
                if next(left) == number and process.returncode is None:
                    process.kill()

                return 0

            def kill_after(*_: str, kill: Fault = kill) -> None:
                kill("", "")

            if when == "before":
                s3.fault = kill
            else:
                s3.after = kill_after

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(site.shard, 1)
                await process.communicate()
                s3.fault, s3.after = lambda *_: 0, lambda *_: None
                # With or without what the killed one remembers.
                await site.shard(0, state=f"again-{number}" if number % 2 else "")

            assert (await site.merge()).exit_code == 0
            if site.lock()["writer"]:
                site.expire()

            await site.check(images)
            if process.returncode == 0:
                assert number > 20
                break


@pytest.mark.soak
@pytest.mark.interop
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("percent", [2, 40])
async def test_200_images_arrive_although_a_shard_is_killed(tmp_path: Path, s3: S3Server, percent: int) -> None:
    registry, images = kolla(200, layer_size=100_000)
    blobs = {digest for image in images.values() for digest in image.all_blobs()}
    async with QuayServer(registry) as server:
        site = Site(server, s3, tmp_path)
        await site.plan()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.shard, 1)
            await kill_after(max(1, len(blobs) * percent // 100 // COUNT), await site.start(0))
            await site.shard(0, state="elsewhere")

        assert server.blob_bytes() <= 1.05 * unique_bytes(images)
        assert (await site.merge()).exit_code == 0
        site.expire()
        await site.check(images)

    bucket.rclone_copy(s3, "kolla", tmp_path / "copy")
    for name, image in images.items():
        assert peers.skopeo("inspect", "--raw", f"oci:{tmp_path}/copy:kolla/{name}:{TAG}").encode() == image.raw
