"""`quaymirror info`: the same fields as occystrap's, of a whole selection, without fetching a layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import occy
import pytest
from organizations import TAG, kolla

import quaymirror
from quaymirror import Selection
from quaymirror.events import ignore
from quaymirror.oci import Platform
from quaymirror.run.info import image_infos
from quaymirror.testing import CorruptBody, Fault, QuayServer, Registry, make_image, make_layer

_OF_INDEXES = ("index", "platform", "digest")


async def infos(server: QuayServer, glob: str = "*", **settings: Any) -> list[dict[str, Any]]:
    return await image_infos(
        Selection("kolla", glob, TAG), quaymirror.Options.of(server=server.url, **settings), observer=ignore
    )


@pytest.mark.interop
@pytest.mark.timeout(120)
async def test_every_field_is_what_occystrap_says() -> None:
    registry, images = kolla(12)
    organization = registry.organization("kolla")
    run = {"Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "WorkingDir": "/srv"}
    history = [{"created_by": "ENV a=b", "empty_layer": True}, {"created_by": "COPY"}, {"created": "2025-01-01"}]
    layers = [make_layer(1, 500, compression="zstd"), make_layer(2, 500, compression="none")]
    rich = make_image(layers, config_extra={"config": run, "history": history, "variant": "v2"})
    organization.repository("rich").push(TAG, rich)
    organization.repository("bare").push(TAG, make_image([], media="docker", config_extra={"config": None}))
    async with QuayServer(registry) as server:
        found = [info for info in await infos(server) if info.get("platform") in (None, "linux/amd64")]
        names = [*images, "rich", "bare"]
        theirs = await anyio.to_thread.run_sync(occy.infos, server.host, names, TAG)

    # Of an index, occystrap shows one platform.
    ours = {info["image"]: {key: info[key] for key in info if key not in _OF_INDEXES} for info in found}
    assert ours == {info["image"]: info for info in theirs}


async def test_only_manifests_and_configs_are_fetched() -> None:
    registry, images = kolla(12)
    configs = {image.blobs[0].digest for image in images.values() if image.blobs}
    async with QuayServer(registry) as server:
        found = await infos(server)
        fetched = {record.path.rpartition("/")[2] for record in server.requests if "/blobs/" in record.path}

    assert {info["image"].removeprefix("kolla/") for info in found} == images.keys()
    assert sorted(info["platform"] for info in found if "index" in info) == ["linux/amd64", "linux/arm64/v8"]
    assert configs <= fetched
    assert not fetched & {blob.digest for image in images.values() for blob in image.blobs[1:]}


async def test_another_platform_can_be_asked_for() -> None:
    registry, _ = kolla(12)
    async with QuayServer(registry) as server:
        [fluentd] = await infos(server, "fluentd", platforms=(Platform("linux", "arm64"),))

    assert (fluentd["architecture"], fluentd["variant"]) == ("arm64", "v8")


async def test_an_image_that_cannot_be_read_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    registry = Registry()
    for name in ("good", "bad"):
        registry.organization("kolla").repository(name).push(TAG, make_image([make_layer(name, 500)]))

    async with QuayServer(registry) as server:
        server.faults.append(Fault("kolla/bad/manifests", CorruptBody(3)))
        command = [sys.executable, "-m", "quaymirror", "info", "kolla", "*", TAG, "--server", server.url]
        command += ["--retries", "0"]
        plain = await anyio.to_thread.run_sync(_run, command, tmp_path)
        as_json = await anyio.to_thread.run_sync(_run, [*command, "--json"], tmp_path)

    assert plain.returncode == as_json.returncode == 3
    assert "kolla/good:" in plain.stdout
    assert "linux/amd64" in plain.stdout
    assert "dumb-init --single-child --" in plain.stdout
    bad, good = json.loads(as_json.stdout)
    assert "error" in bad
    assert "error" not in good
    assert plain.stderr.count("\n") == 1


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=30, check=False)
