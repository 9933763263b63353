"""Two runs on one mirror: the second one names the holder of the lock, or waits."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import anyio
import layouts
import pytest
from organizations import TAG, kolla

import quaymirror
from quaymirror import Options, Report, Selection, Stop
from quaymirror.errors import ExitCode, LockHeld
from quaymirror.events import Event, Notice
from quaymirror.store import lock
from quaymirror.testing import Fault, Hold, QuayServer

EVERYTHING = Selection("kolla", "*", TAG)


async def test_the_second_run_names_the_holder_of_the_lock_or_waits_for_the_first(tmp_path: Path) -> None:
    registry, images = kolla(6)
    mirror, events, reports = tmp_path / "mirror", list[Event](), list[Report]()
    async with QuayServer(registry) as server:
        go_on = asyncio.Event()
        server.faults.append(Fault("/blobs/", Hold(go_on), nth=1))
        settings = Options.of(server=server.url)

        async def run(settings: Options) -> None:
            reports.append(await quaymirror.sync(EVERYTHING, mirror, settings, observer=events.append))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, settings)
            while not server.count("/blobs/"):
                await anyio.sleep(0.01)

            with pytest.raises(LockHeld, match=rf"in use by another run \(process {os.getpid()} on "):
                await quaymirror.sync(EVERYTHING, mirror, settings)

            events.clear()
            tasks.start_soon(run, settings.replace(wait=True))
            while not any(isinstance(event, Notice) and "waiting for it to end" in event.message for event in events):
                await anyio.sleep(0.01)

            go_on.set()

    assert [report.exit_code for report in reports] == [ExitCode.OK, ExitCode.OK]
    assert sorted(report.counts[quaymirror.Status.UNCHANGED] for report in reports) == [0, len(images)]
    layouts.check(mirror)


async def test_a_waiting_run_can_be_stopped(tmp_path: Path) -> None:
    mirror, stop = tmp_path / "mirror", Stop()
    async with QuayServer(kolla(1)[0]) as server:
        await quaymirror.sync(EVERYTHING, mirror, Options.of(server=server.url))
        server.reset_records()
        with lock.locked(mirror / ".quaymirror/lock"):

            def observe(event: Event) -> None:
                if isinstance(event, Notice):
                    stop.request("interrupted")

            settings = Options.of(server=server.url, wait=True)
            report = await quaymirror.sync(EVERYTHING, mirror, settings, observer=observe, stop=stop)

        assert report.stopped == "interrupted"
        assert report.exit_code is ExitCode.PARTIAL
        assert not server.requests


async def test_a_deleting_writer_excludes_all_others_and_readers_share(tmp_path: Path) -> None:
    path = tmp_path / ".quaymirror/lock"
    path.parent.mkdir()
    with lock.locked(path), pytest.raises(LockHeld), lock.locked(path):
        pass

    with lock.locked(path), lock.locked(tmp_path / ".quaymirror/readers", shared=True) as readers:
        with lock.reading(path.parent), pytest.raises(LockHeld, match="is being read"), readers.alone():
            pass

        with readers.alone(), pytest.raises(LockHeld, match="in use by another run"), lock.reading(path.parent):
            pass

        with lock.reading(path.parent):
            pass
