"""Verifying: every damage is found and named, and mended by fetching exactly that."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import layouts
import pytest
import pytest_asyncio
from crashes import Zygote, check_whole, requested, zygote
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.errors import StoreError
from quaymirror.referrers.choice import ReferrerMode
from quaymirror.store import lock
from quaymirror.store.reader import LayoutReader
from quaymirror.store.state import State
from quaymirror.store.verify import verify_layout
from quaymirror.testing import QuayServer, SourceManifest

EVERYTHING = Selection("kolla", "*", TAG)


@pytest_asyncio.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Zygote]:
    async with zygote(tmp_path / "streams") as ready:
        yield ready


async def mirrored(server: QuayServer, mirror: Path) -> None:
    report = await quaymirror.sync(
        EVERYTHING, mirror, Options.of(server=server.url, full_check_every=0, referrers=ReferrerMode.NONE)
    )
    assert report.exit_code == 0


def file_of(mirror: Path, digest: str) -> Path:
    return mirror / "blobs" / digest.replace(":", "/")


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    match how:
        case "missing":
            path.unlink()
        case "a bit":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "shorter":
            path.write_bytes(content[:-1])
        case "a link":
            path.rename(path.with_name("elsewhere"))
            path.symlink_to("elsewhere")


def pieces(images: dict[str, SourceManifest]) -> dict[str, tuple[str, set[str]]]:
    """A layer that many need, a config, and a manifest: digest, and the images that need it."""
    document = json.loads(next(image for image in images.values() if not image.children).raw)
    digest = next(image for image in images.values() if not image.children).digest
    found = {"layer": document["layers"][0]["digest"], "config": document["config"]["digest"], "manifest": digest}
    contents = {name: {*image.all_blobs(), *(node.digest for node in image.walk())} for name, image in images.items()}
    needing = {digest: {name for name in images if digest in contents[name]} for digest in found.values()}
    return {kind: (digest, {f"kolla/{name}:{TAG}" for name in needing[digest]}) for kind, digest in found.items()}


@pytest.mark.parametrize("how", ["missing", "a bit", "shorter", "a link"])
async def test_every_damage_is_reported_with_its_images_and_repaired(
    tmp_path: Path, commands: Zygote, how: str
) -> None:
    registry, images = kolla(6)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)
        spoiled = pieces(images)
        for digest, _ in spoiled.values():
            spoil(file_of(mirror, digest), how)

        found = await commands.run("verify", str(mirror), "--json")
        assert found.code == 8
        damages = {d["digest"]: set(d["images"]) for d in json.loads(found.stdout)["damages"]}
        # The needs of a damaged manifest are known only from other images.
        spoiled_digests = {digest for digest, _ in spoiled.values()}
        assert damages.keys() <= spoiled_digests
        assert damages[spoiled["manifest"][0]] == spoiled["manifest"][1]
        assert spoiled["layer"][0] in damages
        server.reset_records()
        mended = await commands.run("verify", str(mirror), "--repair", "--server", server.url)
        assert mended.code == 0, mended.stderr
        assert set(requested(server)) == spoiled_digests
        again = await commands.run("verify", str(mirror))

    assert (again.code, again.stdout) == (0, "")
    check_whole(mirror, layouts.names(mirror)) if how != "a link" else layouts.names(mirror)


async def test_a_blob_that_is_gone_from_the_source_stays_damaged_and_is_reported(
    tmp_path: Path, commands: Zygote
) -> None:
    registry, images = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)
        digest, names = pieces(images)["config"]
        spoil(file_of(mirror, digest), "a bit")
        for name in images:
            registry.organization("kolla").repository(name).lose(digest)

        done = await commands.run("verify", str(mirror), "--repair", "--server", server.url, "--retries", "0")
        assert done.code == 8
        assert f"damaged  {digest}  needed by {', '.join(sorted(names))}" in done.stdout
        assert "can't be fetched again" in done.stderr


async def test_sizes_alone_are_fast_and_find_what_is_missing_or_cut(tmp_path: Path, commands: Zygote) -> None:
    registry, images = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)

    digest = pieces(images)["layer"][0]
    spoil(file_of(mirror, digest), "a bit")
    assert (await commands.run("verify", str(mirror), "--fast")).code == 0
    spoil(file_of(mirror, digest), "shorter")
    done = await commands.run("verify", str(mirror), "--fast")
    assert done.code == 8
    assert "sizes only" in done.stderr


async def test_orphans_and_partial_files_are_counted_but_are_no_damage(tmp_path: Path, commands: Zygote) -> None:
    registry, _ = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)

    (mirror / "blobs/sha256" / ("a" * 64)).write_bytes(b"12345")
    (mirror / "blobs/sha256/readme.txt").write_bytes(b"123")
    (mirror / ".quaymirror/ingest" / f"sha256-{'b' * 64}.part").write_bytes(b"12")
    done = await commands.run("verify", str(mirror), "--json")
    found = json.loads(done.stdout)
    assert done.code == 0
    assert found["orphans"] == {"files": 2, "bytes": 8}
    assert found["partials"] == {"files": 1, "bytes": 2}


async def test_content_that_only_earlier_snapshots_need_is_no_orphan(tmp_path: Path, commands: Zygote) -> None:
    registry, images = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)
        registry.organization("kolla").repository(next(iter(images))).push(TAG, small_image("moved"))
        await mirrored(server, mirror)

    found = json.loads((await commands.run("verify", str(mirror), "--json")).stdout)
    assert found["orphans"] == {"files": 0, "bytes": 0}


async def test_the_state_is_rebuilt_from_the_index_with_complete_images_only(tmp_path: Path, commands: Zygote) -> None:
    registry, images = kolla(5)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)
        index = json.loads((mirror / "index.json").read_bytes())
        theirs = {**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "theirs"}}
        index["manifests"].append(theirs)
        (mirror / "index.json").write_text(json.dumps(index))
        digest, names = pieces(images)["config"]
        spoil(file_of(mirror, digest), "a bit")
        (mirror / ".quaymirror/state.db").write_bytes(b"not a database" * 1000)
        done = await commands.run("verify", str(mirror), "--repair-state")
        assert done.code == 8
        assert "set aside" in done.stderr
        assert f"{5 - len(names):,} recorded, 1 of other tools" in done.stderr
        assert all(name in done.stderr for name in names)
        state, _ = State.open(mirror / ".quaymirror/state.db", read_only=True)
        with closing(state):
            recorded = {image.name for image in state.images() if state.image(image.name) is not None}

        assert recorded == {f"kolla/{name}:{TAG}" for name in images} - names
        server.reset_records()
        await mirrored(server, mirror)
        assert set(requested(server)) == {digest}

    assert theirs in json.loads((mirror / "index.json").read_bytes())["manifests"]


@pytest.mark.parametrize("damage", [None, b"{"], ids=["missing", "cut"])
async def test_a_missing_index_is_damage_and_is_written_again_from_the_state(
    tmp_path: Path, commands: Zygote, damage: bytes | None
) -> None:
    registry, _ = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)

    names = layouts.names(mirror)
    (mirror / "index.json").unlink() if damage is None else (mirror / "index.json").write_bytes(damage)
    done = await commands.run("verify", str(mirror))
    assert done.code == 8
    assert "--repair-state" in done.stderr
    assert (await commands.run("verify", str(mirror), "--repair-state")).code == 0
    assert layouts.names(mirror) == names


async def test_a_layout_of_another_tool_is_verified_too(tmp_path: Path, commands: Zygote) -> None:
    mirror = tmp_path / "theirs"
    (mirror / "blobs/sha256").mkdir(parents=True)
    (mirror / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (mirror / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    done = await commands.run("verify", str(mirror))
    assert done.code == 0
    assert done.stderr == "0 images, 0 blobs, 0 B: 0 missing or damaged\n"
    assert not (mirror / ".quaymirror").exists()


async def test_a_mirror_is_verified_while_a_run_writes_but_not_while_blobs_are_deleted(
    tmp_path: Path, commands: Zygote
) -> None:
    registry, _ = kolla(3)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await mirrored(server, mirror)

    with lock.locked(mirror / ".quaymirror/lock"), lock.locked(mirror / ".quaymirror/readers", shared=True) as readers:
        assert (await commands.run("verify", str(mirror))).code == 0
        refused = await commands.run("verify", str(mirror), "--repair-state")
        assert refused.code == 7
        with readers.alone():
            refused = await commands.run("verify", str(mirror))

    assert refused.code == 7
    assert "in use by another run (process " in refused.stderr


async def test_verifying_beside_a_run_finds_nothing_wrong(tmp_path: Path) -> None:
    mirror, looks = tmp_path / "mirror", 0
    registry, images = kolla(30, layer_size=30_000)
    async with QuayServer(registry, bandwidth=600_000) as server:
        await quaymirror.sync(Selection("kolla", "base", TAG), mirror, Options.of(server=server.url))

        async def look() -> None:
            nonlocal looks
            while True:
                found = await verify_layout(mirror)
                assert not found.damages
                looks += 1
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            await mirrored(server, mirror)
            tasks.cancel_scope.cancel()

    assert looks > 3
    assert (await verify_layout(mirror)).images == len(images)


async def test_a_lack_of_descriptors_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with QuayServer(kolla(3)[0]) as server:
        await mirrored(server, tmp_path / "mirror")

    def verify(*_: object) -> bool:
        raise StoreError("can't read it: too many open files") from OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(LayoutReader, "verify", verify)
    with pytest.raises(StoreError, match="too many open files"):
        await verify_layout(tmp_path / "mirror")
