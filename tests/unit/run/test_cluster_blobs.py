"""Orders for the workers of a cluster, and the address of its scheduler."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from quaymirror.errors import ConfigError, QuaymirrorError
from quaymirror.http.origin import Origin
from quaymirror.oci import Descriptor, Digest, Repository
from quaymirror.run.cluster_blobs import LargestFirst
from quaymirror.run.cluster_worker import BlobOrder, BlobResult, Worker
from quaymirror.selection.source import SourceAddress
from quaymirror.shards.scheduler import check_scheduler
from quaymirror.targets.kinds import UploadPlace
from quaymirror.transfer.stream import BlobJob


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


class FakeSite:
    """A site that takes until `may_close` to close, and orders that need it open."""

    may_close: anyio.Event

    def __init__(self, *_: object) -> None:
        self.orders = 0
        self.is_closed = False

    async def close(self) -> None:
        await self.may_close.wait()
        self.is_closed = True

    async def bring(self, *_: object) -> None:
        if self.is_closed:
            raise QuaymirrorError("closed")

    def take_requests(self) -> float:
        return 0.0


async def test_an_order_of_another_run_does_not_close_what_an_order_is_just_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quaymirror.run.cluster_worker.Site", FakeSite)
    FakeSite.may_close = anyio.Event()
    blob = Descriptor("application/octet-stream", Digest.of(b""), 0)
    repository = Repository("quay.io", "kolla/nova")
    worker, results = Worker(lambda *_: None), list[BlobResult]()

    async def carry_out(run_id: str) -> None:
        job = BlobJob(repository, blob, "nova")
        origin = Origin.of("https://quay.io")
        place = UploadPlace(origin, "kolla", repository)
        source = SourceAddress.of_origin("quay", origin)
        results.append(await worker.carry_out(BlobOrder(run_id, source, job, place, ())))

    await carry_out("earlier")
    async with anyio.create_task_group() as tasks:
        for run_id in ("one", "another"):
            tasks.start_soon(carry_out, run_id)

        await settle()
        FakeSite.may_close.set()

    assert [result.failure for result in results] == [None, None, None]
