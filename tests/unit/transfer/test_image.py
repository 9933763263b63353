"""The transfer of one image: its blobs may come for other images, and each image asks its own repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import anyio
import pytest
from graphs import described, image_of
from memory_target import MemoryTarget

from quaymirror.catalog.base import PinnedImage
from quaymirror.errors import ContentMissing, NotFound, Phase
from quaymirror.events import ignore
from quaymirror.http.retry import Attempts, RetryPolicy
from quaymirror.oci import Digest, Manifest, Reference, Repository
from quaymirror.progress.meters import Meters
from quaymirror.registry.source import BlobRequest
from quaymirror.run.mirror_image import ImageMirror
from quaymirror.store.records import ImageRecord
from quaymirror.store.storage import blob_key
from quaymirror.transfer.image import ImageTransfer, TransferContext
from quaymirror.transfer.single_flight import SingleFlight
from quaymirror.transfer.slots import FetchSlots, ImageSlot

FIRST, SECOND = described(b"first"), described(b"other")


@dataclass
class GoneSource:
    """A registry with manifests and missing blobs; it answers for a blob once `may_answer` is set."""

    images: dict[str, Manifest] = field(default_factory=dict)
    requests: Counter[tuple[str, Digest]] = field(default_factory=Counter)
    may_answer: dict[tuple[str, Digest], anyio.Event] = field(default_factory=dict)

    def attempts(self, what: str, *, brief: bool = False) -> Attempts:
        return Attempts(RetryPolicy(), what)

    async def root(self, reference: Reference) -> tuple[Manifest, bool]:
        return self.images[reference.repository.name], False

    async def manifest(self, repository: Repository, digest: Digest, **_: Any) -> NoReturn:
        raise NotFound(f"{repository}@{digest}")

    async def open(self, request: BlobRequest) -> NoReturn:
        key = (request.repository.name, request.blob.digest)
        self.requests[key] += 1
        await self.may_answer.setdefault(key, anyio.Event()).wait()
        raise NotFound(f"{request.repository}: {request.blob.digest}")


class WholeBlob:
    """A blob that is sent from its start."""

    offset, location, host, is_whole, validator, held, distortion = 0, "", "", True, None, 0.0, ""
    threaded = None

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.end = len(content)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._content

    def __enter__(self) -> WholeBlob:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class CompleteSource(GoneSource):
    """A registry that has all blobs."""

    async def open(self, request: BlobRequest) -> Any:
        self.requests[request.repository.name, request.blob.digest] += 1
        return WholeBlob({FIRST.digest: b"first", SECOND.digest: b"other"}[request.blob.digest])


class ForgetfulTarget(MemoryTarget):
    """A target that loses everything before its first commit."""

    async def commit(self, record: ImageRecord) -> None:
        if "lost" not in self.images:
            self.images["lost"] = record
            for node in record.contents:
                self.storage.delete(blob_key(node.digest))

            raise ContentMissing(f"{record.name} is not complete")

        await super().commit(record)


@dataclass
class Transfers:
    """Transfers of several images from `source` to one target, at the same time."""

    source: GoneSource
    context: TransferContext

    @classmethod
    @asynccontextmanager
    async def open(cls, slots: FetchSlots | None = None) -> AsyncIterator[Transfers]:
        source = GoneSource()
        async with anyio.create_task_group() as tasks:
            flights = SingleFlight[Hashable](tasks)
            slots = slots or FetchSlots(10, 10)
            yield cls(source, TransferContext(source, MemoryTarget(), flights, slots, Meters(), ignore))

    def image(self, name: str, image: Manifest, slot: ImageSlot | None = None) -> ImageTransfer:
        self.source.images[name] = image
        reference = Reference(Repository("quay.io", name), "tag", image.descriptor.digest)
        return ImageTransfer(PinnedImage(reference), self.context, slot or ImageSlot(self.context.slots))

    async def answer(self, name: str, digest: Digest) -> None:
        self.source.may_answer[name, digest].set()
        await anyio.wait_all_tasks_blocked()


async def test_a_blob_that_no_repository_has_is_requested_once_by_each_image() -> None:
    async def fails(transfer: ImageTransfer) -> None:
        with pytest.raises(NotFound):
            await transfer.run()

        assert transfer.phase is Phase.FETCH

    with anyio.fail_after(5):
        async with Transfers.open() as transfers, anyio.create_task_group() as tasks:
            tasks.start_soon(fails, transfers.image("org/theirs", image_of(FIRST)))
            tasks.start_soon(fails, transfers.image("org/another", image_of(SECOND)))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(fails, transfers.image("org/ours", image_of(FIRST, SECOND)))
            await anyio.wait_all_tasks_blocked()
            # Each failure of another image lets this one ask its own repository, while its other request is open.
            await transfers.answer("org/theirs", FIRST.digest)
            await transfers.answer("org/another", SECOND.digest)
            await transfers.answer("org/ours", FIRST.digest)
            await transfers.answer("org/ours", SECOND.digest)

    assert set(transfers.source.requests.values()) == {1}
    assert len(transfers.source.requests) == 4


async def test_an_image_releases_its_slot_once_all_of_its_blobs_have_begun() -> None:
    slots = FetchSlots(1, 2)

    async def run(transfer: ImageTransfer) -> None:
        async with transfer.slot:
            with pytest.raises(NotFound):
                await transfer.run()

    with anyio.fail_after(5):
        async with Transfers.open(slots) as transfers, anyio.create_task_group() as tasks:
            tasks.start_soon(run, transfers.image("org/first", image_of(FIRST)))
            await anyio.wait_all_tasks_blocked()
            assert slots.image_limit.borrowed_tokens == 0

            third = described(b"third")
            tasks.start_soon(run, transfers.image("org/second", image_of(FIRST, SECOND, third)))
            await anyio.wait_all_tasks_blocked()
            # Two blobs are being fetched: the third of them waits, so its image still holds the slot.
            assert slots.image_limit.borrowed_tokens == 1

            await transfers.answer("org/first", FIRST.digest)
            assert slots.image_limit.borrowed_tokens == 0
            for digest in (FIRST.digest, SECOND.digest, third.digest):
                if ("org/second", digest) in transfers.source.may_answer:
                    await transfers.answer("org/second", digest)

    assert slots.image_limit.borrowed_tokens == 0


async def test_a_blob_that_goes_on_for_a_failed_image_releases_no_slot_but_its_own() -> None:
    slots = FetchSlots(1, 2)
    first, second = ImageSlot(slots), ImageSlot(slots)
    async with first:
        first.expect([FIRST.digest])

    async with second:
        second.expect([SECOND.digest])
        first.begun(FIRST.digest)
        async with slots.blob(FIRST.digest, first.ticket):
            assert slots.image_limit.borrowed_tokens == 1

    assert slots.image_limit.borrowed_tokens == 0


async def test_content_that_the_target_lost_is_fetched_again_and_no_byte_of_it_counts_as_reused() -> None:
    image = image_of(FIRST, SECOND)
    async with anyio.create_task_group() as tasks:
        flights, slots = SingleFlight[Hashable](tasks), FetchSlots(10, 10)
        source = CompleteSource({"org/ours": image})
        context = TransferContext(source, ForgetfulTarget(), flights, slots, Meters(), ignore)
        mirror = ImageMirror(PinnedImage(Reference(Repository("quay.io", "org/ours"), "tag", image.descriptor.digest)))
        transfer = ImageTransfer(mirror.image, context, ImageSlot(slots))
        with mirror.recording(transfer):
            await transfer.run()

    outcome = mirror.outcome()
    assert outcome.error is None
    assert set(source.requests.values()) == {2}
    assert outcome.bytes_fetched == context.meters.fetched_bytes
    assert outcome.bytes_reused == 0
