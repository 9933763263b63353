"""Buffers of uploads, which are used again."""

from __future__ import annotations

from quaymirror.store.buffers import BufferPool

MIB = 1024 * 1024


async def test_a_buffer_is_used_again_for_a_blob_of_about_its_size_while_transfers_go_on() -> None:
    pool = BufferPool(10 * MIB)
    await pool.budget.reserve(1)
    first = pool.take(3 * MIB)
    pool.give_back(first)
    assert pool.take(MIB) is not first
    assert pool.take(4 * MIB) is not first
    assert pool.take(2 * MIB) is first
    assert pool.take(2 * MIB) is not first


async def test_a_buffer_is_not_used_again_and_stays_as_it_is_as_long_as_a_library_reads_it() -> None:
    pool = BufferPool(10 * MIB)
    await pool.budget.reserve(1)
    first = pool.take(MIB)
    first[:] = b"x" * MIB
    view = memoryview(first)
    pool.give_back(first)
    assert pool.take(MIB) is not first
    assert bytes(view) == b"x" * MIB
    view.release()
    assert pool.take(MIB) is first
    assert bytes(first) == b"x" * MIB


async def test_free_buffers_make_way_for_those_that_are_needed() -> None:
    pool = BufferPool(10 * MIB)
    await pool.budget.reserve(1)
    small, large = pool.take(4 * MIB), pool.take(6 * MIB)
    pool.give_back(small)
    pool.give_back(large)
    assert len(pool.take(MIB)) == MIB
    assert pool.take(6 * MIB) is not large
    assert pool.take(4 * MIB) is not small


async def test_nothing_is_kept_without_transfers() -> None:
    pool = BufferPool(10 * MIB)
    reserved = await pool.budget.reserve(1)
    first = pool.take(MIB)
    pool.budget.release(reserved)
    pool.give_back(first)
    assert pool.take(MIB) is not first
