"""The contract of a target, checked for every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import memory_target
import pytest
from graphs import described
from receiver import Receiver

from quaymirror import Options, Selection
from quaymirror.errors import LockHeld, QuaymirrorError
from quaymirror.oci import Descriptor, Digest, Manifest, Reference, Repository, manifest
from quaymirror.run.wiring import connect_target
from quaymirror.store.records import ImageRecord
from quaymirror.targets import kinds
from quaymirror.targets.kinds import TargetContext, TargetSpec, parse_target
from quaymirror.testing import SourceManifest, make_image, make_layer
from quaymirror.transfer.target import Target

# The only registration of the toy.
kinds.register(memory_target.KIND)
# An address of each kind; `{host}` is a registry to push to.
ADDRESSES = {
    "layout": "{directory}/layout",
    "registry": "registry://{host}/prefix?insecure=true",
    "derived": "dir://{directory}/derived",
    "memory": "memory://{directory}",
}
SELECTION = Selection("kolla", "*", "2025.1")
LAYERS = [make_layer("one", 2000), make_layer("two", 700_000)]
IMAGE = make_image(LAYERS)
MOVED = make_image(LAYERS, labels={"moved": "yes"})


@dataclass(frozen=True)
class Place:
    """A target that is opened as often as a test likes."""

    spec: TargetSpec
    context: TargetContext

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Target]:
        async with self.spec.open(self.context) as target:
            yield target

    @asynccontextmanager
    async def inspect(self) -> AsyncIterator[Target]:
        async with self.spec.inspect(self.context) as target:
            yield target


@pytest.fixture(params=ADDRESSES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with Receiver() as registry:
        address = ADDRESSES[request.param].format(directory=tmp_path, host=registry.host)
        options = Options.of(state=tmp_path / "state")
        yield Place(parse_target(address, SELECTION, options), TargetContext(options, connect_target))


def pinned(image: SourceManifest, repository: str = "nova-api") -> Reference:
    return Reference(Repository("quay.io", f"kolla/{repository}"), "2025.1", Digest.parse(image.digest))


def parsed(image: SourceManifest) -> Manifest:
    node = manifest.parse_stored(image.raw, Digest.parse(image.digest))
    assert isinstance(node, Manifest)
    return node


def contents(image: SourceManifest) -> tuple[Descriptor, ...]:
    node = parsed(image)
    return (*node.blobs, node.descriptor)


def record_of(reference: Reference, image: SourceManifest, platforms: str = "") -> ImageRecord:
    assert reference.digest is not None
    root = parsed(image).descriptor
    registry = reference.repository.registry
    return ImageRecord(reference.name, registry, reference.digest, root, contents(image), platforms, "run", 1.0)


async def bring_blob(target: Target, reference: Reference, node: Descriptor, content: bytes) -> bool:
    """Write a blob, as a transfer does; return False if the target got it without that."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    async with target.sink(reference, node) as sink:
        if sink is None:
            return False

        await sink.prepare()
        if sink.offset < node.size:
            await sink.receive(chunks())

        await sink.commit()
        return True


async def bring(target: Target, reference: Reference, image: SourceManifest) -> list[Descriptor]:
    """Mirror an image; return the blobs that had to be written for it."""
    missing = await target.missing_content(reference, contents(image))
    blobs = {Digest.parse(digest): blob.data for digest, blob in image.all_blobs().items()}
    written = [
        node
        for node in missing
        if node.digest in blobs and await bring_blob(target, reference, node, blobs[node.digest])
    ]
    await publish(target, reference, image, missing)
    return written


async def publish(
    target: Target, reference: Reference, image: SourceManifest, missing: Sequence[Descriptor] | None = None
) -> None:
    """Store the manifest of an image, if it is `missing`, and give it its name."""
    root = parsed(image).descriptor
    if missing is None or root in missing:
        await target.put_manifest(reference, root, image.raw)

    await target.commit(record_of(reference, image))


async def test_an_image_is_there_once_it_is_committed_and_stays_there(place: Place) -> None:
    reference = pinned(IMAGE)
    async with place.open() as target:
        assert not await target.has_image(reference, "")
        assert await target.missing_content(reference, contents(IMAGE)) == [*contents(IMAGE)]
        await bring(target, reference, IMAGE)
        assert await target.has_image(reference, "")

    async with place.inspect() as target:
        assert await target.has_image(reference, "")
        assert not await target.has_image(pinned(IMAGE, "other"), "")
        assert not await target.has_image(pinned(MOVED), "")


