"""Strangers agree: a real registry behind the API, and skopeo as the reader."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import peers
import pytest
from organizations import TAG, kolla

import quaymirror
from quaymirror import Options, Selection
from quaymirror.testing import QuayServer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]


async def test_images_of_a_real_registry_are_mirrored_and_read_back_by_skopeo(tmp_path: Path) -> None:
    registry, images = kolla(8)
    mirror = tmp_path / "mirror"
    with peers.docker_registry(tmp_path) as upstream:
        for name, image in images.items():
            peers.push(upstream, f"kolla/{name}", TAG, image)

        async with QuayServer(registry, upstream=upstream) as server:
            report = await quaymirror.sync(Selection("kolla", "*", TAG), mirror, Options.of(server=server.url))

    assert [outcome.error for outcome in report.outcomes] == [None] * len(images)
    assert layouts.names(mirror) == {f"kolla/{name}:{TAG}": image.digest for name, image in images.items()}
    layouts.check(mirror)
    for name, image in images.items():
        raw = peers.skopeo("inspect", "--raw", f"oci:{mirror}:kolla/{name}:{TAG}")
        assert raw.encode() == image.raw
        assert peers.skopeo_inspect(f"oci:{mirror}:kolla/{name}:{TAG}")["Os"] == "linux"


async def test_skopeo_copies_single_and_multi_arch_images_out_whole(tmp_path: Path) -> None:
    registry, images = kolla(12)
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        await quaymirror.sync(Selection("kolla", "*", TAG), mirror, Options.of(server=server.url))

    index = next(name for name, image in images.items() if image.is_index)
    single = next(name for name, image in images.items() if not image.is_index)
    for name in (index, single):
        copied = tmp_path / name
        peers.skopeo("copy", "--all", f"oci:{mirror}:kolla/{name}:{TAG}", f"oci:{copied}:{TAG}")
        assert [entry["digest"] for entry in json.loads((copied / "index.json").read_text())["manifests"]] == [
            images[name].digest
        ]
        for node in images[name].walk():
            assert layouts.blob(copied, node.digest) == node.raw

        for digest, blob in images[name].all_blobs().items():
            assert layouts.blob(copied, digest) == blob.data
