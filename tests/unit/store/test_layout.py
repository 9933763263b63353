"""The layout on disk: blobs are right, damaged files are set aside, and nothing is lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import anyio
import layouts
import pytest

from quaymirror.errors import (
    DigestMismatch,
    DoesNotFit,
    LockHeld,
    MirrorDamaged,
    ReadInterrupted,
    Scope,
    SizeMismatch,
    StoreError,
    TargetRefused,
)
from quaymirror.events import Event, Notice
from quaymirror.oci import Descriptor, Digest, Reference, Repository, mediatype
from quaymirror.store import fsops
from quaymirror.store import layout as layout_module
from quaymirror.store.layout import OCILayout
from quaymirror.store.local_storage import LocalStorage
from quaymirror.store.reader import LayoutReader
from quaymirror.store.records import ImageRecord
from quaymirror.store.state import State

NAME = Reference(Repository("quay.io", "kolla/nova"), "2025.1")
LARGE = b"x" * 1_500_000


def described(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


def image_of(*layers: bytes) -> tuple[bytes, list[Descriptor]]:
    nodes = [described(layer) for layer in layers]
    entries = [{"mediaType": n.media_type, "digest": str(n.digest), "size": n.size} for n in nodes]
    document = {"schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    return json.dumps(document).encode(), nodes


async def store(layout: OCILayout, name: Reference, *layers: bytes) -> ImageRecord:
    """Store an image as a transfer does."""
    raw, nodes = image_of(*layers)
    for node, layer in zip(nodes, layers, strict=True):
        if node in await layout.missing_content(name, [node]):
            await layout.put_manifest(name, node, layer)

    root = described(raw, mediatype.OCI_MANIFEST)
    await layout.put_manifest(name, root, raw)
    record = ImageRecord(name.name, name.repository.registry, root.digest, root, (*nodes, root), mirrored=1.0)
    await layout.commit(record)
    return record


async def holds(layout: OCILayout, record: ImageRecord) -> bool:
    return await layout.has_image(NAME.pinned(record.source), "")


async def test_a_committed_image_is_present_in_the_next_run_and_readable_by_other_tools(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        record = await store(layout, NAME, b"config", LARGE)

    assert layouts.names(tmp_path / "m") == {NAME.name: str(record.root.digest)}
    layouts.check(tmp_path / "m")
    async with OCILayout.open(tmp_path / "m") as layout:
        assert await holds(layout, record)


async def test_an_image_without_one_of_its_files_is_not_present(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        record = await store(layout, NAME, b"config", LARGE)

    path = tmp_path / "m/blobs/sha256" / Digest.of(LARGE).encoded
    path.unlink()
    async with OCILayout.open(tmp_path / "m") as layout:
        assert not await holds(layout, record)
        assert await layout.missing_content(NAME, record.contents) == [described(LARGE)]


async def test_blobs_that_the_state_does_not_know_are_verified(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        record = await store(layout, NAME, b"config", LARGE)

    (tmp_path / "m/.quaymirror/state.db").unlink()
    wrong = tmp_path / "m/blobs/sha256" / Digest.of(b"config").encoded
    wrong.chmod(0o644)
    wrong.write_bytes(b"gifnoc")
    async with OCILayout.open(tmp_path / "m") as layout:
        assert await layout.missing_content(NAME, record.contents) == [described(b"config")]

    assert not wrong.exists(), "bytes that are not what their name says have no name"
    assert (tmp_path / "m/blobs/sha256" / Digest.of(LARGE).encoded).exists()


async def test_a_blob_that_is_stored_while_another_image_looks_for_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, look = described(b"config"), LayoutReader.has

    def look_and_then_it_lands(reader: LayoutReader, descriptor: Descriptor) -> bool:
        found = look(reader, descriptor)
        (tmp_path / "m/blobs/sha256" / descriptor.digest.encoded).write_bytes(b"config")
        return found

    async with OCILayout.open(tmp_path / "m") as layout:
        monkeypatch.setattr(LayoutReader, "has", look_and_then_it_lands)
        await layout.missing_content(NAME, [node])
        monkeypatch.undo()
        assert layout.has_content(NAME, node)


async def test_an_incomplete_image_fails_alone_in_its_group(tmp_path: Path) -> None:
    raw, nodes = image_of(b"config", b"layer")
    root = described(raw, mediatype.OCI_MANIFEST)
    async with OCILayout.open(tmp_path / "m") as layout:
        await layout.put_manifest(NAME, root, raw)
        with pytest.raises(StoreError, match="was deleted from") as caught:
            await layout.commit(ImageRecord(NAME.name, "quay.io", root.digest, root, (*nodes, root)))

        await store(layout, Reference(NAME.repository, "whole"), b"config", b"layer")

    assert caught.value.scope is Scope.IMAGE
    assert set(layouts.names(tmp_path / "m")) == {"kolla/nova:whole"}


def with_room(monkeypatch: pytest.MonkeyPatch, size: int, total: int = 16_000_000) -> None:
    monkeypatch.setattr(fsops, "free_bytes", lambda _: (size, 4096, total))


async def test_stored_parts_are_not_looked_up_if_everything_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 2_000_000)
    monkeypatch.delattr(LocalStorage, "stored_bytes")
    async with OCILayout.open(tmp_path / "m") as layout:
        await store(layout, NAME, b"config", LARGE)
        # Stored content needs no reservation any more.
        assert await layout.missing_content(NAME, [described(LARGE + b"x")]) == [described(LARGE + b"x")]


async def test_a_blob_needs_no_space_for_the_part_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 400_000, 4_000_000)
    node = described(LARGE)
    async with OCILayout.open(tmp_path / "m") as layout:
        with pytest.raises(DoesNotFit, match="1,503,232 more bytes are needed"):
            await layout.missing_content(NAME, [node])

        (tmp_path / "m/.quaymirror/ingest" / f"sha256-{node.digest.encoded}.part").write_bytes(LARGE[:1_200_000])
        assert await layout.missing_content(NAME, [node]) == [node]


@pytest.mark.parametrize(
    ("total", "kind"), [(16_000_000, DoesNotFit), (160_000_000, StoreError)], ids=["alone", "the disk is full"]
)
async def test_a_blob_that_does_not_fit_beside_those_being_written_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, kind: type[Exception]
) -> None:
    with_room(monkeypatch, 1_900_000, total)
    async with OCILayout.open(tmp_path / "m") as layout:
        first, second = described(LARGE), described(LARGE + b"x")
        assert await layout.missing_content(NAME, [first]) == [first]
        assert await layout.missing_content(NAME, [second]) == [second]
        async with layout.sink(NAME, first) as sink:
            await sink.write(LARGE[:1_000_000])  # all that it needs soon are the other 500 kB
            with pytest.raises(kind, match="for the images in progress"):
                async with layout.sink(NAME, second) as other:
                    await other.write(LARGE + b"x")


async def test_a_blob_of_which_nothing_arrives_takes_no_space_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 2_500_000)
    claim = replace(described(b"claim"), size=2_400_000)
    async with OCILayout.open(tmp_path / "m") as layout:
        assert await layout.missing_content(NAME, [claim]) == [claim]
        async with layout.sink(NAME, claim) as sink:
            await sink.prepare()
            await store(layout, NAME, b"config", LARGE)


async def test_a_link_in_the_place_of_a_blob_is_refused(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        (tmp_path / "elsewhere").write_bytes(b"config")
        (tmp_path / "m/blobs/sha256" / Digest.of(b"config").encoded).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(MirrorDamaged, match="is not a regular file"):
            await layout.missing_content(NAME, [described(b"config")])


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"y" * len(LARGE), DigestMismatch), (LARGE[:-1], ReadInterrupted), (LARGE + b"x", SizeMismatch)],
    ids=["other bytes", "too few", "too many"],
)
async def test_wrong_bytes_are_never_stored_under_a_digest(
    tmp_path: Path, content: bytes, error: type[Exception]
) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        with pytest.raises(error):
            await layout.put_manifest(NAME, described(LARGE), content)

        assert not layout.has_content(NAME, described(LARGE))
        await layout.put_manifest(NAME, described(LARGE), LARGE)

    assert layouts.blob(tmp_path / "m", str(Digest.of(LARGE))) == LARGE


async def test_the_next_run_continues_a_large_blob(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "m") as layout, layout.sink(NAME, described(LARGE)) as sink:
        await sink.write(LARGE[:1_200_000])

    async with OCILayout.open(tmp_path / "m") as layout, layout.sink(NAME, described(LARGE)) as sink:
        assert sink.offset >= 1_000_000
        await sink.write(LARGE[sink.offset :])
        await sink.commit()

    layouts.blob(tmp_path / "m", str(Digest.of(LARGE)))
    assert list((tmp_path / "m/.quaymirror/ingest").iterdir()) == []


@pytest.mark.parametrize("content", [b"config", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("leftover", [1, 3, None], ids=["a byte", "a few bytes", "all of it"])
async def test_the_partial_file_of_a_crash_never_damages_a_blob(tmp_path: Path, content: bytes, leftover: int) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        digest = Digest.of(content)
        (tmp_path / f"m/.quaymirror/ingest/sha256-{digest.encoded}.part").write_bytes(content[:leftover])
        async with layout.sink(NAME, described(content)) as sink:
            await sink.write(content[sink.offset :])
            await sink.commit()

    assert layouts.blob(tmp_path / "m", str(digest)) == content


async def test_images_that_finish_together_are_committed_together(tmp_path: Path) -> None:
    names = [Reference(Repository("quay.io", f"kolla/s{number}"), "t") for number in range(30)]
    async with OCILayout.open(tmp_path / "m") as layout, anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(store, layout, name, name.name.encode())

    assert sorted(layouts.names(tmp_path / "m")) == sorted(name.name for name in names)
    layouts.check(tmp_path / "m")


async def test_a_commit_that_fails_fails_for_every_image_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[StoreError] = []

    def full(_: State, records: Sequence[ImageRecord], *more: object) -> None:
        raise StoreError("the disk is full")

    async def attempt(layout: OCILayout, name: Reference) -> None:
        try:
            await store(layout, name, name.name.encode())
        except StoreError as error:
            failed.append(error)

    monkeypatch.setattr(State, "commit", full)
    async with OCILayout.open(tmp_path / "m") as layout, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(attempt, layout, Reference(Repository("quay.io", f"kolla/s{number}"), "t"))

    assert len({id(error) for error in failed}) == 5, "errors are not shared"
    assert layouts.names(tmp_path / "m") == {}


@pytest.mark.parametrize("damage", ["zeroed header", "half of it", "of another program", "no tables"])
async def test_a_damaged_state_is_set_aside_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        record = await store(layout, NAME, b"config", LARGE)

    path = tmp_path / "m/.quaymirror/state.db"
    content = path.read_bytes()
    if damage == "of another program":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE theirs (x)")

        connection.close()
    else:
        broken = {"zeroed header": bytes(100) + content[100:], "half of it": content[: len(content) // 2]}
        path.write_bytes(broken.get(damage, b""))

    events: list[Event] = []
    async with OCILayout.open(tmp_path / "m", observer=events.append) as layout:
        assert await layout.missing_content(NAME, record.contents) == []

    assert layouts.names(tmp_path / "m") == {NAME.name: str(record.root.digest)}
    if damage != "no tables":
        assert any(isinstance(event, Notice) and "set aside" in event.message for event in events)
        assert list(path.parent.glob("state.db.damaged-*"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"manifests": 5}'], ids=["empty", "cut", "a list", "a number"])
async def test_a_damaged_index_is_set_aside_and_written_again(tmp_path: Path, damage: bytes) -> None:
    async with OCILayout.open(tmp_path / "m") as layout:
        record = await store(layout, NAME, b"config")

    (tmp_path / "m/index.json").write_bytes(damage)
    async with OCILayout.open(tmp_path / "m"):
        assert layouts.names(tmp_path / "m") == {NAME.name: str(record.root.digest)}

    assert [path.read_bytes() for path in (tmp_path / "m").glob("index.json.damaged-*")] == [damage]


async def test_one_writer_at_a_time_and_the_lock_is_free_after_it(tmp_path: Path) -> None:
    async with OCILayout.open(tmp_path / "m"):
        with pytest.raises(LockHeld, match="in use by another run"):
            async with OCILayout.open(tmp_path / "m"):
                pass

    async with OCILayout.open(tmp_path / "m"):
        pass


@pytest.mark.parametrize("content", [b"{}", b'{"imageLayoutVersion": "2.0.0"}', b"nothing"])
async def test_a_layout_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oci-layout").write_bytes(content)
    with pytest.raises(TargetRefused, match="oci-layout"):
        async with OCILayout.open(tmp_path):
            pass

    assert [path.name for path in tmp_path.iterdir()] == ["oci-layout"]


async def test_inspection_changes_nothing(tmp_path: Path) -> None:
    async with OCILayout.inspect(tmp_path / "m") as layout:
        assert await layout.missing_content(NAME, [described(b"config")]) == [described(b"config")]

    assert list(tmp_path.iterdir()) == []


async def test_the_index_is_written_after_a_share_of_new_images_and_not_after_each_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def update(storage: object, state: State, **_: object) -> frozenset[str]:
        written.append(state.image_count())
        return frozenset()

    monkeypatch.setattr(layout_module, "update_index", update)
    async with OCILayout.open(tmp_path, fsync=fsops.Fsync.NEVER) as layout:
        raw, nodes = image_of(b"config", b"layer")
        root = described(raw, mediatype.OCI_MANIFEST)
        for node, content in [*zip(nodes, (b"config", b"layer"), strict=True), (root, raw)]:
            await layout.put_manifest(NAME, node, content)

        def commit(_: object, state: State) -> None:
            # As the group commit does, without a task for each image.
            for start in range(0, 10_000, 100):
                layout._make_durable(
                    [
                        ImageRecord(f"kolla/image-{number}:1", "quay.io", root.digest, root, (*nodes, root))
                        for number in range(start, start + 100)
                    ]
                )

        await layout.use(commit)

    assert written[0] == 0
    assert written[-1] == 10_000
    assert 8 <= len(written) <= 18, "10,000 images in steps of 500 would be 21"
    assert all(after - before >= before / 5 for before, after in pairwise(written[5:-1]))
