"""Watching the run of another process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import anyio
import layouts
from commands import run
from organizations import TAG, kolla

from quaymirror.testing import Fault, Hold, QuayServer


async def test_a_run_is_watched_from_another_process_until_it_ends(tmp_path: Path) -> None:
    registry, _ = kolla(4)
    live = tmp_path / "mirror" / ".quaymirror" / "live.json"
    async with QuayServer(registry) as server, anyio.create_task_group() as tasks:
        held = Hold(asyncio.Event())
        server.faults.append(Fault(".*", held, listener="cdn"))
        tasks.start_soon(lambda: run("sync", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0))
        with anyio.fail_after(30):
            while not live.exists() or not json.loads(live.read_text())["in_flight"]:
                await anyio.sleep(0.05)

        once = await run("watch", "mirror", "--once", cwd=tmp_path, check=0)
        held.until.set()
        followed = await run("watch", "mirror", cwd=tmp_path, check=0)

    assert "0 of 4 images done" in once.stdout
    assert "mirrored         4" in followed.stderr
    after = await run("watch", "mirror", "--once", cwd=tmp_path, check=0)
    assert after.stdout.startswith("ended with exit code 0: 4 of 4 images done")
    assert "in flight" not in after.stdout
    layouts.check(tmp_path / "mirror")


async def test_a_run_that_was_killed_is_silent(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        await run("sync", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)

    live = tmp_path / "mirror" / ".quaymirror" / "live.json"
    document = json.loads(live.read_text())
    document["progress"]["finished"] = None
    live.write_text(json.dumps(document | {"time": document["time"] - 60}))
    done = await run("watch", "mirror", cwd=tmp_path, check=5)
    assert "nothing heard of the run for" in done.stderr
    live.write_text("{}")
    await run("watch", "mirror", cwd=tmp_path, check=2)
    await run("watch", "nowhere", cwd=tmp_path, check=2)
