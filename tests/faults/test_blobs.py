"""Faults of servers, CDNs and disks in blobs: the right bytes arrive, or that image fails with a clear message."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import layouts
import pytest
from aiohttp import web
from organizations import TAG, small_image
from trouble import GLANCE, NOVA, messages, mirror, two_images

from quaymirror.errors import ExitCode
from quaymirror.oci import Digest
from quaymirror.progress import speeds
from quaymirror.testing import (
    Action,
    Blob,
    CorruptBody,
    CutBody,
    DribbleBody,
    ExtraHeaders,
    Fault,
    QuayServer,
    Registry,
    ReplaceBody,
    SourceManifest,
    WrongContentRange,
    make_image,
    make_layer,
)
from quaymirror.testing import Status as Answer
from quaymirror.testing.messages import Answer as LocatedValue

BIG = small_image("nova", 3_000_000)
LAYER = BIG.blobs[1].digest
HEX = LAYER.partition(":")[2]
MEBIBYTE = 1024 * 1024


def on_the_cdn(action: Action, **options: Any) -> Fault:
    return Fault(HEX, action, listener="cdn", **options)


async def test_a_bomb_that_calls_itself_an_encoding_is_not_unpacked(tmp_path: Path) -> None:
    """200 KB that would decode to 200 MB; they are not decoded."""
    bomb = gzip.compress(bytes(200 * MEBIBYTE), compresslevel=9)
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [
            on_the_cdn(ReplaceBody(bomb)),
            on_the_cdn(ExtraHeaders({"Content-Encoding": "gzip"})),
        ]
        done, peak = await anyio.to_thread.run_sync(run_measured, server.url, tmp_path)

    assert done == ExitCode.PARTIAL
    assert peak < 200 * MEBIBYTE
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


# A small process in between: the peak memory of a child starts with that of its parent at the fork.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def run_measured(url: str, path: Path) -> tuple[int, int]:
    """Run the command, and return its exit code and the most memory that it had, in bytes."""
    words = ["sync", "kolla", "*", TAG, "--server", url, "--retries", "0", "--progress", "none"]
    command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "quaymirror", *words]
    done = subprocess.run(command, cwd=path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
    return done.returncode, int(done.stdout.split()[-1]) * 1024


async def test_a_blob_that_says_it_is_encoded_is_taken_as_it_is(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(ExtraHeaders({"Content-Encoding": "br", "Content-Type": "text/html"})))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


@pytest.mark.parametrize(("times", "code"), [(1, ExitCode.OK), (None, ExitCode.PARTIAL)], ids=["a while", "for ever"])
async def test_a_trickle_is_no_transfer(
    times: int | None, code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps every timeout for silence from firing."""
    monkeypatch.setattr(speeds, "_SLOW_SECONDS", 0.3)
    monkeypatch.setattr(speeds, "_SLOW_BYTES_PER_SECOND", 100_000)
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(DribbleBody(100, 0.01), times=times))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is code, messages(report)
    assert (NOVA in layouts.names(tmp_path / "mirror")) == (code is ExitCode.OK)
    assert code is ExitCode.OK or "bytes in" in messages(report)[0]


@pytest.mark.parametrize("seed", range(3))
async def test_connections_that_break_anywhere_cost_little_more_than_their_bytes(seed: int, tmp_path: Path) -> None:
    """A fifth of all answers breaks off somewhere."""
    image = make_image([make_layer(f"broken {number}", 2_000_000) for number in range(6)])
    total = sum(len(blob.data) for blob in image.all_blobs().values())
    async with QuayServer(two_images(image), seed=seed) as server:
        server.faults += [
            Fault("", CutBody(after), listener="cdn", probability=0.05)
            for after in (10_000, 500_000, 1_000_000, 1_900_000)
        ]
        report = await mirror(server, tmp_path / "mirror")
        sent = server.blob_bytes()

    assert report.exit_code is ExitCode.OK, messages(report)
    assert sent <= 1.5 * total


