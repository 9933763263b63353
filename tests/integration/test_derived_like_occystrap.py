"""Derived images equal the results of occystrap itself for each image."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import occy
import pytest
from organizations import TAG, kolla, unique_bytes
from peers import docker_registry

import quaymirror
from quaymirror import Selection
from quaymirror.errors import ExitCode
from quaymirror.testing import QuayServer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

COUNT = 40
FILTERS = ("normalize-timestamps:ts=86400", "exclude:pattern=*/1.bin")
OPTIONS = [word for text in FILTERS for word in ("-f", text)]


async def derive(server: QuayServer, to: str, filters: tuple[str, ...] = ()) -> quaymirror.Report:
    settings = quaymirror.Options.of(server=server.url, filters=filters)
    report = await quaymirror.sync(Selection("kolla", "*", TAG), to, settings)
    assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
    return report


async def in_thread(function: Any, *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *arguments)


@pytest.mark.parametrize("filters", [pytest.param((), marks=pytest.mark.soak), FILTERS], ids=["unfiltered", "filtered"])
async def test_a_directory_has_the_same_files(tmp_path: Path, filters: tuple[str, ...]) -> None:
    registry, images = kolla(COUNT)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    async with QuayServer(registry) as server:
        report = await derive(server, f"dir://{ours}", filters)
        fetched = server.blob_bytes()
        options = OPTIONS if filters else []
        await in_thread(occy.process, server.host, images, TAG, f"dir://{theirs}?unique_names=true", *options)

    assert occy.tree(ours) == occy.tree(theirs)
    assert fetched <= unique_bytes(images)
    assert all(outcome["findings"] == [] for outcome in report.to_json()["outcomes"])
    catalog = json.loads((ours / "catalog.json").read_text())
    assert sorted(catalog) == sorted(f"kolla/{name}" for name in images)


@pytest.mark.soak
async def test_archives_have_the_same_members(tmp_path: Path) -> None:
    registry, images = kolla(COUNT)
    (tmp_path / "theirs").mkdir()
    async with QuayServer(registry) as server:
        await derive(server, f"tar://{tmp_path}/ours/{{repo}}.tar")
        await in_thread(occy.process, server.host, images, TAG, f"tar://{tmp_path}/theirs/{{repo}}.tar")

    for name in images:
        assert occy.archive(tmp_path / f"ours/{name}.tar") == occy.archive(tmp_path / f"theirs/{name}.tar")


@pytest.mark.parametrize("query", [pytest.param("", marks=pytest.mark.soak), "&compression=zstd"], ids=["gzip", "zstd"])
async def test_a_registry_gets_the_same_manifests(tmp_path: Path, query: str) -> None:
    registry, images = kolla(COUNT if not query else 8)
    with docker_registry(tmp_path) as url:
        host = url.removeprefix("http://")
        async with QuayServer(registry) as server:
            await derive(server, f"registry://{host}/ours?insecure=true{query}", FILTERS)
            await in_thread(
                occy.process,
                server.host,
                images,
                TAG,
                f"registry://{host}/theirs/kolla/{{repo}}:{TAG}?x=1{query}",
                *OPTIONS,
            )

        for name in images:
            ours, theirs = (_manifest(f"{url}/v2/{side}/kolla/{name}") for side in ("ours", "theirs"))
            assert ours == theirs
            document = json.loads(ours)
            for blob in (document["config"], *document["layers"]):
                _check_blob(f"{url}/v2/ours/kolla/{name}/blobs/{blob['digest']}", blob["digest"])


def _manifest(url: str) -> bytes:
    request = urllib.request.Request(
        f"{url}/manifests/{TAG}", headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        content: bytes = response.read()
        return content


def _check_blob(url: str, digest: str) -> None:
    with urllib.request.urlopen(url, timeout=20) as response:
        assert f"sha256:{hashlib.sha256(response.read()).hexdigest()}" == digest
