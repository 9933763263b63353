"""The contract of a storage, checked for every implementation."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import obstore.store
import pytest
from memory_storage import MemoryStorage
from threads_filling import fill_in_thread

from quaymirror.errors import DigestMismatch, LockHeld, ReadInterrupted, SizeMismatch, TargetRefused
from quaymirror.http.bodies import Fill
from quaymirror.oci import Descriptor, Digest, Reference, Repository, mediatype
from quaymirror.store import prune
from quaymirror.store.bucket import BucketStorage
from quaymirror.store.index import update_index
from quaymirror.store.layout import OCILayout
from quaymirror.store.local_storage import LocalStorage
from quaymirror.store.objects import Objects
from quaymirror.store.reader import LayoutReader
from quaymirror.store.records import ImageRecord
from quaymirror.store.repair import rebuild
from quaymirror.store.retention import Retention
from quaymirror.store.state import State
from quaymirror.store.storage import INDEX, MARKER, BlobSink, Storage, blob_key
from quaymirror.store.verify import verify_storage

STORAGES: dict[str, Callable[[Path], Storage]] = {
    "local": LocalStorage,
    "memory": lambda _: MemoryStorage(),
    "bucket": lambda root: BucketStorage(root, Objects(obstore.store.MemoryStore(), "memory://bucket")),
}
LARGE = b"layer" * 300_000
NAME = Reference(Repository("quay.io", "kolla/nova-api"), "2025.1")


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return STORAGES[request.param](tmp_path / "layout")


@pytest.fixture
async def created(storage: Storage) -> Storage:
    async with storage.writing(None):
        storage.create()

    return storage


def described(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


def json_of(node: Descriptor) -> dict[str, object]:
    return {"mediaType": node.media_type, "digest": str(node.digest), "size": node.size}


async def store(storage: Storage, content: bytes) -> Descriptor:
    node = described(content)
    async with storage.sink(node) as sink:
        await sink.reset()
        await sink.write(content)
        await sink.commit()
        assert sink.committed

    return node


async def receive(sink: BlobSink, content: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    await sink.prepare()
    await sink.receive(chunks())
    await sink.commit()


async def receive_in_thread(sink: BlobSink, fill: Fill, content: bytes) -> None:
    await sink.prepare()
    await fill_in_thread(fill, content)
    await sink.commit()


async def mirror(layout: OCILayout, name: Reference, *layers: bytes) -> ImageRecord:
    nodes = tuple(described(content) for content in (b"config", *layers))
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_MANIFEST,
            "config": json_of(nodes[0]),
            "layers": [json_of(node) for node in nodes[1:]],
        }
    ).encode()
    root = described(raw, mediatype.OCI_MANIFEST)
    for node, content in zip((*nodes, root), (b"config", *layers, raw), strict=True):
        await layout.put_manifest(name, node, content)

    record = ImageRecord(name.name, "quay.io", root.digest, root, (*nodes, root), mirrored=1.0)
    await layout.commit(record)
    return record


async def test_an_empty_layout_is_created_for_the_first_writer(storage: Storage) -> None:
    assert not storage.exists()
    async with storage.writing(None):
        storage.create()
        assert storage.exists()

    assert storage.read(MARKER) == b'{"imageLayoutVersion": "1.0.0"}\n'
    assert list(storage.list_objects("blobs")) == []


async def test_other_content_is_refused(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "layout").mkdir()
    storage.replace("theirs", b"x")
    with pytest.raises(TargetRefused):
        storage.exists()

    with pytest.raises(TargetRefused):
        async with storage.writing(None):
            pass

    assert storage.read("theirs") == b"x"


async def test_an_object_is_put_only_if_absent_and_replaced_always(created: Storage) -> None:
    assert created.read("object") is None
    assert created.info("object") is None
    assert created.put("object", b"first")
    assert not created.put("object", b"second")
    assert created.read("object") == b"first"
    created.replace("object", b"third!")
    assert created.read("object") == b"third!"
    assert created.read("object", 2) == b"th"
    info = created.info("object")
    assert info is not None
    assert (info.key, info.size) == ("object", 6)
    with created.open("object") as file:
        assert (file.read(3), file.read()) == (b"thi", b"rd!")


async def test_an_object_is_deleted_once_or_twice(created: Storage) -> None:
    created.put("object", b"x")
    created.delete("object")
    created.delete("object")
    assert created.info("object") is None


async def test_blobs_are_listed_in_order_with_their_sizes(created: Storage) -> None:
    nodes = [await store(created, content) for content in (b"", b"one", b"three", LARGE)]
    listed = [(info.key, info.size) for info in created.list_objects("blobs")]
    assert listed == sorted((blob_key(node.digest), node.size) for node in nodes)
    assert all(info.modified > 0 for info in created.list_objects("blobs"))


async def test_only_wanted_objects_are_listed(created: Storage) -> None:
    one, two = [blob_key((await store(created, content)).digest) for content in (b"one", b"two")]
    assert [info.key for info in created.list_objects("blobs", wants=lambda key: key != one)] == [two]


WRONG = pytest.mark.parametrize(
    ("content", "error"),
    [(LARGE[:-1], ReadInterrupted), (LARGE + b"x", SizeMismatch), (LARGE[:-1] + b"x", DigestMismatch)],
    ids=["too short", "too long", "other bytes"],
)


@WRONG
async def test_a_sink_stores_nothing_but_the_blob(created: Storage, content: bytes, error: type[Exception]) -> None:
    node = described(LARGE)
    async with created.sink(node) as sink:
        with pytest.raises(error):
            await receive(sink, content)

        assert not sink.committed

    assert created.info(blob_key(node.digest)) is None
    await store(created, LARGE)
    assert created.read(blob_key(node.digest)) == LARGE


@WRONG
async def test_a_sink_stores_nothing_but_the_blob_if_a_thread_receives_it(
    created: Storage, content: bytes, error: type[Exception]
) -> None:
    node = described(LARGE)
    async with created.sink(node) as sink:
        await sink.prepare()
        if (fill := sink.threaded()) is None:
            return

        with pytest.raises(error):
            await receive_in_thread(sink, fill, content)

        assert created.info(blob_key(node.digest)) is None
        await receive_in_thread(sink, fill, LARGE[sink.offset :])

    assert created.read(blob_key(node.digest)) == LARGE


async def test_a_sink_replaces_a_damaged_blob(created: Storage) -> None:
    node = await store(created, b"content")
    created.replace(blob_key(node.digest), b"damaged")
    await store(created, b"content")
    assert created.read(blob_key(node.digest)) == b"content"


async def test_free_space_counts_what_is_stored_already(created: Storage) -> None:
    space = created.free_space()
    assert space is None or min(space) > 0
    assert created.stored_bytes(described(LARGE)) == 0
    assert created.stored_bytes(await store(created, LARGE)) == len(LARGE)


async def test_there_is_one_writer_and_the_next_one_waits_if_it_is_patient(storage: Storage) -> None:
    async with storage.writing(None):
        with pytest.raises(LockHeld):
            async with storage.writing(None):
                pass

        async def give_up(error: LockHeld) -> None:
            raise TimeoutError from error

        with pytest.raises(TimeoutError):
            async with storage.writing(give_up):
                pass

    async with storage.writing(None):
        pass


async def test_readers_and_a_deleting_writer_exclude_each_other(storage: Storage) -> None:
    async with storage.writing(None) as lock:
        with storage.reading(), storage.reading(), pytest.raises(LockHeld), lock.alone():
            pass

        with lock.alone(), pytest.raises(LockHeld), storage.reading():
            pass

        with storage.reading():
            pass


async def test_leased_images_are_not_deleted_and_neither_side_waits(storage: Storage, tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        kept, other = await mirror(layout, NAME, LARGE), await mirror(layout, Reference(NAME.repository, "old"), b"old")
        with storage.leasing() as lease:
            assert lease.renew(lambda: {kept.root.digest, other.root.digest})
            assert lease.renew(lambda: {kept.root.digest, Digest.of(b"missing")})
            await layout.use(partial(_forget, names={kept.name, other.name}))
            await prune_all(layout)
            assert storage.info(blob_key(Digest.of(b"old"))) is None
            assert all(storage.info(blob_key(node.digest)) for node in kept.contents)
            with layout.alone():
                assert not lease.renew(lambda: pytest.fail("the index may change now"))

            assert lease.renew(set)
            assert set(storage.leased()) == set()

        await prune_all(layout)
        assert list(storage.list_objects("blobs")) == []


def _forget(storage: Storage, state: State, names: set[str]) -> None:
    state.untag(names)
    update_index(storage, state)


async def prune_all(layout: OCILayout) -> None:
    with layout.alone():
        plan = await layout.use(partial(prune.make_plan, grace=0, retention=Retention(last=1)))
        await layout.use(partial(prune.carry_out, plan=plan))


async def test_a_reader_finds_the_images_that_were_mirrored(storage: Storage, tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        record = await mirror(layout, NAME, LARGE, b"small")
        await mirror(layout, Reference(NAME.repository, "latest"), b"small")

    reader = LayoutReader(storage)
    root = reader.resolve(NAME.name)
    assert root is not None
    assert root.digest == record.root.digest
    assert reader.resolve("kolla/nova-api:none") is None
    assert reader.tags("kolla/nova-api") == ["2025.1", "latest"]
    assert reader.tags("kolla/nova") == []
    assert set(reader.walk(root, lambda node, _: pytest.fail(str(node)))) == {*record.contents[:-1], root}
    with reader.open(Digest.of(LARGE)) as file:
        assert file.read() == LARGE

    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        assert await layout.has_image(NAME.pinned(record.source), "")


async def test_verify_names_missing_and_damaged_blobs(storage: Storage, tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        await mirror(layout, NAME, LARGE, b"small")

    found = await verify_storage(storage)
    assert (found.images, found.blobs, found.damages, found.orphans) == (1, 4, (), (0, 0))
    storage.delete(blob_key(Digest.of(LARGE)))
    storage.replace(blob_key(Digest.of(b"small")), b"llams")
    found = await verify_storage(storage)
    assert {damage.digest: damage.kind for damage in found.damages} == {
        Digest.of(LARGE): "missing",
        Digest.of(b"small"): "damaged",
    }


async def test_a_lost_state_is_rebuilt_and_orphans_are_pruned(storage: Storage, tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        record = await mirror(layout, NAME, b"small")

    (tmp_path / "layout/.quaymirror/state.db").unlink()
    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        rebuilt = await layout.use(rebuild)
        # A storage may have a copy of the state.
        assert (rebuilt.recorded + rebuilt.known, rebuilt.broken) == (1, ())
        assert await layout.has_image(NAME.pinned(record.source), "")
        await layout.put_manifest(NAME, described(LARGE), LARGE)
        with layout.alone():
            plan = await layout.use(partial(prune.make_plan, grace=0, retention=Retention(last=1)))
            await layout.use(partial(prune.carry_out, plan=plan))

    assert [orphan.digest for orphan in plan.remove] == [Digest.of(LARGE)]
    assert storage.info(blob_key(Digest.of(LARGE))) is None
    assert (await verify_storage(storage)).damages == ()


async def test_a_damaged_index_is_set_aside(storage: Storage, tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "layout", storage=storage) as layout:
        record = await mirror(layout, NAME, b"small")

    storage.replace(INDEX, b"{")
    async with OCILayout.open(tmp_path / "layout", storage=storage):
        root = LayoutReader(storage).resolve(NAME.name)
        assert root is not None
        assert root.digest == record.root.digest
