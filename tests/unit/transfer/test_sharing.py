"""Blobs that several targets need are fetched once and copied, and each copy is verified."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from quaymirror.errors import StoreError
from quaymirror.oci import Descriptor, Digest
from quaymirror.store.local_storage import LocalStorage
from quaymirror.store.reader import LayoutReader
from quaymirror.transfer.sharing import BlobSharing

CONTENT = b"layer" * 300_000
BLOB = Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(CONTENT), len(CONTENT))


class Files:
    """A provider with one file for all requests."""

    def __init__(self, path: Path, content: bytes = CONTENT) -> None:
        self._path = path
        path.write_bytes(content)

    def blob_file(self, node: Descriptor) -> Path | None:
        return self._path if node == BLOB else None


def store_at(root: Path) -> LocalStorage:
    store = LocalStorage(root)
    store.create()
    return store


async def copied(pool: BlobSharing, store: LocalStorage) -> bool:
    async with store.sink(BLOB) as sink:
        return await pool.copy(BLOB, sink, borrower=store)


async def test_a_blob_of_another_target_is_copied_and_hashed(tmp_path: Path) -> None:
    pool, store = BlobSharing(), store_at(tmp_path / "mine")
    assert not await copied(pool, store)
    pool.register(Files(tmp_path / "theirs"))
    assert await copied(pool, store)
    assert LayoutReader(store).verify(BLOB)


async def test_a_target_does_not_copy_from_itself(tmp_path: Path) -> None:
    pool, files = BlobSharing(), Files(tmp_path / "theirs")
    pool.register(files)
    assert pool.locate(BLOB, borrower=files) is None
    assert pool.locate(BLOB, borrower=None) is not None


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT[:-9], CONTENT + b"x", b""])
async def test_a_copy_of_wrong_bytes_is_rejected_and_the_blob_can_be_fetched_afterwards(
    tmp_path: Path, content: bytes
) -> None:
    pool, store = BlobSharing(), store_at(tmp_path / "mine")
    pool.register(Files(tmp_path / "theirs", content))
    async with store.sink(BLOB) as sink:
        assert not await pool.copy(BLOB, sink, borrower=store)
        await sink.write(CONTENT[sink.offset :])
        await sink.commit()

    assert LayoutReader(store).verify(BLOB)


async def test_a_file_that_is_removed_in_the_meantime_is_not_copied(tmp_path: Path) -> None:
    pool, store = BlobSharing(), store_at(tmp_path / "mine")
    pool.register(Files(tmp_path / "theirs"))
    (tmp_path / "theirs").unlink()
    assert not await copied(pool, store)


async def test_the_bytes_of_an_earlier_run_are_not_copied_again(tmp_path: Path) -> None:
    pool, store = BlobSharing(), store_at(tmp_path / "mine")
    partial = tmp_path / "mine" / ".quaymirror" / "ingest" / f"sha256-{BLOB.digest.encoded}.part"
    partial.write_bytes(CONTENT[:1_000_000])
    pool.register(Files(tmp_path / "theirs"))
    assert await copied(pool, store)
    assert LayoutReader(store).verify(BLOB)


async def test_a_disk_that_is_full_ends_the_run_that_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    pool, store = BlobSharing(), store_at(tmp_path / "mine")
    monkeypatch.setattr("quaymirror.store.fsops.write_all", full)
    pool.register(Files(tmp_path / "theirs"))
    with pytest.raises(StoreError):
        await copied(pool, store)


async def test_one_target_at_a_time_fetches_a_blob_without_delaying_other_blobs() -> None:
    pool, at_work, most = BlobSharing(), 0, 0

    async def get(digest: Digest) -> None:
        nonlocal at_work, most
        async with pool.exclusive(digest):
            at_work += 1
            most = max(most, at_work)
            await anyio.lowlevel.checkpoint()
            at_work -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(get, BLOB.digest)

    assert most == 1
    async with pool.exclusive(BLOB.digest):
        await get(Digest.of(b"another"))
