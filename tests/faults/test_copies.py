"""A state and a disk that don't fit: restored backups, copies made of hard links, and long runs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

import anyio
import layouts
import pytest
from organizations import TAG, small_image
from trouble import messages, mirror

from quaymirror.errors import ExitCode
from quaymirror.events import Event, Notice
from quaymirror.store import layout
from quaymirror.testing import CutBody, Fault, Hold, QuayServer, Registry


def organization(*names: str) -> Registry:
    registry = Registry()
    for name in names:
        registry.organization("kolla").repository(name).push(TAG, small_image(name, 700_000))

    return registry


def digests(path: Path) -> dict[str, str]:
    """Return the content of every file."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("lost", ["blob", "manifest"])
async def test_a_restored_state_names_no_image_that_is_not_there(lost: str, tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    notices: list[str] = []
    gone = small_image("nova", 700_000)
    digest = gone.digest if lost == "manifest" else gone.blobs[1].digest

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)

    async with QuayServer(organization("nova", "glance")) as server:
        await mirror(server, path)
        (path / "blobs" / "sha256" / digest.partition(":")[2]).unlink()
        server.faults.append(Fault(f"kolla/nova/({'manifests' if lost == 'manifest' else 'blobs'})/", CutBody(1)))
        server.faults.append(Fault(digest.partition(":")[2], CutBody(1)))
        report = await mirror(server, path, observe)
        assert report.exit_code is ExitCode.PARTIAL, messages(report)
        assert list(layouts.names(path)) == [f"kolla/glance:{TAG}"]
        assert any("lack content" in notice for notice in notices), notices
        server.faults.clear()
        report = await mirror(server, path)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(layouts.names(path)) == 2


async def test_a_run_on_a_copy_made_of_hard_links_changes_nothing_in_the_other(tmp_path: Path) -> None:
    path, copy = tmp_path / "mirror", tmp_path / "copy"
    registry = organization("nova", "glance", "neutron")
    layer = small_image("neutron", 700_000).blobs[1].digest.partition(":")[2]
    async with QuayServer(registry) as server:
        server.faults.append(Fault(layer, CutBody(600_000), listener="cdn", nth=1))
        server.faults.append(Fault(layer, CutBody(0), listener="cdn", nth=range(2, 99)))
        await mirror(server, path)
        await anyio.to_thread.run_sync(lambda: shutil.copytree(path, copy, copy_function=os.link))
        before = digests(path)
        assert any(name.endswith(".part") for name in before), "an interrupted transfer is copied, too"
        server.faults.clear()
        registry.organization("kolla").repository("nova").push(TAG, small_image("moved", 700_000))
        report = await mirror(server, copy)
        assert report.exit_code is ExitCode.OK, messages(report)
        assert digests(path) == before
        assert (await mirror(server, path)).exit_code is ExitCode.OK

    layouts.check(copy)


async def test_complete_images_are_named_while_another_one_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_CHECKPOINT_SECONDS", 0.8)
    path, release = tmp_path / "mirror", asyncio.Event()
    layer = small_image("slow", 700_000).blobs[1].digest.partition(":")[2]
    async with QuayServer(organization("fast", "slow")) as server:
        server.faults.append(Fault(layer, Hold(release)))

        async def look() -> None:
            while not (path / "index.json").exists() or list(layouts.names(path)) != [f"kolla/fast:{TAG}"]:
                await anyio.sleep(0.05)

            release.set()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look)
                report = await mirror(server, path, timeouts=None)

    assert report.exit_code is ExitCode.OK, messages(report)