async def test_content_is_there_as_soon_as_it_is_written(place: Place) -> None:
    reference = pinned(IMAGE)
    config = parsed(IMAGE).config
    async with place.open() as target:
        assert config in await target.missing_content(reference, contents(IMAGE))
        assert not target.has_content(reference, config)
        await bring_blob(target, reference, config, IMAGE.all_blobs()[str(config.digest)].data)
        assert target.has_content(reference, config)


async def test_what_is_left_without_a_commit_is_not_there(place: Place) -> None:
    reference = pinned(IMAGE)
    layer = parsed(IMAGE).layers[1]
    async with place.open() as target:
        await target.missing_content(reference, contents(IMAGE))
        async with target.sink(reference, layer) as sink:
            assert sink is not None
            await sink.prepare()

        assert not target.has_content(reference, layer)
        assert layer in await target.missing_content(reference, contents(IMAGE))


async def test_an_image_that_is_not_complete_gets_no_name(place: Place) -> None:
    reference = pinned(IMAGE)
    async with place.open() as target:
        await target.has_image(reference, "")
        await target.missing_content(reference, contents(IMAGE))
        with pytest.raises(QuaymirrorError):
            await publish(target, reference, IMAGE)

        assert not await target.has_image(reference, "")


async def test_another_image_of_the_same_layers_needs_none_of_them(place: Place) -> None:
    async with place.open() as target:
        assert len(await bring(target, pinned(IMAGE), IMAGE)) == 3
        config = parsed(MOVED).config
        assert await bring(target, pinned(MOVED, "other"), MOVED) == [config]


async def test_a_tag_that_moves_takes_the_place_of_what_it_pointed_to(place: Place) -> None:
    async with place.open() as target:
        await bring(target, pinned(IMAGE), IMAGE)

    async with place.open() as target:
        assert not await target.has_image(pinned(MOVED), "")
        await bring(target, pinned(MOVED), MOVED)

    async with place.inspect() as target:
        assert await target.has_image(pinned(MOVED), "")


async def test_the_transfer_of_a_blob_has_one_key_per_image_and_blob(place: Place) -> None:
    config, layer = parsed(IMAGE).config, parsed(IMAGE).layers[0]
    async with place.open() as target:
        keys = [target.dedup_key(pinned(image), node) for image in (IMAGE, MOVED) for node in (config, layer)]
        assert keys[0] == keys[2] != keys[1] == keys[3]


async def test_stored_manifests_are_read_back_or_not_at_all(place: Place) -> None:
    async with place.open() as target:
        root = parsed(IMAGE).descriptor
        assert await target.read_manifest(root.digest) is None
        await bring(target, pinned(IMAGE), IMAGE)
        assert await target.read_manifest(root.digest) in (None, IMAGE.raw)


async def test_a_target_does_what_its_capabilities_say(place: Place) -> None:
    async with place.open() as target:
        assert target.capabilities == place.spec.capabilities
        await bring(target, pinned(IMAGE), IMAGE)
        assert (target.prunable() is not None) == target.capabilities.prunable
        layer = parsed(IMAGE).layers[1]
        file = target.blob_file(layer)
        assert (file is not None) == target.capabilities.shares_blobs
        assert file is None or Digest.of(file.read_bytes()) == layer.digest
        assert target.blob_file(described(b"unknown")) is None

    if place.spec.capabilities.repairable:
        assert (await place.spec.verify(place.context)).damages == ()


async def test_one_run_at_a_time_writes_and_others_can_look(place: Place) -> None:
    async with place.open() as target:
        await bring(target, pinned(IMAGE), IMAGE)
        with pytest.raises(LockHeld):
            async with place.open():
                pass

        async with place.inspect() as inspected:
            assert await inspected.has_image(pinned(IMAGE), "")


async def test_a_look_at_a_target_that_does_not_exist_makes_nothing(place: Place, tmp_path: Path) -> None:
    async with place.inspect() as target:
        assert not await target.has_image(pinned(IMAGE), "")
        assert await target.missing_content(pinned(IMAGE), contents(IMAGE)) == [*contents(IMAGE)]

    assert [*tmp_path.iterdir()] == []


async def test_equal_addresses_are_equal_targets_with_one_state(place: Place, tmp_path: Path) -> None:
    options, spec = place.context.options, place.spec
    again = kinds.find_target(str(spec), options) if "registry" not in str(spec) else spec
    assert str(again) == str(spec)
    assert again.state_directory(options) == spec.state_directory(options)
    assert spec.state_directory(options).is_relative_to(tmp_path)


async def test_an_image_of_other_platforms_is_another_one(place: Place) -> None:
    async with place.open() as target:
        await bring(target, pinned(IMAGE), IMAGE)
        # A derived image is for the one platform that its address names.
        if not place.spec.wanted_platforms(Options()):
            assert not await target.has_image(pinned(IMAGE), "linux/amd64")
