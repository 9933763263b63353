"""Into another registry, byte for byte: Debian's docker-registry as the target, skopeo as the reader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import peers
import pytest
from organizations import TAG, kolla, unique_bytes

import quaymirror
from quaymirror import Selection, Settings, Status
from quaymirror.mirror.report import ExitCode, Report
from quaymirror.testing import QuayServer, SourceManifest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

EVERYTHING = Selection("kolla", "*", TAG)


def settings(server: QuayServer, tmp_path: Path, **options: object) -> Settings:
    return Settings(server=server.url, state=tmp_path / "state", **options)  # type: ignore[arg-type]


def errors(report: Report) -> list[str]:
    return [outcome.error.message for outcome in report.outcomes if outcome.error is not None]


def mounts(asked: list[peers.Asked]) -> Counter[int]:
    """Return how many mounts were asked for, by status."""
    return Counter(request.status for request in asked if request.method == "POST" and "mount=" in request.path)


def uploads(asked: list[peers.Asked]) -> list[str]:
    """Return the digests of finished uploads."""
    return [
        request.path.partition("digest=")[2].replace("%3A", ":")
        for request in asked
        if request.method == "PUT" and "/blobs/uploads/" in request.path and request.status == 201
    ]


def check_pulled(url: str, name: str, image: SourceManifest, tmp_path: Path, *options: str) -> None:
    """Let skopeo pull an image by tag, whole, and compare every byte that matters."""
    reference = f"docker://{url.partition('://')[2]}/{name}"
    raw = peers.skopeo("inspect", "--raw", *options, reference)
    assert raw.encode() == image.raw
    copied = tmp_path / "copied" / name.replace("/", "_").replace(":", "_")
    copied.parent.mkdir(exist_ok=True)
    peers.skopeo(
        "copy", "--all", *(option.replace("--", "--src-", 1) for option in options), reference, f"dir:{copied}"
    )
    found = {path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert {node.raw for node in image.walk()} <= found
    assert {blob.data for blob in image.all_blobs().values()} <= found


async def test_every_image_can_be_pulled_by_tag_with_the_digest_of_the_source(tmp_path: Path) -> None:
    registry, images = kolla(12)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry, require_token=True) as server:
            address = f"registry://{target.host}?insecure=true"
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))

        assert errors(report) == []
        assert report.exit_code is ExitCode.OK
        assert report.counts == {Status.MIRRORED: 12, Status.SKIPPED: 0}
        assert any(image.is_index for image in images.values())
        for name, image in images.items():
            check_pulled(target.url, f"kolla/{name}:{TAG}", image, tmp_path, "--tls-verify=false")


async def test_each_blob_is_fetched_once_uploaded_once_and_mounted_everywhere_else(tmp_path: Path) -> None:
    registry, images = kolla(200, layer_size=2048)
    blobs = {digest for image in images.values() for digest in image.all_blobs()}
    needed = sum(len(image.all_blobs()) for image in images.values())
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            assert errors(report) == []
            assert server.blob_bytes() == unique_bytes(images)
            assert sorted(uploads(target.requests())) == sorted(blobs)
            assert mounts(target.requests()) == {201: needed - len(blobs)}
            target.forget()
            server.reset_records()
            again = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            assert server.count("^/v2/") == 0

        assert again.counts == {Status.UNCHANGED: 200, Status.SKIPPED: 0}
        # The root of the API, to see that the registry is there.
        assert [request.path for request in target.requests()] == ["/v2/"]
