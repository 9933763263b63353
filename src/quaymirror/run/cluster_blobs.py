"""The blobs of a run that the workers of a cluster fetch, as the coordinator orders them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import field
from functools import partial
from itertools import count
from typing import Protocol

import anyio

from ..errors import AccessDenied, CredentialsRefused, Failure, QuaymirrorError, ServiceError, Side
from ..events import BlobFinished, Notice, WorkerReported
from ..http.limiter import HostLimiters, PauseSeen
from ..oci import Digest, Reference
from ..registry.refusals import UploadLost
from ..selection.source import SourceAddress
from ..text import counted, human_bytes
from ..transfer.single_flight import SingleFlight
from ..transfer.stream import BlobJob
from ..transfer.target import SharedTarget, Target
from ..values import dataclass
from .cluster_worker import BlobOrder, BlobResult, settings_of
from .context import Run

# Orders that are given at a time, per thread of the workers: a few are on their way when a thread is free.
_ORDERS_PER_THREAD = 4


class BlobWorkers(Protocol):
    """The workers of a cluster. `pause_seen` gets the pauses that hosts ask of any of them."""

    address: str
    threads: int
    workers: int
    pause_seen: PauseSeen

    async def bring(self, order: BlobOrder) -> BlobResult:
        """Let a worker carry out `order`.

        :raises QuaymirrorError: if no worker can.
        """


class LargestFirst:
    """Turns of which at most `most()` are taken at a time; of the callers that wait the largest is next."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._taken = 0
        self._waiting: list[tuple[int, int, anyio.Event]] = []
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Hold a turn for something of `size`."""
        admitted = anyio.Event()
        heapq.heappush(self._waiting, (-size, next(self._numbers), admitted))
        self._admit()
        try:
            await admitted.wait()
            yield
        finally:
            if admitted.is_set():
                self._taken -= 1
            else:
                self._waiting = [each for each in self._waiting if each[2] is not admitted]
                heapq.heapify(self._waiting)

            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < max(1, self._most()):
            self._taken += 1
            heapq.heappop(self._waiting)[2].set()


class ClusterBlobs:
    """The blobs of a run that workers bring, each to the repository of the first image that needs it.

    The others mount it from there. An order is given once the limiter of the source's host has granted its requests.
    What the workers can't bring, the image fetches itself. It fails if the target has refused a blob to a worker:
    another attempt would cost the same bytes again.
    """

    def __init__(self, run: Run, workers: BlobWorkers, target: Target, limiters: HostLimiters) -> None:
        shared = target.shared()
        assert shared is not None, "targets without it are refused"
        self._shared: SharedTarget = shared
        self._run = run
        self._workers = workers
        self._limiters = limiters
        self._turns = LargestFirst(lambda: _ORDERS_PER_THREAD * workers.threads)
        self._settled: set[Digest] = set()
        self._fetched: dict[Digest, int] = {}
        self._hosts: set[str] = set()
        self._reasons: Counter[str] = Counter()
        self._requests = self._orders = 0.0
        self._granted = 0.0  # and not used
        workers.pause_seen = self._pause

    def of_source(self, address: SourceAddress | None, flights: SingleFlight[Hashable]) -> ClusterSource | None:
        """Return the blobs of one source, None for files of this machine."""
        address = address or SourceAddress.of_origin("quay", self._run.options.source.origin)
        return None if address.is_layout else ClusterSource(self, address, flights)

    def summary(self) -> str:
        """Return what the workers brought, in one line; "" if nothing was ordered."""
        if not self._settled:
            return ""

        totals = self._run.workers.values()
        blobs, size = sum(each["blobs"] for each in totals), sum(each["bytes_fetched"] for each in totals)
        from_here = sum(self._reasons.values())
        more = f"; {counted(from_here, 'blob was', 'blobs were')} left to this machine" if from_here else ""
        return (
            f"{counted(len(totals), 'worker')} at {self._workers.address} brought {counted(blobs, 'blob')}, "
            f"{human_bytes(size)}{more}"
        )

    async def wait_for(
        self, job: BlobJob, named: Reference, address: SourceAddress, flights: SingleFlight[Hashable]
    ) -> int:
        """Return once the blob is at the target, or can't be brought there; see `BlobsElsewhere.wait_for`.

        :raises QuaymirrorError: if the target has refused it to a worker.
        """
        digest = job.blob.digest
        if digest not in self._settled:
            failure = await flights.run(("cluster", digest), partial(self._settle, job, named, address))
            if failure is not None:
                raise failure.error()

        return self._fetched.pop(digest, 0)

    async def _settle(self, job: BlobJob, named: Reference, address: SourceAddress) -> None:
        blob, options = job.blob, self._run.options
        async with self._turns.turn(blob.size):
            host = address.registry_name
            self._hosts.add(host)
            limiter = self._limiters(host, "blobs")
            granted = max(1, round(self._requests / self._orders)) if self._orders else 1
            await limiter.grant(granted)
            order = BlobOrder(
                run_id=self._run.run_id,
                source=address,
                job=job,
                place=self._run.spec.upload_place(named),
                settings=settings_of(options, self._workers.workers),
            )
            with self._run.progress.meters.transfer(job.label, blob.digest, blob.size):
                result = await self._carried_out(order)

            self._orders += 1
            self._requests += result.requests
            # A result may count requests of other orders of the same worker.
            self._granted += granted - result.requests
            limiter.charge(-self._granted)
            self._granted = max(0.0, self._granted)

        self._record(result)
        failure = result.failure
        if failure is not None and result.worker and _is_refusal(failure):
            raise failure.error()

        if failure is None:
            limiter.record_answered()
            if not await self._shared.find_blob(named, blob):
                failure = Failure.of(QuaymirrorError("the target lacks a blob that a worker has brought"))

        if failure is not None:
            self._note(failure)
        elif result.bytes:
            self._fetched[blob.digest] = result.bytes
            self._run.emit(BlobFinished(blob.digest, blob.size, None))

        self._settled.add(blob.digest)

    async def _carried_out(self, order: BlobOrder) -> BlobResult:
        try:
            return await self._workers.bring(order)
        except QuaymirrorError as error:
            return BlobResult(failure=Failure.of(error))

    def _record(self, result: BlobResult) -> None:
        self._run.progress.meters.fetched_bytes += result.bytes
        if result.worker:
            totals = self._run.workers.setdefault(result.worker, {"blobs": 0, "bytes_fetched": 0, "busy_s": 0.0})
            totals["blobs"] += result.failure is None
            totals["bytes_fetched"] += result.bytes
            totals["busy_s"] += result.seconds
            self._run.emit(WorkerReported(result.worker, result.bytes, result.failure is None))

    def _note(self, failure: Failure) -> None:
        self._reasons[failure.name] += 1
        if self._reasons[failure.name] == 1:
            self._run.emit(
                Notice(f"blobs that workers can't bring are left to this machine: {failure.message}", lasting=True)
            )

    def _pause(self, host: str, seconds: float, reason: str) -> None:
        """Grant nothing while a host wants a pause, which a source may have redirected to."""
        self._limiters(host, "blobs").record_complaint(seconds, reason)
        for source in self._hosts - {host}:
            self._limiters(source, "blobs").host.pause(seconds, f"{host}: {reason}")


def _is_refusal(failure: Failure) -> bool:
    """Return True if the target has refused a blob, which it would refuse this machine as well.

    A worker may have other credentials, or no way to the target: then this machine tries it.
    """
    is_answer = failure.is_a(ServiceError, UploadLost) and not failure.is_a(AccessDenied, CredentialsRefused)
    return failure.side is Side.TARGET and is_answer


@dataclass(frozen=True, slots=True)
class ClusterSource:
    """The blobs of the source at `address` that workers bring."""

    blobs: ClusterBlobs
    address: SourceAddress
    flights: SingleFlight[Hashable] = field(repr=False)

    async def wait_for(self, job: BlobJob, named: Reference) -> int:
        """Return once the blob is at the target, or can't be brought there; see `BlobsElsewhere.wait_for`."""
        return await self.blobs.wait_for(job, named, self.address, self.flights)
