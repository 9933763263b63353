"""A whole organization across an air gap: mirrored, copied as a directory, pushed into a registry, pulled by podman."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import peers
import pytest
from commands import run

from quaymirror.testing import QuayServer, Registry, SourceManifest, make_image, make_layer

ORGANIZATION, TAG = "openstack.kolla", "2025.1-debian-bookworm"

pytestmark = [pytest.mark.interop, pytest.mark.timeout(900)]


def organization(count: int) -> tuple[Registry, dict[str, SourceManifest]]:
    """Return images as Kolla publishes them: Docker v2s2, with a base that all share."""
    registry, base = Registry(), [make_layer(f"base {number}", 20_000) for number in range(3)]
    images = {
        f"service-{number:03}": make_image([*base, make_layer(f"own {number}", 5_000)], media="docker")
        for number in range(count)
    }
    for name, image in images.items():
        registry.organization(ORGANIZATION).repository(name).push(TAG, image)

    return registry, images


@pytest.mark.parametrize("count", [2, pytest.param(187, marks=pytest.mark.soak)])
async def test_podman_pulls_every_image_by_the_name_that_kolla_ansible_asks_for(tmp_path: Path, count: int) -> None:
    # podman takes no long path for its state.
    short = Path(tempfile.mkdtemp(prefix="pod"))
    podman = [peers.require("podman"), f"--root={short}/root", f"--runroot={short}/run", "--storage-driver=vfs"]
    registry, images = organization(count)
    async with QuayServer(registry) as server:
        await run("sync", ORGANIZATION, "*", TAG, "--server", server.url, "--to", "mirror", cwd=tmp_path, check=0)

    shutil.copytree(tmp_path / "mirror", tmp_path / "inside", symlinks=True)
    shutil.rmtree(tmp_path / "mirror")
    with peers.DockerRegistry(tmp_path) as target:
        address = f"registry://{target.host}?insecure=true"
        await run("push", "inside", address, "--state", "state", "--quiet", cwd=tmp_path, check=0)
        finished = [one for one in target.requests() if one.method == "PUT" and "/blobs/uploads/" in one.path]
        # The base is uploaded once, and mounted into the other repositories.
        uploads = Counter(one.path.partition("digest=")[2] for one in finished if one.status == 201)
        assert max(uploads.values()) == 1
        assert len(uploads) == 3 + 2 * count
        for name, image in images.items():
            reference = f"{target.host}/{ORGANIZATION}/{name}:{TAG}"
            pulled = [*podman, "pull", "-q", "--tls-verify=false", reference]
            found = subprocess.run(pulled, capture_output=True, text=True, check=True).stdout.strip()
            assert found == image.document["config"]["digest"].removeprefix("sha256:")
    shutil.rmtree(short)
