"""Power loss at any moment of a run: reported images are there, and every named file is correct."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from organizations import TAG, kolla, small_image
from power import Operation, Recorder, states, without

import quaymirror
from quaymirror import Options, Selection
from quaymirror.store import fsops
from quaymirror.store.fsops import Fsync
from quaymirror.testing import QuayServer

EVERYTHING = Selection("kolla", "*", TAG)


@contextmanager
def recorded() -> Iterator[Recorder]:
    recorder = Recorder()
    fsops.watch(recorder)
    try:
        yield recorder
    finally:
        fsops.watch(None)


async def two_nights(mirror: Path, fsync: Fsync = Fsync.ALWAYS) -> list[Operation]:
    """Record the operations of two runs on the disk, the second one with moved, new and missing images."""
    registry, images = kolla(4, layer_size=2048)
    organization = registry.organization("kolla")
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url, concurrency=3, fsync=fsync)
        with recorded() as recorder:
            await quaymirror.sync(EVERYTHING, mirror, settings)
            organization.repository(next(iter(images))).push(TAG, small_image("moved", 600_000))
            organization.repository("new").push(TAG, small_image("new"))
            organization.repository(list(images)[-1]).delete_tag(TAG)
            # Pruned at once: the blobs of the moved and the deleted image are removed.
            settings = settings.replace(prune=True, grace=0, max_delete=100, keep_last=1, full_check_every=0)
            report = await quaymirror.sync(EVERYTHING, mirror, settings)

    assert report.exit_code == 0
    return recorder.log


def is_sync_of_a_directory(operation: Operation) -> bool:
    return operation.kind == "fsync" and not operation.inode


@pytest.mark.timeout(120)
async def test_a_power_loss_at_any_moment_leaves_nothing_wrong_and_loses_no_committed_image(tmp_path: Path) -> None:
    log = await two_nights(tmp_path / "mirror")
    found = list(states(log, tmp_path / "mirror"))
    assert len(found) > 1000
    assert any(operation.kind == "unlink" for operation in log)
    assert not any(found)
    # The test of the method: without these syncs, it finds the errors that they prevent.
    assert any(states(without(log, is_sync_of_a_directory), tmp_path / "mirror"))
    assert any(states(without(log, lambda o: o.kind == "fsync" and o.inode > 0), tmp_path / "mirror"))


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_one_sync_of_the_file_system_per_commit_is_as_safe(tmp_path: Path) -> None:
    log = await two_nights(tmp_path / "mirror", Fsync.BATCH)
    assert not any(operation.kind == "fsync" and operation.path.suffix == ".part" for operation in log)
    assert not any(states(log, tmp_path / "mirror", names_are_proof=False))
    assert any(states(without(log, lambda o: o.kind == "syncfs"), tmp_path / "mirror", names_are_proof=False))


async def test_without_fsync_only_directories_and_pruning_are_synced(tmp_path: Path) -> None:
    log = await two_nights(tmp_path / "mirror", Fsync.NEVER)
    made_once = {tmp_path.name, "mirror", ".oci-layout.new", ".quaymirror", "blobs", ".index.json.new"}
    assert {operation.path.name for operation in log if operation.kind in ("fsync", "syncfs")} <= made_once
