"""Runs write into the mirror that they have locked, and remember the findings of verifications."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import layouts
import pytest
from aiohttp import web
from commands import run
from organizations import TAG
from trouble import NOVA, two_images

from quaymirror.testing import Call, Fault, QuayServer


def words(server: QuayServer) -> list[str]:
    return ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--concurrency", "1"]


def damage(mirror: Path) -> Path:
    """Change a byte of the largest blob, and return its file."""
    blob = max((mirror / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[100] ^= 1
    blob.write_bytes(content)
    return blob


async def test_what_a_verification_found_is_fetched_again_by_the_next_run(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        await run(*words(server), cwd=tmp_path, check=0)
        damage(tmp_path / "mirror")
        await run(*words(server), cwd=tmp_path, check=0)
        await run("verify", "mirror", cwd=tmp_path, check=8)
        done = await run(*words(server), cwd=tmp_path, check=0)
        assert f"mirrored   {NOVA}" in done.stderr
        await run("verify", "mirror", cwd=tmp_path, check=0)
        before = len(server.requests)
        done = await run(*words(server), cwd=tmp_path, check=0)
        assert not any("/blobs/" in request.path for request in server.requests[before:])
        assert "unchanged        2" in done.stderr

    layouts.check(tmp_path / "mirror")


async def test_a_repair_knows_the_server_from_the_state(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        await run(*words(server), cwd=tmp_path, check=0)
        damage(tmp_path / "mirror")
        # What a verification has found stays known, and repairable.
        await run("verify", "mirror", cwd=tmp_path, check=8)
        await run("verify", "mirror", "--repair", cwd=tmp_path, check=0)

    layouts.check(tmp_path / "mirror")


@pytest.mark.parametrize("what", ["lock", "everything of ours"])
async def test_a_lock_that_is_deleted_while_it_is_held_lets_no_second_run_in(what: str, tmp_path: Path) -> None:
    second: list[subprocess.CompletedProcess[str]] = []

    def delete(_: object) -> None:
        if not second:
            own = tmp_path / "mirror/.quaymirror"
            (own / "lock").unlink() if what == "lock" else shutil.rmtree(own)
            command = [sys.executable, "-m", "quaymirror", *words(server)]
            second.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False))

    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/v2/kolla/.*/blobs/", Call(delete)))
        await run(*words(server), cwd=tmp_path)

    assert second[0].returncode == 7, second[0].stderr


@pytest.mark.parametrize("what", ["an empty directory", "a copy", "nothing"])
async def test_nothing_is_written_into_a_directory_that_replaces_the_mirror(what: str, tmp_path: Path) -> None:
    mirror, old = tmp_path / "mirror", tmp_path / "old"
    before: list[tuple[str, float]] = []

    def replace(_: object) -> web.Response | None:
        if not old.exists():
            mirror.rename(old)
            if what == "a copy":
                shutil.copytree(old, mirror, copy_function=shutil.copy2)
            elif what == "an empty directory":
                mirror.mkdir()

            before[:] = contents(mirror)

        return None

    mirror.mkdir()
    (mirror / ".quaymirror").mkdir()
    (mirror / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/v2/kolla/.*/blobs/", Call(replace), nth=4))
        done = await run(*words(server), cwd=tmp_path)

    assert done.returncode == 6, done.stderr
    assert contents(mirror) == before


def contents(directory: Path) -> list[tuple[str, float]]:
    """Return the files of a directory and their times; opening a database makes and removes two of them."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return sorted((str(path.relative_to(directory)), path.stat().st_mtime) for path in files)
