"""Mirrors that are carried on media: what the receiver lacks, in parts, in any order, and only what is right."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import layouts
import pytest
from commands import run
from crashes import KILLED, blobs_there, check_whole, zygote
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.carry.export import ExportOptions, ExportResult, export_mirror
from quaymirror.carry.receive import ImportOptions, ImportResult, import_parts
from quaymirror.carry.take_stock import request_missing, take_inventory
from quaymirror.errors import ConfigError, MirrorDamaged, SelectionEmpty, StoreError
from quaymirror.events import Event
from quaymirror.oci import Digest
from quaymirror.store.fsops import Fsync
from quaymirror.store.layout import OCILayout
from quaymirror.store.promises import promised
from quaymirror.store.prune import make_plan
from quaymirror.store.retention import Retention
from quaymirror.testing import QuayServer, Registry

MIB = 1024 * 1024
UNSIGNED = ImportOptions(allow_unsigned=True, fsync=Fsync.NEVER)
# The smallest part is 16 MiB: one blob has to be larger for stretches.
LARGE = 20 * MIB


class Near:
    """The mirror that is exported, and the server that it is from."""

    def __init__(self, server: QuayServer, registry: Registry, path: Path) -> None:
        self.server = server
        self.registry = registry
        self.path = path

    async def night(self) -> None:
        options = Options.of(server=self.server.url, fsync=Fsync.NEVER)
        report = await quaymirror.sync(Selection("kolla", "*", TAG), self.path, options)
        assert report.exit_code == 0

    def push(self, name: str, *layers: int) -> None:
        self.registry.organization("kolla").repository(name).push(TAG, small_image(f"{name}{layers}", *layers))


@pytest.fixture
async def near(tmp_path: Path) -> Any:
    registry, _ = kolla(5)
    async with QuayServer(registry) as server:
        found = Near(server, registry, tmp_path / "near")
        await found.night()
        yield found


async def export(mirror: Path, to: Path, **options: Any) -> ExportResult:
    return await export_mirror(mirror, to, ExportOptions(fsync=Fsync.NEVER, **options))


async def receive(parts: list[Path], target: Path, options: ImportOptions = UNSIGNED) -> ImportResult:
    return await import_parts(parts, target, options)


async def inventory(mirror: Path, path: Path) -> Path:
    path.write_bytes((await take_inventory(mirror)).to_bytes())
    return path


def carried(result: ExportResult) -> set[str]:
    return {str(blob.node.digest) for blob in result.manifest.blobs if blob.stretches}


async def test_a_mirror_is_the_same_after_a_trip(near: Near, tmp_path: Path) -> None:
    await export(near.path, tmp_path / "media")
    result = await receive([tmp_path / "media"], tmp_path / "far")
    assert (len(result.imported), result.exit_code) == (5, 0)
    assert layouts.names(tmp_path / "far") == layouts.names(near.path)
    assert blobs_there(tmp_path / "far") == blobs_there(near.path)
    check_whole(tmp_path / "far", layouts.names(near.path))


async def test_the_second_trip_carries_what_the_receiver_lacks_and_nothing_else(near: Near, tmp_path: Path) -> None:
    far = tmp_path / "far"
    await export(near.path, tmp_path / "first")
    await receive([tmp_path / "first"], far)
    have = await inventory(far, tmp_path / "far.inventory")
    near.push("nova-api", 100, 5000)
    near.push("new-image", 3000)
    await near.night()

    second = await export(near.path, tmp_path / "second", have=(have,))
    assert carried(second) == blobs_there(near.path) - blobs_there(far) - _orphans(near.path)
    assert (await receive([tmp_path / "second"], far)).exit_code == 0
    assert layouts.names(far) == layouts.names(near.path)


def _orphans(mirror: Path) -> set[str]:
    return blobs_there(mirror) - layouts.check(mirror)


async def test_one_export_serves_two_receivers_with_different_states(near: Near, tmp_path: Path) -> None:
    await export(near.path, tmp_path / "part", select=("kolla/b*",))
    await export(near.path, tmp_path / "all")
    one, two = tmp_path / "one", tmp_path / "two"
    await receive([tmp_path / "part"], one)
    await receive([tmp_path / "all"], two)
    near.push("late", 2000)
    await near.night()
    have = (await inventory(one, tmp_path / "1"), await inventory(two, tmp_path / "2"))
    both = await export(near.path, tmp_path / "both", have=have)
    assert carried(both) == layouts.check(near.path) - (blobs_there(one) & blobs_there(two))
    for far in (one, two):
        assert (await receive([tmp_path / "both"], far)).exit_code == 0
        assert layouts.names(far) == layouts.names(near.path)


@pytest.fixture
async def large(near: Near, tmp_path: Path) -> list[Path]:
    """Return three parts, with a blob that is cut."""
    near.push("zz-large", LARGE, 12 * MIB)
    await near.night()
    result = await export(near.path, tmp_path / "media", media_size=16 * MIB)
    parts = [path for path, _ in result.files]
    assert len(parts) == 3
    assert all(path.stat().st_size == size <= 16 * MIB for path, size in result.files)
    return parts


async def test_parts_come_in_any_order_and_images_appear_as_they_are_complete(
    near: Near, large: list[Path], tmp_path: Path
) -> None:
    far = tmp_path / "far"
    order = random.Random(7).sample(large, 3)
    seen = []
    for part in order:
        result = await receive([part], far)
        seen.append(len(layouts.names(far)))
        check_whole(far, {})

    assert result.exit_code == 0
    assert seen[-1] == 6
    assert layouts.names(far) == layouts.names(near.path)


async def test_the_images_that_wait_name_their_parts(large: list[Path], tmp_path: Path) -> None:
    result = await receive([large[0], large[2]], tmp_path / "far")
    assert result.exit_code == 3
    assert result.waiting == {f"kolla/zz-large:{TAG}": (2,)}
    assert [*result.describe()] == ["1 image waits for part 2"]
    again = await receive([large[0]], tmp_path / "far")
    assert (again.blobs, len(again.unchanged)) == (0, 5)


async def test_a_part_that_is_cut_anywhere_gives_all_of_its_complete_members(
    near: Near, large: list[Path], tmp_path: Path
) -> None:
    content = large[0].read_bytes()
    with tarfile.open(large[0]) as tar:
        ends = {member.name: member.offset_data + member.size for member in tar}

    for cut in (*random.Random(3).sample(range(30_000, len(content)), 4), len(content) - 10_240):
        large[0].write_bytes(content[:cut])
        far = tmp_path / f"far-{cut}"
        result = await receive([large[0]], far)
        assert result.exit_code == 3
        assert blobs_there(far) >= {
            _digest_of(name) for name, end in ends.items() if name.startswith("blobs/") and end <= cut
        }
        large[0].write_bytes(content)
        assert (await receive(large, far)).exit_code == 0


def _digest_of(name: str) -> str:
    return ":".join(name.split("/")[1:3])


async def test_a_flipped_bit_costs_one_blob(near: Near, tmp_path: Path) -> None:
    result = await export(near.path, tmp_path / "media")
    [(path, _)] = result.files
    with tarfile.open(path) as tar:
        member = next(member for member in tar if member.name.startswith("blobs/"))

    with path.open("r+b") as file:
        file.seek(member.offset_data + 3)
        byte = file.read(1)
        file.seek(member.offset_data + 3)
        file.write(bytes([byte[0] ^ 1]))

    got = await receive([path], tmp_path / "far")
    assert got.exit_code == 3
    assert _digest_of(member.name) in got.problems[0]
    assert blobs_there(tmp_path / "far") == blobs_there(near.path) - {_digest_of(member.name)}


async def test_a_blob_that_the_receiver_lost_keeps_the_old_version_and_is_requested(near: Near, tmp_path: Path) -> None:
    far = tmp_path / "far"
    await export(near.path, tmp_path / "first")
    await receive([tmp_path / "first"], far)
    before = layouts.names(far)
    have = await inventory(far, tmp_path / "have")
    near.push("late", 100)
    await near.night()
    second = await export(near.path, tmp_path / "second", have=(have,))
    lost = min(blobs_there(far) & layouts.check(near.path) - {*before.values()})
    (far / "blobs/sha256" / lost.partition(":")[2]).unlink()

    result = await receive([tmp_path / "second"], far)
    assert result.exit_code == 3
    assert [str(digest) for digest in result.lacking] == [lost]
    # Readers see every image that is complete, old or new.
    assert layouts.names(far).keys() == layouts.names(near.path).keys() - result.waiting.keys()

    request = tmp_path / "request"
    request.write_bytes((await request_missing(far, second.manifest.id[:8])).to_bytes())
    third = await export(near.path, tmp_path / "third", have=(request,))
    assert carried(third) == {lost}
    assert (await receive([tmp_path / "third"], far)).exit_code == 0
    assert layouts.names(far) == layouts.names(near.path)


async def test_an_export_builds_on_an_earlier_one_where_no_inventory_travels_back(near: Near, tmp_path: Path) -> None:
    first = await export(near.path, tmp_path / "first")
    near.push("late", 700)
    await near.night()
    second = await export(near.path, tmp_path / "second", since=first.manifest.id[:6])
    assert carried(second) == layouts.check(near.path) - carried(first)
    with pytest.raises(ConfigError, match="names no export"):
        await export(near.path, tmp_path / "third", since="ffffff")

    # This receiver has missed the first one.
    assert (await receive([tmp_path / "second"], tmp_path / "far")).exit_code == 3


async def test_an_older_export_is_refused_before_anything_is_written(
    near: Near, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.carry.export.time.time", lambda: 1_900_000_000.0)
    await export(near.path, tmp_path / "old")
    monkeypatch.setattr("quaymirror.carry.export.time.time", lambda: 1_900_000_060.0)
    near.push("late", 700)
    await near.night()
    await export(near.path, tmp_path / "new")
    far = tmp_path / "far"
    await receive([tmp_path / "new"], far)
    before = layouts.names(far)
    with pytest.raises(ConfigError, match="--allow-older"):
        await receive([tmp_path / "old"], far)

    older = ImportOptions(allow_unsigned=True, allow_older=True, fsync=Fsync.NEVER)
    assert (await receive([tmp_path / "old"], far, older)).exit_code == 0
    assert layouts.names(far) == before, "names that the older export lacks stay"


async def test_blobs_of_an_inventory_are_not_pruned_until_an_import_answers_it(near: Near, tmp_path: Path) -> None:
    far = tmp_path / "far"
    await export(near.path, tmp_path / "first")
    await receive([tmp_path / "first"], far)
    have = await inventory(far, tmp_path / "have")
    stray = Digest.of(b"stray")
    (far / "blobs/sha256" / stray.encoded).write_bytes(b"stray")
    os.utime(far / "blobs/sha256" / stray.encoded, (0, 0))
    promise_of_all = far / ".quaymirror/promises/00"
    promise_of_all.mkdir(exist_ok=True)
    (promise_of_all / "0").write_text(f"{stray}\n")
    async with OCILayout.open(far) as layout:
        planning = partial(make_plan, grace=0.0, retention=Retention())
        plan = await layout.use(planning)
        assert (plan.remove, plan.promised_bytes) == ((), len(b"stray"))
        assert [*(far / ".quaymirror/promises").rglob(have_id(have))]
        os.utime(promise_of_all / "0", (0, 0))
        plan = await layout.use(planning)
        assert [orphan.digest for orphan in plan.remove] == [stray]


def have_id(path: Path) -> str:
    from quaymirror.carry.inventory import parse_inventory

    return parse_inventory(path.read_bytes()).id


async def test_an_import_ends_the_promise_of_the_inventory_that_it_answers(near: Near, tmp_path: Path) -> None:
    far = tmp_path / "far"
    await export(near.path, tmp_path / "first")
    await receive([tmp_path / "first"], far)
    have = await inventory(far, tmp_path / "have")
    await export(near.path, tmp_path / "second", have=(have,))
    async with OCILayout.open(far) as layout:
        assert await layout.use(lambda storage, _: len(promised(storage))) == len(blobs_there(far))

    await receive([tmp_path / "second"], far)
    async with OCILayout.open(far) as layout:
        assert await layout.use(lambda storage, _: promised(storage)) == set()


async def test_an_export_that_broke_off_continues_with_the_parts_that_are_there(
    near: Near, large: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quaymirror.carry import export as module

    to, write = tmp_path / "again", module._Export._write_part

    def broken(self: Any, manifest: Any, signature: bytes, part: int, path: Path) -> None:
        if part == 2:
            raise StoreError("the medium was pulled out")

        write(self, manifest, signature, part, path)

    monkeypatch.setattr(module._Export, "_write_part", broken)
    with pytest.raises(StoreError):
        await export(near.path, to, media_size=16 * MIB)

    [first] = to.iterdir()
    inode = first.stat().st_ino
    monkeypatch.setattr(module._Export, "_write_part", write)
    result = await export(near.path, to, media_size=16 * MIB)
    assert set(result.kept) == {first}
    assert first.stat().st_ino == inode
    assert (await receive([to], tmp_path / "far")).exit_code == 0


async def test_the_same_export_is_the_same_bytes_but_for_its_id_and_time(
    near: Near, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.carry.export.time.time", lambda: 1_900_000_000.0)
    monkeypatch.setattr("quaymirror.carry.export.secrets.token_hex", lambda _: "ab" * 16)
    one = await export(near.path, tmp_path / "one")
    shutil.rmtree(near.path / ".quaymirror/exports")
    two = await export(near.path, tmp_path / "two")
    assert one.files[0][0].read_bytes() == two.files[0][0].read_bytes()


async def test_damage_at_the_sender_is_named_before_it_travels(near: Near, tmp_path: Path) -> None:
    digest = min(layouts.check(near.path) - {*layouts.names(near.path).values()})
    blob = near.path / "blobs/sha256" / digest.partition(":")[2]
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(MirrorDamaged, match="verify --repair"):
        await export(near.path, tmp_path / "media")

    assert list((tmp_path / "media").iterdir()) == []
    blob.unlink()
    with pytest.raises(MirrorDamaged, match="is missing"):
        await export(near.path, tmp_path / "media")


async def test_a_selection_without_images_is_told(near: Near, tmp_path: Path) -> None:
    with pytest.raises(SelectionEmpty, match=r"matches kolla/no-such"):
        await export(near.path, tmp_path / "media", select=("kolla/no-such:*",))

    assert not (tmp_path / "media").exists()


async def test_too_little_space_is_told_before_anything_is_written(
    near: Near, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.carry.export.fsops.free_bytes", lambda _: (1000, 512))
    with pytest.raises(StoreError, match="1,000 bytes free"):
        await export(near.path, tmp_path / "media")

    assert list((tmp_path / "media").iterdir()) == []


async def test_an_export_waits_for_the_next_medium(near: Near, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([0, 10, 10**12])
    monkeypatch.setattr("quaymirror.carry.export.fsops.free_bytes", lambda _: (next(free), 512))
    monkeypatch.setattr("quaymirror.carry.export._MEDIUM_SECONDS", 0.0)
    told: list[Event] = []
    options = ExportOptions(wait_for_medium=True, fsync=Fsync.NEVER)
    await export_mirror(near.path, tmp_path / "media", options, observer=told.append)
    assert [event for event in told if "insert the next medium" in str(event)]


async def test_signatures_by_gpg_keys_travel_with_their_images(near: Near, large: list[Path], tmp_path: Path) -> None:
    def place(mirror: Path, name: str) -> Path:
        digest = layouts.names(near.path)[f"{name}:{TAG}"].replace(":", "=")
        return mirror / ".quaymirror/lookaside" / f"{name}@{digest}" / "signature-1"

    early, late = min(layouts.names(near.path)).partition(":")[0], "kolla/zz-large"
    for name in (early, late):
        place(near.path, name).parent.mkdir(parents=True)
        place(near.path, name).write_bytes(f"signature of {name}".encode())

    media, far = tmp_path / "signed", tmp_path / "far"
    result = await export(near.path, media, media_size=16 * MIB)
    first, *rest = [path for path, _ in result.files]
    assert (await receive([first], far)).exit_code == 3
    assert place(far, early).read_bytes() == f"signature of {early}".encode()
    assert not place(far, late).exists()
    assert (await receive(rest, far)).exit_code == 0
    assert place(far, late).read_bytes() == b"signature of kolla/zz-large"


# ---- signatures


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        path = tmp_path / f"key-{name}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True)
        return path

    return make


def signers(path: Path, key: Path, name: str = "near@example") -> Path:
    path.write_text(f'{name} namespaces="quaymirror-export" {key.with_suffix(".pub").read_text()}')
    return path


async def test_a_signed_export_is_imported_for_its_signer_only(
    near: Near, tmp_path: Path, keys: Callable[[str], Path]
) -> None:
    right, wrong = keys("right"), keys("wrong")
    await export(near.path, tmp_path / "media", key=right)
    trusted = ImportOptions(signers(tmp_path / "signers", right), fsync=Fsync.NEVER)
    others = ImportOptions(signers(tmp_path / "others", wrong), allow_unsigned=True, fsync=Fsync.NEVER)
    for refused, reason in ((others, "its signer is not in"), (ImportOptions(), "--allowed-signers")):
        with pytest.raises(ConfigError, match=reason):
            await receive([tmp_path / "media"], tmp_path / "far", refused)

    assert not (tmp_path / "far").exists()
    assert (await receive([tmp_path / "media"], tmp_path / "far", trusted)).exit_code == 0


async def test_the_signature_of_another_manifest_is_refused_whatever_is_allowed(
    near: Near, tmp_path: Path, keys: Callable[[str], Path]
) -> None:
    key = keys("k")
    one = await export(near.path, tmp_path / "one", key=key)
    two = await export(near.path, tmp_path / "two", key=key)
    forged = tmp_path / "quaymirror-forged.tar"
    with tarfile.open(one.files[0][0]) as a, tarfile.open(two.files[0][0]) as b, tarfile.open(forged, "w") as tar:
        for member in a:
            source = b if member.name == "manifest.json.sig" else a
            other = source.getmember(member.name)
            tar.addfile(other, source.extractfile(other))

    with pytest.raises(ConfigError, match="the signature is wrong"):
        await receive([forged], tmp_path / "far")


async def test_ssh_keygen_accepts_the_signature_itself(near: Near, tmp_path: Path, keys: Callable[[str], Path]) -> None:
    key = keys("k")
    result = await export(near.path, tmp_path / "media", key=key)
    with tarfile.open(result.files[0][0]) as tar:
        tar.extractall(tmp_path / "x", filter="data")

    known = signers(tmp_path / "signers", key)
    message = result.manifest.to_bytes()
    arguments = ["-f", str(known), "-I", "near@example", "-n", "quaymirror-export"]
    command = ["ssh-keygen", "-Y", "verify", *arguments, "-s", str(tmp_path / "x/manifest.json.sig")]
    subprocess.run(command, input=message, check=True, capture_output=True)


# ---- hostile parts


@pytest.mark.parametrize("what", ["link", "device", "absolute", "dots", "huge", "unknown"])
async def test_a_part_writes_nothing_but_its_own_blobs(near: Near, tmp_path: Path, what: str) -> None:
    result = await export(near.path, tmp_path / "media")
    path, outside = tmp_path / "quaymirror-x.tar", tmp_path / "outside"
    with tarfile.open(result.files[0][0]) as good, tarfile.open(path, "w") as tar:
        for member in good:
            tar.addfile(member, good.extractfile(member))
            if member.name == "manifest.json.zst":
                tar.addfile(*_hostile(what, outside))

    got = await receive([path], tmp_path / "far")
    assert not outside.exists()
    assert blobs_there(tmp_path / "far") <= blobs_there(near.path)
    check_whole(tmp_path / "far", {})
    if what in ("absolute", "dots", "unknown"):
        assert got.exit_code == 0


def _hostile(what: str, outside: Path) -> tuple[Any, ...]:
    import io

    member = tarfile.TarInfo({"absolute": str(outside), "dots": "blobs/sha256/../../../outside"}.get(what, "blobs/x"))
    content = b"evil"
    if what == "link":
        member.type, member.linkname = tarfile.SYMTYPE, str(outside)
    elif what == "device":
        member.type = tarfile.CHRTYPE
    elif what == "huge":
        member.size = 2**40
        return member, None
    elif what == "unknown":
        member.name = f"blobs/sha256/{'0' * 64}"

    member.size = 0 if what in ("link", "device") else len(content)
    return member, io.BytesIO(content)


async def test_an_export_that_lists_less_than_an_image_needs_is_refused(near: Near, tmp_path: Path) -> None:
    from dataclasses import replace

    from quaymirror.carry.manifest import Header
    from quaymirror.carry.parts import PartWriter
    from quaymirror.zstd import compress

    result = await export(near.path, tmp_path / "media")
    manifest = result.manifest
    image = manifest.images[0]
    lying = replace(manifest, images=(replace(image, contents=image.contents[:1]),))
    text = lying.to_bytes()
    path = tmp_path / "quaymirror-lie.tar"
    with PartWriter(path, syncs=False) as writer:
        writer.add("quaymirror-export.json", Header(manifest.id, 1, 1, Digest.of(text)).to_bytes())
        writer.add("manifest.json.zst", compress(text))
        root = str(image.root.digest)
        writer.add(f"blobs/sha256/{root[7:]}", layouts.blob(near.path, root))

    got = await receive([path], tmp_path / "far")
    assert got.exit_code == 3
    assert "does not list" in got.problems[0]
    assert layouts.names(tmp_path / "far") == {}


# ---- other programs, and the command line


async def test_gnu_tar_reads_every_part(near: Near, large: list[Path], tmp_path: Path) -> None:
    """Blobs that are not cut have their names in a layout."""
    for part in large:
        out = tmp_path / f"out-{part.name}"
        out.mkdir()
        subprocess.run(["tar", "xf", part, "-C", out], check=True)
        listed = subprocess.run(["tar", "tf", part], check=True, capture_output=True, text=True).stdout.split()
        assert sorted(listed) == sorted(str(each.relative_to(out)) for each in out.rglob("*") if each.is_file())
        if (out / "blobs").exists():
            assert blobs_there(out) <= blobs_there(near.path)


async def test_gnu_tar_and_skopeo_read_an_export_in_one_part(near: Near, tmp_path: Path) -> None:
    import peers

    peers.require("skopeo")
    result = await export(near.path, tmp_path / "media")
    [(path, _)] = result.files
    out = tmp_path / "untarred"
    out.mkdir()
    subprocess.run(["tar", "xf", path, "-C", out], check=True)
    assert layouts.names(out) == layouts.names(near.path)
    name = min(layouts.names(near.path))
    assert peers.skopeo_inspect(f"oci-archive:{path}:{name}")["Digest"] == layouts.names(near.path)[name]


async def test_a_trip_by_the_commands(near: Near, tmp_path: Path) -> None:
    await run("export", str(near.path), "--to", "media", "--fsync", "never", cwd=tmp_path, check=0)
    done = await run("import", "media", "far", cwd=tmp_path, check=2)
    assert "--allow-unsigned" in done.stderr
    await run("import", "media", "far", "--allow-unsigned", "--fsync", "never", cwd=tmp_path, check=0)
    done = await run("inventory", "far", "--missing", cwd=tmp_path, check=2)
    assert "waits for anything" in done.stderr
    done = await run("export", str(near.path), "--to", "media", "--media-size", "1K", cwd=tmp_path, check=2)
    assert "16MiB is the least" in done.stderr
    done = await run("export", str(near.path), "--to", "two", "--dry-run", "--json", cwd=tmp_path, check=0)
    assert len(json.loads(done.stdout)["parts"]) == 1
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("import", "media", "s3://bucket/far", "--allow-unsigned"),
        ("import", "media", "registry://registry.example/far", "--allow-unsigned"),
        ("export", "MIRROR", "--to", "s3://bucket/media"),
        ("checkout", "MIRROR", "latest", "gs://bucket/checkout"),
        ("demo", "--to", "s3://bucket/demo"),
    ],
)
async def test_an_address_where_a_directory_is_meant_is_refused_and_becomes_no_directory(
    near: Near, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "media").mkdir()
    given = [str(near.path) if word == "MIRROR" else word for word in words]
    done = await run(*given, cwd=tmp_path, check=2)
    assert "is not a directory of this machine; push takes a mirror there" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"media", near.path.name}


async def test_an_import_takes_the_address_of_a_directory(near: Near, tmp_path: Path) -> None:
    await run("export", str(near.path), "--to", "media", "--fsync", "never", cwd=tmp_path, check=0)
    words = ("import", "media", "ocidir://far", "--allow-unsigned", "--fsync", "never")
    await run(*words, cwd=tmp_path, check=0)
    assert layouts.names(tmp_path / "far") == layouts.names(near.path)


@pytest.mark.parametrize("most", [6, pytest.param(None, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
async def test_an_import_that_is_killed_at_any_step_is_completed_by_the_next(
    near: Near, large: list[Path], tmp_path: Path, most: int | None
) -> None:
    words = ("import", str(tmp_path / "media"))
    more = ("--allow-unsigned", "--fsync", "never")
    expected = layouts.names(near.path)
    async with zygote(tmp_path / "streams") as commands:
        trace = tmp_path / "trace"
        done = await commands.run(*words, str(tmp_path / "traced"), *more, hook={"trace": {"file": str(trace)}})
        assert done.code == 0, done.stderr
        steps = range(len(trace.read_text().splitlines()))
        assert len(steps) > 50
        for step in steps if most is None else random.Random(5).sample(steps, most):
            far, note = tmp_path / f"far-{step}", tmp_path / "note"
            note.unlink(missing_ok=True)
            kill = {"kill": {"number": step, "when": "after", "note": str(note)}}
            done = await commands.run(*words, str(far), *more, hook=kill)
            # Threads may need a step less in the end.
            assert done.code == KILLED or not note.exists(), step
            if far.exists():
                check_whole(far, {})

            done = await commands.run(*words, str(far), *more)
            assert done.code == 0, done.stderr
            assert layouts.names(far) == expected
            shutil.rmtree(far)


async def test_a_docker_archive_is_imported_with_new_digests(near: Near, tmp_path: Path) -> None:
    import peers

    peers.require("skopeo")
    name = min(layouts.names(near.path))
    archive = tmp_path / "saved.tar"
    peers.skopeo("copy", "--quiet", f"oci:{near.path}:{name}", f"docker-archive:{archive}:quay.io/{name}")
    await run("import", "saved.tar", "far", "--fsync", "never", cwd=tmp_path, check=0)
    assert list(layouts.names(tmp_path / "far")) == [name]
    check_whole(tmp_path / "far", {})
    assert (await quaymirror.verify(str(tmp_path / "far"), Options())).damages == ()
    before, after = (peers.skopeo_inspect("--config", f"oci:{each}:{name}") for each in (near.path, tmp_path / "far"))
    assert after["rootfs"] == before["rootfs"]


async def test_an_oci_archive_is_imported(near: Near, tmp_path: Path) -> None:
    archive = tmp_path / "layout.tar"
    command = ["tar", "cf", str(archive), "-C", str(near.path), "oci-layout", "index.json", "blobs"]
    subprocess.run(command, check=True)
    await run("import", "layout.tar", "far", "--fsync", "never", cwd=tmp_path, check=0)
    assert layouts.names(tmp_path / "far") == layouts.names(near.path)


async def test_a_docker_archive_with_equal_layers_and_a_missing_one(tmp_path: Path) -> None:
    import hashlib
    import io

    def write(path: Path, *, complete: bool) -> None:
        layer = b"\0" * 10_240
        config = json.dumps(
            {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()] * 2}}
        )
        listed = [{"Config": "c.json", "RepoTags": ["quay.io/kolla/x:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
        with tarfile.open(path, "w") as tar:
            for name, content in (("manifest.json", json.dumps(listed).encode()), ("c.json", config.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

            member = tarfile.TarInfo("a/layer.tar")
            member.size = len(layer)
            tar.addfile(member, io.BytesIO(layer))
            if complete:
                link = tarfile.TarInfo("b/layer.tar")
                link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
                tar.addfile(link)

    write(tmp_path / "good.tar", complete=True)
    await run("import", "good.tar", "far", cwd=tmp_path, check=0)
    assert list(layouts.names(tmp_path / "far")) == ["kolla/x:1"]
    write(tmp_path / "bad.tar", complete=False)
    done = await run("import", "bad.tar", "far2", cwd=tmp_path, check=2)
    assert "lacks 'b/layer.tar'" in done.stderr


# ---- media


@pytest.mark.parametrize("limit", [4 * MIB, 17 * MIB])
async def test_a_medium_that_is_full_leaves_no_half_part(
    large: list[Path], near: Near, tmp_path: Path, limit: int
) -> None:
    """The limit on the size of files stands for a file system such as FAT32, or a full one."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.argv[0] = 'quaymirror';"
        "from quaymirror.cli.main import entry; entry()"
    )
    words = ["export", str(near.path), "--to", "small", "--media-size", "16MiB", "--fsync", "never"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    if limit < 16 * MIB:
        assert done.returncode == 6
        assert "file too large" in done.stderr.lower()
        assert list((tmp_path / "small").iterdir()) == []
    else:
        assert done.returncode == 0


async def test_a_fat32_medium_carries_the_parts(large: list[Path], near: Near, tmp_path: Path) -> None:
    import peers

    peers.require("mkfs.vfat", everywhere=False)
    peers.require("mcopy", everywhere=False)
    image = tmp_path / "usb.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)

    subprocess.run(["mkfs.vfat", "-F", "32", str(image)], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", str(image), *map(str, large), "::"], check=True)
    back = tmp_path / "back"
    back.mkdir()
    subprocess.run(["mcopy", "-n", "-i", str(image), "::/*", str(back)], check=True)
    assert (await receive([back], tmp_path / "far")).exit_code == 0
    assert layouts.names(tmp_path / "far") == layouts.names(near.path)


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; without the right to mount one, the test is skipped."""
    path = tmp_path / "medium"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", path], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")

    yield path
    subprocess.run(["umount", path], check=True)


async def test_a_medium_that_fills_up_keeps_its_parts_and_the_export_continues_on_the_next(
    large: list[Path], near: Near, medium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else fills the medium after its space was checked."""
    with pytest.raises(StoreError, match="bytes free"):
        await export(near.path, medium, media_size=16 * MIB)

    with monkeypatch.context() as patched:
        patched.setattr("quaymirror.carry.export.fsops.free_bytes", lambda _: (10**12, 512))
        with pytest.raises(StoreError, match="the disk is full"):
            await export(near.path, medium, media_size=16 * MIB)

    [first] = medium.iterdir()
    back = tmp_path / "back"
    back.mkdir()
    shutil.copy(first, back)
    first.unlink()
    rest = await export(near.path, back, media_size=16 * MIB)
    assert [path.name for path in rest.kept] == [first.name]
    assert (await receive([back], tmp_path / "far")).exit_code == 0
    assert layouts.names(tmp_path / "far") == layouts.names(near.path)


async def test_a_target_that_fills_up_is_whole_and_the_next_import_completes_it(
    large: list[Path], near: Near, medium: Path
) -> None:
    far = medium / "far"
    with pytest.raises(StoreError, match=r"more bytes are needed.*--no-space-check"):
        await receive(large, far)

    full = ImportOptions(allow_unsigned=True, check_space=False, fsync=Fsync.NEVER)
    with pytest.raises(StoreError, match="the disk is full"):
        await receive(large, far, full)

    check_whole(far, {})
    subprocess.run(["mount", "-o", "remount,size=100m", medium], check=True)
    assert (await receive(large, far)).exit_code == 0
    assert layouts.names(far) == layouts.names(near.path)


async def test_a_mirror_and_parts_that_can_only_be_read(near: Near, medium: Path, tmp_path: Path) -> None:
    shutil.copytree(near.path, medium / "near", symlinks=True)
    await export(near.path, medium / "parts")
    subprocess.run(["mount", "-o", "remount,ro", medium], check=True)
    told: list[Event] = []
    options = ExportOptions(fsync=Fsync.NEVER)
    await export_mirror(medium / "near", tmp_path / "media", options, observer=told.append)
    assert any("can't be continued" in str(event) for event in told)
    for number, parts in enumerate((medium / "parts", tmp_path / "media")):
        assert (await receive([parts], tmp_path / f"far-{number}")).exit_code == 0

    with pytest.raises(StoreError, match="read-only"):
        await export(near.path, medium / "more")

    with pytest.raises(StoreError, match="read-only"):
        await receive([tmp_path / "media"], medium / "far")


async def test_parts_of_two_exports_under_the_same_name_are_told_apart(near: Near, tmp_path: Path) -> None:
    one = await export(near.path, tmp_path / "one")
    near.push("late", 700)
    await near.night()
    two = await export(near.path, tmp_path / "two")
    places = [tmp_path / "a" / "quaymirror-same.tar", tmp_path / "b" / "quaymirror-same.tar"]
    for result, place in zip((one, two), places, strict=True):
        place.parent.mkdir()
        shutil.copy(result.files[0][0], place)

    got = await receive([each.parent for each in reversed(places)], tmp_path / "far")
    assert (got.exit_code, len(got.exports)) == (0, 2)
    assert layouts.names(tmp_path / "far") == layouts.names(near.path)


async def test_the_inventory_of_another_mirror_is_told_by_the_import_and_harms_nothing(
    near: Near, tmp_path: Path
) -> None:
    await export(near.path, tmp_path / "all")
    await receive([tmp_path / "all"], tmp_path / "other")
    have = await inventory(tmp_path / "other", tmp_path / "have")
    near.push("late", 700)
    await near.night()
    await export(near.path, tmp_path / "media", have=(have,))
    result = await receive([tmp_path / "media"], tmp_path / "far")
    assert (result.exit_code, result.imported) == (3, [f"kolla/late:{TAG}"])
    assert {str(digest) for digest in result.lacking} == blobs_there(tmp_path / "other")
    assert "inventory --missing" in " ".join(result.describe())
    check_whole(tmp_path / "far", {})


@pytest.mark.parametrize("count", [2_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_a_part_with_many_members_is_read_in_little_memory(near: Near, tmp_path: Path, count: int) -> None:
    result = await export(near.path, tmp_path / "media")
    path = result.files[0][0]
    empty = tarfile.TarInfo("blobs/x").tobuf(tarfile.USTAR_FORMAT)
    with tarfile.open(path) as tar:
        end = next(member.offset for member in tar if member.name.startswith("blobs/"))

    content = path.read_bytes()
    with path.open("wb") as file:
        file.write(content[:end])
        for _ in range(count // 1_000):
            file.write(empty * 1_000)

        file.write(content[end:])

    code = (
        "from quaymirror.cli.main import main\n"
        "try: main()\n"
        "finally: print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    words = ["import", str(path), str(tmp_path / "far"), "--allow-unsigned", "--fsync", "never"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert layouts.names(tmp_path / "far") == layouts.names(near.path), done.stderr
    assert int(done.stdout.split()[-1]) < 80 * 1024


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_after_a_night_of_a_thousand_images_the_second_trip_carries_only_the_changes(tmp_path: Path) -> None:
    registry, images = kolla(1000)
    far, first = tmp_path / "far", tmp_path / "first"
    async with QuayServer(registry) as server:
        near = Near(server, registry, tmp_path / "near")
        await near.night()
        await export(near.path, first)
        await receive([first], far)
        have = await inventory(far, tmp_path / "have")
        for name in list(images)[:30]:
            near.push(name, 100, 40_000)

        await near.night()

    lacking = layouts.check(near.path) - blobs_there(far)
    needed = sum((near.path / "blobs" / digest.replace(":", "/")).stat().st_size for digest in lacking)
    second = await export(near.path, tmp_path / "second", have=(have,))
    assert carried(second) == lacking
    assert second.manifest.carried_bytes == needed
    # The list of images is the rest of it; it grows with their number only.
    [(path, size)] = second.files
    with tarfile.open(path) as tar:
        assert size - needed <= tar.getmember("manifest.json.zst").size + 1024 * (len(lacking) + 30)

    assert (await receive([tmp_path / "second"], far)).exit_code == 0
    assert layouts.names(far) == layouts.names(near.path)
