"""Orders for the workers of a cluster, and the address of its scheduler."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from quaymirror.errors import ConfigError
from quaymirror.run.cluster_blobs import LargestFirst
from quaymirror.shards.scheduler import check_scheduler


async def settle() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_of_those_that_wait_the_largest_blob_is_next_and_no_more_than_the_limit_are_under_way() -> None:
    turns, order, release = LargestFirst(lambda: 2), list[int](), anyio.Event()

    async def take(size: int) -> None:
        async with turns.turn(size):
            order.append(size)
            await release.wait()

    async with anyio.create_task_group() as tasks:
        for size in (5, 1, 3, 9, 7):
            tasks.start_soon(take, size)

        await settle()
        assert order == [5, 1]
        release.set()

    assert order == [5, 1, 9, 7, 3]


async def test_a_caller_that_is_cancelled_while_it_waits_takes_no_turn() -> None:
    turns, order = LargestFirst(lambda: 1), list[int]()

    async def take(size: int) -> None:
        async with turns.turn(size):
            order.append(size)

    async with anyio.create_task_group() as tasks, turns.turn(0):
        with anyio.move_on_after(0):
            await take(9)

        tasks.start_soon(take, 1)
        await settle()
        assert order == []

    assert order == [1]


async def test_without_workers_one_blob_at_a_time_goes_on_so_that_none_waits_for_ever() -> None:
    turns = LargestFirst(lambda: 0)
    async with turns.turn(1):
        pass


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:8786", "tls://scheduler.example:8786"]
)
def test_schedulers_are_reached_by_tls_or_on_this_machine(address: str) -> None:
    check_scheduler(address)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://scheduler.example:8786", "use tls://"),
        ("tcp://10.0.0.1:8786", "use tls://"),
        ("scheduler.example:8786", "not a scheduler"),
        ("ucx://scheduler.example:8786", "not a scheduler"),
        ("tls://scheduler.example", "not a scheduler"),
        ("tls://scheduler.example:99999", "not a scheduler"),
    ],
)
def test_other_addresses_are_refused(address: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_scheduler(address)
