"""Ingest of a blob in segments: in any order, at any time, and verified."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaymirror.errors import DigestMismatch, ReadInterrupted, SizeMismatch, StoreError
from quaymirror.http.files import FileFill, Written
from quaymirror.oci import Descriptor, Digest
from quaymirror.store import lock
from quaymirror.store.ingest import BATCH_BYTES, BlobPaths, Ingest

SIZE = 4 * BATCH_BYTES + 12_345
CONTENT = random.Random(1).randbytes(SIZE)
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), SIZE)


async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    return await anyio.to_thread.run_sync(function, *arguments)


def begin(directory: Path) -> Ingest:
    paths = BlobPaths(directory / "x.part", directory / "done" / "x", syncs=False)
    ingest = Ingest(BLOB, paths, in_thread)
    ingest.resume()
    return ingest


async def stream(start: int, end: int, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(start, end, size):
        yield CONTENT[at : min(at + size, end)]


async def fetch(ingest: Ingest, start: int, end: int) -> None:
    piece = await ingest.segment(start, end)
    await piece.receive(stream(start, end))
    await piece.flush()


def reader(start: int, end: int, size: int = 100_000) -> Callable[[memoryview], int]:
    """Return a function that puts the bytes from `start` to `end` into buffers, at most `size` at a time."""
    content = memoryview(CONTENT)[start:end]
    at = 0

    def read(buffer: memoryview) -> int:
        nonlocal at
        chunk = content[at : at + min(size, len(buffer))]
        buffer[: len(chunk)] = chunk
        at += len(chunk)
        return len(chunk)

    return read


async def fetch_in_thread(ingest: Ingest, start: int, end: int) -> None:
    piece = await ingest.segment(start, end)
    await in_thread(piece.fill, reader(start, end))
    await piece.flush()


async def fetch_elsewhere(ingest: Ingest, start: int, end: int) -> None:
    """Write a segment as another process does, which has the descriptor only."""
    piece = await ingest.segment(start, end)
    await write_elsewhere(piece.threaded(), end)
    await piece.flush()


async def write_elsewhere(fill: FileFill, end: int) -> None:
    part = await fill.open()
    chunk = CONTENT[part.offset : end]
    assert part.end >= end
    os.pwrite(part.descriptor, chunk, part.offset)
    digest = hashlib.new(part.algorithm, CONTENT[:end]).hexdigest() if part.algorithm else ""
    await fill.record(Written(len(chunk), digest))


cuts = st.lists(st.integers(1, SIZE - 1), unique=True, max_size=8)


@given(
    cuts, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([fetch, fetch_in_thread, fetch_elsewhere])
)
@settings(max_examples=40, deadline=None)
def test_segments_in_any_order_make_the_blob(
    tmp_path_factory: pytest.TempPathFactory,
    edges: list[int],
    order: random.Random,
    at_once: bool,
    fetch: Callable[[Ingest, int, int], Coroutine[Any, Any, None]],
) -> None:
    directory = tmp_path_factory.mktemp("ingest")
    bounds = [0, *sorted(edges), SIZE]
    pieces = [*pairwise(bounds)]
    order.shuffle(pieces)

    async def all_of_it() -> None:
        ingest = begin(directory)
        await fetch(ingest, *pieces.pop())
        async with anyio.create_task_group() as tasks:
            for start, end in pieces:
                if at_once:
                    tasks.start_soon(fetch, ingest, start, end)
                else:
                    await fetch(ingest, start, end)

        assert ingest.gaps() == []
        await ingest.commit()
        ingest.close()

    anyio.run(all_of_it)
    assert (directory / "done" / "x").read_bytes() == CONTENT
    assert [path.name for path in directory.iterdir()] == ["done"]


async def test_all_of_a_blob_may_be_written_and_hashed_by_another_process(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    await write_elsewhere(ingest.threaded(), SIZE)
    await ingest.commit()
    ingest.close()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_the_hash_of_consecutive_parts_goes_on_in_the_other_process(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    keys: set[int] = set()
    for end in (800_000, SIZE):
        piece = await ingest.segment(ingest.offset if end == SIZE else 0, end)
        part = await piece.threaded().open()
        keys.add(part.key)
        assert part.algorithm == "sha256"
        await write_elsewhere(piece.threaded(), end)
        await ingest.prepare()

    assert len(keys) == 1
    await ingest.commit()
    ingest.close()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_a_wrong_hash_of_another_process_drops_the_bytes(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    fill = ingest.threaded()
    os.pwrite((await fill.open()).descriptor, bytes(SIZE), 0)
    await fill.record(Written(SIZE, hashlib.sha256(bytes(SIZE)).hexdigest()))
    with pytest.raises(DigestMismatch):
        await ingest.commit()

    await write_elsewhere(ingest.threaded(), SIZE)
    await ingest.commit()
    ingest.close()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_bytes_of_another_process_that_breaks_off_are_continued(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    with pytest.raises(ReadInterrupted):
        await write_elsewhere(ingest.threaded(), 1_000_000)

    assert ingest.offset == 1_000_000
    assert (await ingest.threaded().open()).algorithm == "sha256"
    await ingest.receive(stream(1_000_000, SIZE))
    await ingest.commit()
    ingest.close()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_errors_of_another_process_are_those_of_the_file(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    fill = ingest.threaded()
    await fill.open()
    with pytest.raises(StoreError, match=r"can't write .*x\.part: the disk is full"):
        await fill.record(Written(1000, error=errno.ENOSPC))

    with pytest.raises(SizeMismatch):
        await fill.record(Written(1000, has_too_many=True))

    assert ingest.offset == 0
    ingest.close()


async def test_a_file_that_another_process_still_writes_to_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    first = begin(tmp_path)
    helpers = os.dup((await first.threaded().open()).descriptor)
    os.pwrite(helpers, CONTENT, 0)
    first.close()  # as if the process had been killed

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            os.close(helpers)

    monkeypatch.setattr(time, "sleep", wait)
    again = begin(tmp_path)
    again.close()
    assert len(waited) == 3


async def test_a_file_that_another_process_keeps_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_CLAIM_SECONDS", 0.0)
    first = begin(tmp_path)
    with pytest.raises(StoreError, match=r"x\.part: another process still writes to it"):
        begin(tmp_path)

    first.close()


async def test_an_ingest_continues_at_the_gaps_between_segments(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    await fetch(ingest, 0, 600_000)
    await fetch(ingest, 1_000_000, 1_700_000)
    ingest.close()

    again = begin(tmp_path)
    assert again.gaps() == [(600_000, 1_000_000), (1_700_000, SIZE)]
    assert again.offset == 600_000
    await fetch(again, 600_000, 1_000_000)
    await again.prepare()
    assert again.offset == 1_700_000
    await again.receive(stream(again.offset, SIZE))
    await again.commit()
    again.close()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_bytes_in_order_after_segments_are_recorded_as_well(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    await fetch(ingest, 0, 600_000)
    await ingest.prepare()
    with pytest.raises(ReadInterrupted):
        await ingest.receive(stream(600_000, 600_000 + BATCH_BYTES, BATCH_BYTES))

    ingest.close()
    assert begin(tmp_path).gaps() == [(600_000 + BATCH_BYTES, SIZE)]


async def test_wrong_ranges_are_detected_by_the_digest_and_the_blob_starts_again(tmp_path: Path) -> None:
    """After a power loss the ranges may exist without their bytes."""
    (tmp_path / "x.part").write_bytes(bytes(SIZE))
    (tmp_path / "x.ranges").write_bytes(b"0 %d\n" % SIZE)
    ingest = begin(tmp_path)
    assert ingest.gaps() == []
    with pytest.raises(DigestMismatch):
        await ingest.commit()

    assert ingest.gaps() == [(0, SIZE)]
    await ingest.receive(stream(0, SIZE))
    await ingest.commit()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [None, b""])
async def test_ranges_without_bytes_are_ignored(tmp_path: Path, there: bytes | None) -> None:
    if there is not None:
        (tmp_path / "x.part").write_bytes(there)

    (tmp_path / "x.ranges").write_bytes(b"0 600000\n")

    assert begin(tmp_path).gaps() == [(0, SIZE)]
    assert not (tmp_path / "x.ranges").exists()


async def test_a_segment_refuses_more_than_its_bytes(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    piece = await ingest.segment(0, 100_000)
    with pytest.raises(SizeMismatch):
        await piece.receive(stream(0, 100_001, 50_001))

    assert piece.offset == 50_001


async def test_an_interrupted_segment_continues_where_it_was(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    piece = await ingest.segment(0, SIZE)
    with pytest.raises(ReadInterrupted):
        await piece.receive(stream(0, 700_000))

    await piece.receive(stream(piece.offset, SIZE))
    await piece.flush()
    await ingest.commit()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_a_thread_goes_on_where_the_event_loop_has_stopped(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    with pytest.raises(ReadInterrupted):
        await ingest.receive(stream(0, 100_000))

    await in_thread(ingest.fill, reader(100_000, SIZE))
    await ingest.commit()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT


async def test_a_thread_keeps_the_bytes_before_an_error_and_none_of_too_many(tmp_path: Path) -> None:
    ingest = begin(tmp_path)
    with pytest.raises(ReadInterrupted):
        await in_thread(ingest.fill, reader(0, 300_000))

    ingest.close()
    again = begin(tmp_path)
    assert again.offset == 300_000
    with pytest.raises(SizeMismatch):
        await in_thread(again.fill, reader(0, SIZE))

    assert again.offset == 0
    await in_thread(again.fill, reader(0, SIZE))
    await again.commit()
    assert (tmp_path / "done" / "x").read_bytes() == CONTENT
