"""A disk that is full, broken or read-only: one clear line, nothing half-named, and the next run goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import layouts
import pytest
import pytest_asyncio
from crashes import Zygote, check_whole, requested, zygote
from organizations import TAG, kolla, unique_bytes

from quaymirror.testing import QuayServer

LAYER = 150_000
FULL = "the disk is full"


@pytest_asyncio.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Zygote]:
    async with zygote(tmp_path / "streams") as ready:
        yield ready


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that can be filled; without the right to mount one, the test is skipped."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no disk can be mounted here")

    yield path
    subprocess.run(["umount", path], check=True)


def room(disk: Path, size: int) -> None:
    """Leave `free` bytes free."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    status = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - size))


def words(server: QuayServer, mirror: Path, *more: str) -> tuple[str, ...]:
    return ("sync", "kolla", "*", TAG, "--server", server.url, "--to", str(mirror), "--progress", "plain", *more)


@pytest.mark.timeout(120)
async def test_at_ten_fill_levels_a_full_disk_is_reported_once_and_the_next_run_completes(
    commands: Zygote, disk: Path
) -> None:
    registry, images = kolla(12, layer_size=LAYER)
    mirror, need = disk / "mirror", unique_bytes(images)
    async with QuayServer(registry) as server:
        for level in range(10):
            room(disk, 4096 + need * level // 10)
            done = await commands.run(*words(server, mirror, "--no-space-check"))
            assert done.code == 6, done.stderr
            assert "quaymirror: can't " in done.stderr
            assert FULL in done.stderr
            lines = done.stderr.splitlines()
            assert len([line for line in lines if line.startswith("quaymirror: ")]) == 1
            assert len([line for line in lines if line.startswith("failed  ") and FULL in line]) <= 1, "told once"
            complete = check_whole(mirror, {}) if mirror.exists() and (mirror / "blobs").exists() else set()
            server.reset_records()
            (disk / "filler").unlink()
            again = await commands.run(*words(server, mirror))
            assert again.code == 0, again.stderr
            assert not complete & requested(server).keys()
            assert len(layouts.names(mirror)) == 12
            layouts.check(mirror)
            subprocess.run(["rm", "-r", mirror], check=True)


async def test_images_that_do_not_fit_are_refused_with_numbers_before_the_disk_is_full(
    commands: Zygote, disk: Path
) -> None:
    registry, images = kolla(12, layer_size=LAYER)
    mirror, need = disk / "mirror", unique_bytes(images)
    async with QuayServer(registry) as server:
        room(disk, 300_000)
        done = await commands.run(*words(server, mirror))
        assert done.code == 6
        assert "more bytes for the images in progress, but only" in done.stderr
        assert "--no-space-check" in done.stderr
        assert os.statvfs(disk).f_bavail > 0
        check_whole(mirror, {})
        room(disk, need + 2_000_000)
        done = await commands.run(*words(server, mirror))
        assert done.code == 0, done.stderr


async def test_a_read_only_disk_is_reported_and_can_be_verified(commands: Zygote, disk: Path) -> None:
    registry, _ = kolla(3)
    mirror = disk / "mirror"
    async with QuayServer(registry) as server:
        assert (await commands.run(*words(server, mirror))).code == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = await commands.run(*words(server, mirror))
        assert done.code == 6
        assert "the file system is read-only" in done.stderr
        assert (await commands.run("verify", str(mirror))).code == 0
        assert (await commands.run("prune", str(mirror))).code == 0
        done = await commands.run("prune", str(mirror), "--no-dry-run")
        assert done.code == 6


@pytest.mark.parametrize("operation", ["write", "fsync", "rename", "open"])
async def test_a_disk_that_breaks_ends_the_run_with_6_and_the_next_one_completes(
    commands: Zygote, tmp_path: Path, operation: str
) -> None:
    registry, _ = kolla(6, layer_size=LAYER)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        hook = {"fail": {"operation": operation, "error": errno.EIO, "after": 12}}
        done = await commands.run(*words(server, mirror), hook=hook)
        assert done.code == 6, done.stderr
        assert done.stderr.count("quaymirror: ") == 1
        assert "input/output error" in done.stderr.splitlines()[-1]
        complete = check_whole(mirror, {})
        server.reset_records()
        assert (await commands.run(*words(server, mirror))).code == 0
        assert not complete & requested(server).keys()

    assert len(layouts.names(mirror)) == 6
    layouts.check(mirror)