async def test_content_that_changes_between_two_ranges_is_thrown_away(tmp_path: Path) -> None:
    """The digest decides, regardless of the ETag."""
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [
            on_the_cdn(CutBody(2_000_000), nth=1),
            on_the_cdn(CorruptBody(5), nth=2),
            on_the_cdn(ExtraHeaders({"ETag": '"another"'}), nth=2),
        ]
        report = await mirror(server, tmp_path / "mirror")
        ranges = [request.headers.get("range") for request in server.requests if HEX in request.path]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert [text is not None for text in ranges if text is None or text.startswith("bytes=")][-1] is False


async def test_the_rest_of_a_blob_is_requested_with_the_entity_tag_of_its_start(tmp_path: Path) -> None:
    """A server that has other bytes by now sends all of them, rather than an end that does not fit."""
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [
            on_the_cdn(CutBody(2_000_000), nth=1),
            on_the_cdn(ExtraHeaders({"ETag": '"of-the-first-half"'}), nth=1),
        ]
        report = await mirror(server, tmp_path / "mirror")
        asked = [request for request in server.requests if HEX in request.path]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert [r.headers.get("if-range") for r in asked if r.listener == "cdn"] == [None, '"of-the-first-half"']
    assert not any("if-range" in r.headers for r in asked if r.listener == "quay"), "it said nothing of its bytes"
    assert [r.body_bytes_sent for r in asked if r.listener == "cdn"][1] == BIG.blobs[1].size


