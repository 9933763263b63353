"""Locks on local file systems and on NFS, which has other rules."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from quaymirror.emit.publish import append_shared, publish_directory
from quaymirror.errors import LockHeld
from quaymirror.store.layout import OCILayout
from quaymirror.store.lock import locked, reading


@pytest.fixture(autouse=True)
def _rules_of_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply the rules of NFS: exclusive locks need a descriptor for writing, shared ones for reading (flock(2))."""
    local = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        forbidden = fcntl.LOCK_EX if mode == os.O_RDONLY else fcntl.LOCK_SH if mode == os.O_WRONLY else 0
        if operation & forbidden:
            raise OSError(errno.EBADF, "Bad file descriptor")

        local(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


async def test_a_mirror_is_written_to_pruned_and_read_one_after_the_other(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path) as layout:
        with layout.alone(), pytest.raises(LockHeld), reading(tmp_path / ".quaymirror"):
            pass

        with reading(tmp_path / ".quaymirror"), pytest.raises(LockHeld), layout.alone():
            pass

        with pytest.raises(LockHeld), locked(tmp_path / ".quaymirror/lock"):
            pass


def test_images_change_shared_files_one_after_the_other(tmp_path: Path) -> None:
    for name in ("nova", "glance"):
        out = tmp_path / name
        out.mkdir()
        (out / "catalog.json").write_text(json.dumps({name: {"latest": "x.json"}}))
        publish_directory(out, tmp_path / "final")
        (out / "spilled").write_text(f"{name}\n")
        append_shared(tmp_path / "shared", out / "spilled")

    assert set(json.loads((tmp_path / "final/catalog.json").read_text())) == {"nova", "glance"}
    assert (tmp_path / "shared").read_text() == "nova\nglance\n"
    assert {path.name for path in (tmp_path / "final").iterdir()} == {"catalog.json", ".quaymirror"}
