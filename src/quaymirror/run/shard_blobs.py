"""The blobs of a plan as one shard sees them: it brings its own, and waits for those of the other shards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from functools import partial

import anyio

from ..budget import Budget
from ..errors import Scope, Side, TimedOut
from ..events import BlobFinished, Notice
from ..oci import Descriptor, Digest, Reference
from ..selection.source import SourceAddress
from ..shards.plan import Division
from ..shards.share import ranked
from ..transfer.blob import fetch_blob
from ..transfer.image import TransferContext
from ..transfer.single_flight import SingleFlight
from ..transfer.stream import BlobJob, BlobProgress
from ..transfer.target import SharedTarget, Target
from .context import Run

# Pauses between two questions whether a blob has arrived.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_GROWTH = 1.5
# A shard that is killed loses what it has received of blobs that are not at the target yet: at most this part of the
# bytes of a plan; but several blobs are in flight always, however large they are.
_PART_IN_FLIGHT = 40
_LEAST_IN_FLIGHT = 4

ContextOf = Callable[[SourceAddress | None], Awaitable[TransferContext]]


class ShardBlobs:
    """The blobs of a plan during the run of one shard.

    Each blob is stored in the repository of the first image that needs it, its home, and mounted from there. If no blob
    of a shard arrives for some time, the next one that needs its blobs brings them. `most` blobs at most are between
    the first byte from the source and the last one to the target.
    """

    def __init__(
        self,
        run: Run,
        division: Division,
        target: Target,
        flights: SingleFlight[Hashable],
        context_of: ContextOf,
        most: int,
    ) -> None:
        shared = target.shared()
        assert shared is not None, "targets without it are refused"
        self._shared: SharedTarget = shared
        self._run = run
        self._division = division
        self._flights = flights
        self._context_of = context_of
        self._retry = run.options.client.retry
        self._began = self._retry.clock()
        self._signs: dict[int, float] = {}
        """The time at which a blob of each shard was last seen."""
        self._settled: set[Digest] = set()
        self._most = most
        self._in_flight = Budget(max(most, sum(blob.size for blob in division.plan.blobs) // _PART_IN_FLIGHT))

    async def bring_all(self) -> None:
        """Bring the blobs of this shard to the target, until the run is asked to stop.

        :raises QuaymirrorError: if the run can't go on; other failures are those of the images that need a blob.
        """
        blobs = iter(self._division.blobs())

        async def work() -> None:
            for blob in blobs:
                if self._run.stop.reason is not None:
                    return

                await self._share(blob)

        async with anyio.create_task_group() as tasks:
            for _ in range(self._most):
                tasks.start_soon(work)

    async def wait_for(self, job: BlobJob, named: Reference) -> int:
        """Return once the blob is at its home, or can't be brought there; see `BlobsElsewhere.wait_for`.

        The bytes of the blobs of a shard are those of the shard, and of none of its images.
        """
        await self._share(job.blob)
        return 0

    async def _share(self, blob: Descriptor) -> None:
        if blob.digest in self._settled or self._division.home(blob.digest) is None:
            return

        failure = await self._flights.run(("home", blob.digest), partial(self._settle, blob))
        if failure is None:
            return

        if failure.scope is Scope.RUN or self._run.stop.reason is not None:
            raise failure.error()

        # Each image that needs it fetches it from its own repository, and fails if that is impossible, too.
        if blob.digest not in self._settled:
            self._settled.add(blob.digest)
            (await self._context(blob)).failed.add(blob.digest)
            self._run.emit(Notice(f"{blob.digest.short} is not shared with other shards: {failure.message}"))

    async def _context(self, blob: Descriptor) -> TransferContext:
        home = self._division.home(blob.digest)
        assert home is not None
        return await self._context_of(home.image.source)

    async def _settle(self, blob: Descriptor) -> None:
        owner = self._division.share.owner(blob.digest)
        if owner == self._division.share.index or not await self._arrives(blob, owner):
            await self._bring(blob)

        self._settled.add(blob.digest)

    async def _bring(self, blob: Descriptor) -> None:
        home, context = self._division.home(blob.digest), await self._context(blob)
        assert home is not None
        reference = home.image.reference
        job = BlobJob(reference.repository, blob, reference.name)
        async with self._shared.sink_unless_stored(self._division.reference_at_target(home), blob) as sink:
            if sink is not None:
                # A blob that waits for another attempt is held, too: it may have received bytes.
                async with self._in_flight.holding(self._weight(blob)):
                    await fetch_blob(BlobProgress(job, context.meters), context.source, sink, context.slots)

                self._run.emit(BlobFinished(blob.digest, blob.size, None))

    def _weight(self, blob: Descriptor) -> int:
        """Return the bytes of the budget that a blob takes: of small ones `most` fit, of large ones several."""
        size = self._in_flight.size
        return max(-(-size // self._most), min(blob.size, size // _LEAST_IN_FLIGHT))

    async def _arrives(self, blob: Descriptor, owner: int) -> bool:
        """Wait until `blob` of another shard is at the target; return False if this shard has to bring it."""
        home, pause = self._division.home(blob.digest), _FIRST_PAUSE
        assert home is not None
        reference = self._division.reference_at_target(home)
        while not await self._shared.find_blob(reference, blob):
            if self._takes_over(blob, owner):
                self._run.emit(Notice(f"shard {owner} is silent: its blobs are brought by others", lasting=True))
                return False

            if self._run.stop.reason is not None:
                raise TimedOut(
                    f"stopped while waiting for a blob of shard {owner}", scope=Scope.IMAGE, side=Side.TARGET
                )

            await self._retry.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)

        self._signs[owner] = self._retry.clock()
        return True

    def _takes_over(self, blob: Descriptor, owner: int) -> bool:
        """Return True if the owner of a blob is silent, and all shards that would take it over before this one."""
        index = self._division.share.index
        others = self._division.needing(blob.digest) - {owner} | {index}
        ranks = ranked(blob.digest, others)
        return all(self._is_silent(shard) for shard in (owner, *ranks[: ranks.index(index)]))

    def _is_silent(self, shard: int) -> bool:
        since = max(self._began, self._signs.get(shard, self._began))
        return self._retry.clock() - since >= self._division.patience
