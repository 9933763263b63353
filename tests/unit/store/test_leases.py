"""Leases of a mirror in a directory: files of living processes count, others do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quaymirror.errors import LockHeld
from quaymirror.oci import Digest
from quaymirror.store import leases
from quaymirror.store.lock import locked

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")


def test_a_lease_lists_what_was_found_last_and_ends_with_its_context(tmp_path: Path) -> None:
    with leases.leasing(tmp_path / "leases") as lease, leases.leasing(tmp_path / "leases") as other:
        assert lease.renew(lambda: {ONE, TWO})
        assert other.renew(lambda: {TWO})
        assert leases.leased(tmp_path / "leases") == {ONE, TWO}
        assert lease.renew(set)
        assert leases.leased(tmp_path / "leases") == {TWO}

    assert leases.leased(tmp_path / "leases") == set()
    assert list((tmp_path / "leases").glob("*.lease")) == []


def test_the_lease_of_a_killed_process_does_not_count_and_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from quaymirror.oci import Digest; from quaymirror.store import leases\n"
        "with leases.leasing(Path(sys.argv[1])) as lease:\n"
        "    lease.renew(lambda: {Digest.of(b'one')}); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.glob("*.lease"))) == 1
    assert leases.leased(tmp_path) == set()
    with leases.leasing(tmp_path):
        assert list(tmp_path.glob("*.lease")) == []


def test_a_lease_follows_a_mirror_that_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "mirror" / "leases"
    with leases.leasing(directory) as lease:
        lease.renew(lambda: {ONE})
        (tmp_path / "mirror").rename(tmp_path / "old")
        assert lease.renew(lambda: {ONE})
        assert leases.leased(directory) == {ONE}


def test_deletion_does_not_wait_for_ever_for_a_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_GUARD_SECONDS", 0.0)
    monkeypatch.setattr(leases, "_GUARD_PAUSE_SECONDS", 0.0)
    with leases.unchanged(tmp_path):
        pass

    with locked(tmp_path / "guard", shared=True), pytest.raises(LockHeld), leases.unchanged(tmp_path):
        pass
