"""`kill -9` at any request to an object store, and two writers: the set stays whole, and the next run completes it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import anyio
import bucket
import pytest
from bucket import S3Server
from organizations import TAG, kolla

import quaymirror
from quaymirror import Options, Report, Selection
from quaymirror.errors import LockHeld
from quaymirror.testing import QuayServer, SourceManifest

pytestmark = pytest.mark.timeout(900)
IMAGES = 2
MOMENTS = ("before", "after")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with bucket.s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)

        yield server


async def sync(server: QuayServer, home: Path, mirror: str) -> Report:
    options = Options.of(server=server.url, state=home)
    return await quaymirror.sync(Selection("kolla", "*", TAG), f"s3://{bucket.BUCKET}/{mirror}", options)


async def killed(server: QuayServer, home: Path, s3: S3Server, mirror: str, number: int, when: str) -> bool:
    """Run sync in a process that is killed at a request; return False if it ended before it made so many."""
    words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", f"s3://{bucket.BUCKET}/{mirror}"]
    command = [sys.executable, "-m", "quaymirror", *words, "--state", str(home), "--progress", "none"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        count = itertools.count()

        def kill(*_: str) -> int:
            if next(count) == number:
                process.kill()

            return 0

        def kill_after(*_: str) -> None:
            kill()

        if when == "before":
            s3.fault = kill
        else:
            s3.after = kill_after

        await anyio.to_thread.run_sync(process.wait)

    s3.fault, s3.after = lambda *_: 0, lambda *_: None
    return process.returncode == -9


async def check(server: QuayServer, home: Path, s3: S3Server, mirror: str, images: dict[str, SourceManifest]) -> None:
    """Check that everything in the index is whole, that the next run completes it, and leaves no lock."""
    options, address = Options.of(state=home), f"s3://{bucket.BUCKET}/{mirror}"
    if s3.get(f"{mirror}/index.json") is not None:
        assert (await quaymirror.verify(address, options)).damages == ()

    report = await sync(server, home, mirror)
    assert report.exit_code == 0
    found = await quaymirror.verify(address, options)
    assert (found.images, found.damages, found.orphans) == (len(images), (), (0, 0))
    assert json.loads(s3.get(f"{mirror}/.quaymirror/lock") or b"")["writer"] == ""


@pytest.mark.parametrize(
    ("when", "numbers"),
    [
        pytest.param("before", [16], id="in the middle"),
        *(pytest.param(when, range(1000), id=f"{when} each", marks=pytest.mark.soak) for when in MOMENTS),
    ],
)
async def test_a_run_that_is_killed_at_any_request_loses_nothing(
    tmp_path: Path, s3: S3Server, when: str, numbers: Iterable[int]
) -> None:
    registry, images = kolla(IMAGES)
    async with QuayServer(registry) as server:
        for number in numbers:
            mirror = f"mirror-{number}"
            if not await killed(server, tmp_path / mirror, s3, mirror, number, when):
                assert number > 20
                break

            await check(server, tmp_path / mirror, s3, mirror, images)


async def test_another_machine_takes_over_when_the_lock_of_a_killed_run_is_stale(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(IMAGES)
    async with QuayServer(registry) as server:
        assert await killed(server, tmp_path / "first", s3, "mirror", 16, "after")
        shutil.rmtree(tmp_path / "first")
        with pytest.raises(LockHeld):
            await sync(server, tmp_path / "second", "mirror")

        lock = json.loads(s3.get("mirror/.quaymirror/lock") or b"")
        s3.put("mirror/.quaymirror/lock", json.dumps({**lock, "renewed": time.time() - 601}).encode())
        await check(server, tmp_path / "second", s3, "mirror", images)


async def test_of_two_writers_at_the_same_time_one_writes(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(IMAGES)
    ended: list[str] = []

    async def write(server: QuayServer, name: str) -> None:
        try:
            await sync(server, tmp_path / name, "mirror")
            ended.append("mirrored")
        except LockHeld:
            ended.append("locked")

    async with QuayServer(registry) as server:
        async with anyio.create_task_group() as tasks:
            for name in ("first", "second", "third"):
                tasks.start_soon(write, server, name)

        assert "mirrored" in ended
        assert ended.count("locked") >= 1
        await check(server, tmp_path / "fourth", s3, "mirror", images)