@pytest.mark.parametrize("etag", ['W/"weak"', "naked", '"', '""', '"\xfc"', f'"{"x" * 300}"'], ids=ascii)
async def test_weak_entity_tags_are_not_sent_back(etag: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [on_the_cdn(CutBody(2_000_000), nth=1), on_the_cdn(ExtraHeaders({"ETag": etag}), nth=1)]
        report = await mirror(server, tmp_path / "mirror")
        asked = [request for request in server.requests if "range" in request.headers]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert asked
    assert not any("if-range" in request.headers for request in asked)


async def test_entity_tags_that_differ_each_time_are_not_used(
    tmp_path: Path,
) -> None:
    """Several servers behind one address, each with names of its own: a flaky link gets there all the same."""
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [on_the_cdn(ExtraHeaders({"ETag": f'"{number}"'}), nth=number) for number in range(1, 9)]
        server.faults += [on_the_cdn(CutBody(1_100_000), nth=number) for number in range(1, 4)]
        report = await mirror(server, tmp_path / "mirror")
        asked = [r.headers.get("if-range") for r in server.requests if r.listener == "cdn" and HEX in r.path]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert asked == [None, '"1"', None, None]


LIES = {
    "another start": WrongContentRange("bytes 5-2999999/3000000"),
    "another total": WrongContentRange("bytes 2000000-2999999/99"),
    "no total": WrongContentRange("bytes 1-2"),
    "another unit": WrongContentRange("pages 1-2/3"),
    "no range": WrongContentRange(None),
    "digits of another script": WrongContentRange("bytes \u0661-\u0662/\u0663"),
    "endless digits": WrongContentRange(f"bytes {'9' * 5000}-{'9' * 5000}/*"),
    "two ranges": ExtraHeaders([("Content-Range", "bytes 2000000-2/3"), ("Content-Range", "bytes 2000000-2/3")]),
    "no content": Answer(204),
    "partial without content": Answer(206),
    "several parts": Answer(206, {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x--"),
    "nothing there": Answer(416),
    "reset content": Answer(205),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies_about_a_range_costs_a_new_start(lie: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [on_the_cdn(CutBody(2_000_000), nth=1), fault := on_the_cdn(LIES[lie], nth=2)]
        report = await mirror(server, tmp_path / "mirror")

    assert fault.fired == 1
    assert report.exit_code is ExitCode.OK, messages(report)


def shorter(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:1000])


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "harm", [shorter, Path.unlink, linked, directory], ids=["shorter", "gone", "link", "directory"]
)
async def test_a_damaged_file_of_a_blob_is_noticed(harm: Callable[[Path], None], tmp_path: Path) -> None:
    """Damaged files are fetched again; other objects in their place are refused."""
    path = tmp_path / "mirror"
    blob = path / "blobs" / "sha256" / HEX
    async with QuayServer(registry := two_images(BIG)) as server:
        await mirror(server, path)
        harm(blob)
        # A new image with the same layer.
        registry.organization("kolla").repository("neutron").push(TAG, make_image([make_layer("nova/0", 3_000_000)]))
        report = await mirror(server, path)

    if harm in (shorter, Path.unlink):
        assert report.exit_code is ExitCode.OK, messages(report)
        assert Digest.parse(LAYER).matches(blob.read_bytes())
    else:
        assert report.exit_code is ExitCode.DAMAGED, messages(report)


class OneBadReplica(Action):
    """Several servers share one address; connections to the first one get the wrong bytes."""

    def __init__(self) -> None:
        self.bad: set[object] = set()
        self.answers = 0

    def on_answer(self, answer: LocatedValue, source: web.BaseRequest) -> LocatedValue:
        """Return the wrong bytes over the first connection, whenever it is used."""
        assert source.transport is not None
        peer = source.transport.get_extra_info("peername")
        self.answers += 1
        if self.answers == 1:
            self.bad.add(peer)

        return CorruptBody(7).on_answer(answer, source) if peer in self.bad else answer


@pytest.mark.parametrize("path", ["^/v2/kolla/nova/manifests/", HEX], ids=["manifest", "blob"])
async def test_one_broken_replica_of_many_is_avoided(path: str, tmp_path: Path) -> None:
    """Wrong bytes are fetched again over another connection."""
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(Fault(path, replica := OneBadReplica()))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert replica.answers == 2


async def test_wrong_bytes_twice_are_survived(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(CorruptBody(7), nth=(1, 2)))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


async def test_a_layer_without_a_byte_is_a_layer(tmp_path: Path) -> None:
    empty, config = Blob.of(b""), Blob.of(b"{}")
    image = with_layers(config, (empty, empty.size), (empty, empty.size))
    async with QuayServer(two_images(image)) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert empty.digest in layouts.check(tmp_path / "mirror")


@pytest.mark.parametrize("wrong", [4, 6, 0, 2**62], ids=["less", "more", "nothing", "exabytes"])
async def test_an_image_that_says_another_size_of_a_blob_fails_and_the_other_does_not(
    wrong: int, tmp_path: Path
) -> None:
    layer, config = Blob.of(b"layer"), Blob.of(b"{}")
    registry = Registry()
    for name, size in (("honest", layer.size), ("lying", wrong)):
        image = with_layers(config, (layer, size))
        registry.organization("kolla").repository(name).push(TAG, image)

    async with QuayServer(registry) as server:
        report = await mirror(server, tmp_path / "mirror", check_space=False)
        again = await mirror(server, tmp_path / "mirror", check_space=False)

    assert report.exit_code is again.exit_code is ExitCode.PARTIAL
    assert list(layouts.names(tmp_path / "mirror")) == [f"kolla/honest:{TAG}"], messages(report)


async def test_one_image_that_says_two_sizes_of_one_blob_is_refused(tmp_path: Path) -> None:
    layer, config = Blob.of(b"layer"), Blob.of(b"{}")
    async with QuayServer(two_images(with_layers(config, (layer, 5), (layer, 6)))) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


def with_layers(config: Blob, *layers: tuple[Blob, int]) -> SourceManifest:
    """Return an image of these blobs, with these sizes in its manifest."""
    entries = [{"mediaType": "application/octet-stream", "digest": b.digest, "size": size} for b, size in layers]
    image = make_image([], manifest_extra={"layers": entries})
    return SourceManifest(image.raw, image.media_type, image.digest, (*image.blobs, config, *(b for b, _ in layers)))
