"""Mirrors in object stores, beside other programs: servers that others wrote, and tools that read the result."""

from __future__ import annotations

from pathlib import Path

import bucket
import peers
import pytest
from organizations import TAG, kolla

import quaymirror
from quaymirror import Options, Selection, Status
from quaymirror.errors import ConfigError
from quaymirror.testing import QuayServer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


async def test_rclone_copies_the_bucket_and_skopeo_reads_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, images = kolla(3)
    with bucket.s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)

        async with QuayServer(registry) as server:
            options = Options.of(server=server.url, state=tmp_path / "state")
            await quaymirror.sync(Selection("kolla", "*", TAG), "s3://mirrors/kolla", options)

        bucket.rclone_copy(s3, "kolla", tmp_path / "copy")

    for name, image in images.items():
        assert peers.skopeo("inspect", "--raw", f"oci:{tmp_path}/copy:kolla/{name}:{TAG}").encode() == image.raw


async def test_a_server_that_ignores_conditions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, _ = kolla(1)
    with bucket.s3rver(tmp_path / "s3rver") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

        async with QuayServer(registry) as server:
            options = Options.of(server=server.url, state=tmp_path / "state")
            with pytest.raises(ConfigError, match="ignores conditions"):
                await quaymirror.sync(Selection("kolla", "*", TAG), "s3://mirrors/kolla", options)

            report = await quaymirror.sync(Selection("kolla", "*", TAG), "s3://mirrors/kolla?locks=none", options)
            assert report.counts[Status.MIRRORED] == 1

        assert (await quaymirror.verify("s3://mirrors/kolla?locks=none", options)).damages == ()


async def test_azure_keeps_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, images = kolla(3, layer_size=6_000_000)
    with bucket.azurite(tmp_path / "azurite") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

        address = f"az://{bucket.BUCKET}/kolla"
        async with QuayServer(registry) as server:
            for home, status in (("first", Status.MIRRORED), ("first", Status.UNCHANGED), ("second", Status.UNCHANGED)):
                options = Options.of(server=server.url, state=tmp_path / home)
                report = await quaymirror.sync(Selection("kolla", "*", TAG), address, options)
                assert report.counts[status] == len(images)

        found = await quaymirror.verify(address, options)
        assert (found.images, found.damages) == (len(images), ())
