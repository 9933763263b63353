"""A server that is pulled from all the time while its mirror changes: no pull fails, and nothing leaks.

QUAYMIRROR_SOAK_SECONDS is the duration of the run with a sync after each pause (default 60); 1800 is the long one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from organizations import TAG, kolla, small_image
from serving import Client, served, write_layout

import quaymirror
from quaymirror import Options, Selection
from quaymirror.testing import QuayServer

SECONDS = float(os.environ.get("QUAYMIRROR_SOAK_SECONDS", "60"))
PAUSE_SECONDS = min(60.0, SECONDS / 20)
PULLERS = 4
_MIB = 1024 * 1024

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS * 2 + 300)]


@contextmanager
def server(mirror: Path) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Run the command until the context ends."""
    command = [sys.executable, "-m", "quaymirror", "serve", str(mirror), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process, Client(process.stderr.readline().split()[-1])
    finally:
        process.kill()
        process.communicate()


def memory_of(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Return the resident bytes and the open files of a process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE"), len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def pull(client: Client, name: str) -> int:
    """Pull an image as clients do, by its tag and then by digest; return the number of requests."""
    base = f"/v2/kolla/{name}"
    head = client.request("HEAD", f"{base}/manifests/{TAG}")
    assert head.status == 200, head
    digests, count = [head.headers["docker-content-digest"]], 1
    while digests:
        digest = digests.pop()
        answer = client.request("GET", f"{base}/manifests/{digest}")
        assert answer.status == 200, answer
        assert f"sha256:{hashlib.sha256(answer.body).hexdigest()}" == digest
        document = json.loads(answer.body)
        digests += [child["digest"] for child in document.get("manifests", [])]
        count += 1
        for blob in [*filter(None, [document.get("config")]), *document.get("layers", [])]:
            answer = client.request("GET", f"{base}/blobs/{blob['digest']}")
            assert answer.status == 200, answer
            assert f"sha256:{hashlib.sha256(answer.body).hexdigest()}" == blob["digest"]
            count += 1

    return count


async def test_no_pull_fails_while_syncs_move_and_prune_images(tmp_path: Path) -> None:
    registry, images = kolla(12)
    target, names = tmp_path / "mirror", sorted(images)
    options = {"prune": True, "grace": 0.0, "max_delete": 100.0, "keep_last": 1, "full_check_every": 0.0}
    requests = 0
    async with QuayServer(registry) as source:
        wanted = Options.of(server=source.url, **options)
        await quaymirror.sync(Selection("kolla", "*", TAG), target, wanted)
        with server(target) as (process, client):
            deadline = time.monotonic() + SECONDS

            async def keep_pulling(number: int) -> None:
                nonlocal requests
                chooser = random.Random(number)
                while time.monotonic() < deadline:
                    requests += await anyio.to_thread.run_sync(pull, client, chooser.choice(names))

            async def keep_changing() -> None:
                night = 0
                while time.monotonic() < deadline:
                    night += 1
                    for name in random.Random(night).sample(names, 4):
                        image = small_image(f"{name}/{night}", 90_000, 3_000)
                        registry.organization("kolla").repository(name).push(TAG, image)

                    report = await quaymirror.sync(Selection("kolla", "*", TAG), target, wanted)
                    assert [outcome.error for outcome in report.outcomes if outcome.error] == []
                    await anyio.sleep(PAUSE_SECONDS)

            await anyio.to_thread.run_sync(partial(pull, client, names[0]))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_changing)
                for number in range(PULLERS):
                    tasks.start_soon(keep_pulling, number)

                await anyio.sleep(SECONDS / 3)
                early, files = memory_of(process)

            late, files_later = memory_of(process)

    assert requests > SECONDS
    # The cache of small content may fill up; its size is bounded.
    assert late - early < 64 * _MIB + 16 * _MIB
    assert files_later <= files + 2 * PULLERS


async def test_memory_is_flat_over_a_thousand_pulls(tmp_path: Path) -> None:
    registry, images = kolla(3, layer_size=300_000)
    async with QuayServer(registry) as source:
        await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "mirror", Options.of(server=source.url))

    with server(tmp_path / "mirror") as (process, client):
        before = 0
        for number in range(1_000):
            await anyio.to_thread.run_sync(pull, client, sorted(images)[number % 3])
            if number == 100:
                before, _ = memory_of(process)

        after, _ = memory_of(process)

    assert after - before < 4 * _MIB


async def test_thousands_of_idle_connections_leave_room_for_pulls(tmp_path: Path) -> None:
    image = small_image("one")
    root, idle = write_layout(tmp_path / "m", {f"kolla/one:{TAG}": image}), list[socket.socket]()
    with server(root) as (process, client):
        address = ("127.0.0.1", int(client.url.rpartition(":")[2]))
        try:
            for number in range(2_500):
                idle.append(socket.create_connection(address, timeout=20))
                if number % 2:
                    idle[-1].sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"[: number % 30])

            assert await anyio.to_thread.run_sync(pull, client, "one") == 4
            resident, files = memory_of(process)
            assert files > 2_500
            assert resident < 400 * _MIB
        finally:
            for connection in idle:
                connection.close()


async def test_further_connections_are_closed_at_the_limit(tmp_path: Path) -> None:
    root, idle = write_layout(tmp_path / "m", {f"kolla/one:{TAG}": small_image("one")}), list[socket.socket]()
    async with served(root, max_connections=20, idle_seconds=1.0) as client:
        address = ("127.0.0.1", int(client.url.rpartition(":")[2]))
        try:
            for _ in range(60):
                idle.append(socket.create_connection(address))

            await anyio.sleep(0.1)
            refused = 0
            for connection in idle:
                connection.setblocking(False)
                try:
                    refused += connection.recv(1) == b""
                except BlockingIOError:
                    pass
                except ConnectionResetError:
                    refused += 1

            assert refused == 40
            await anyio.sleep(1.5)
            assert (await client.get("/v2/")).status == 200
        finally:
            for connection in idle:
                connection.close()
