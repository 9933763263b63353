"""Independent clients pull from a mirror that is served, as the how-tos describe it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import conformance
import layouts
import peers
import pytest
import yaml
from commands import run
from gpg_keys import make_key, message, requirement
from organizations import kolla
from serving import Client, served, write_layout

import quaymirror
from quaymirror import Options, Selection
from quaymirror.oci import Digest
from quaymirror.testing import QuayServer, SourceManifest, make_artifact, make_image, make_index, make_layer

EXAMPLES = Path(__file__).parents[2] / "examples"
TAG = "2025.1-debian"
BASE = make_layer("base", 200_000)
SINGLE = make_image([BASE, make_layer("single", 2_000)])
DOCKER = make_image([BASE, make_layer("docker", 2_000)], media="docker")
MULTI = make_index([(SINGLE, "linux/amd64"), (make_image([BASE], platform="linux/arm64"), "linux/arm64")])
ARTIFACT = make_artifact("application/vnd.example.chart", b"chart")
SBOM = make_artifact("application/spdx+json", b"sbom", subject=MULTI)
IMAGES: Mapping[str, SourceManifest] = {
    f"kolla/single:{TAG}": SINGLE,
    f"kolla/docker:{TAG}": DOCKER,
    f"kolla/multi:{TAG}": MULTI,
    "kolla/chart:1": ARTIFACT,
    "kolla/multi:sbom": SBOM,
}

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with served(write_layout(tmp_path / "mirror", IMAGES)) as client:
        yield client


async def call(*command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program, and return its output."""
    run_it = partial(subprocess.run, command, capture_output=True, text=True, timeout=100, check=False)
    done = await anyio.to_thread.run_sync(partial(run_it, env={**os.environ, **(env or {})}))
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def host(client: Client) -> str:
    return client.url.removeprefix("http://")


async def test_the_requests_of_the_conformance_program_are_answered(client: Client) -> None:
    found = partial(conformance.failures, client, "kolla/multi", TAG, MULTI, [SBOM])
    assert await anyio.to_thread.run_sync(lambda: list(found())) == []


async def test_skopeo_copies_every_kind_of_image_byte_for_byte(client: Client, tmp_path: Path) -> None:
    for name in ("single", "docker", "multi"):
        image, kind = IMAGES[f"kolla/{name}:{TAG}"], "dir"
        source = f"docker://{host(client)}/kolla/{name}:{TAG}"
        await call("skopeo", "copy", "--all", "--src-tls-verify=false", source, f"{kind}:{tmp_path}/{name}")
        assert (tmp_path / name / "manifest.json").read_bytes() == image.raw
        shown = json.loads(await call("skopeo", "inspect", "--tls-verify=false", source))
        assert shown["Digest"] == image.digest
        assert TAG in shown["RepoTags"]

    await call(
        "skopeo",
        "copy",
        "--src-tls-verify=false",
        f"docker://{host(client)}/kolla/single@{SINGLE.digest}",
        f"oci:{tmp_path}/o:x",
    )
    layouts.check(tmp_path / "o")


async def test_podman_pulls_images_of_quay_io_from_the_mirror(client: Client, tmp_path: Path) -> None:
    text = (EXAMPLES / "use-the-mirror/registries.conf").read_text()
    conf = tmp_path / "registries.conf"
    conf.write_text(text.replace("registry.example:5000", host(client)) + "insecure = true\n")
    with peers.podman() as words:
        for name in ("single", "docker", "multi"):
            place = f"quay.io/kolla/{name}:{TAG}"
            await call(*words, "pull", "-q", place, env={"CONTAINERS_REGISTRIES_CONF": str(conf)})

        images = json.loads(await call(*words, "images", "--format", "json"))

    assert {name for image in images for name in image["Names"]} == {
        f"quay.io/kolla/{name}:{TAG}" for name in ("single", "docker", "multi")
    }


async def test_podman_checks_signatures_by_gpg_keys_through_the_mirror(tmp_path: Path) -> None:
    """The lookaside of the mirror has the signatures; podman asks it, since the image is from there."""
    root = write_layout(tmp_path / "mirror", IMAGES)
    with TemporaryDirectory(prefix="qm-gpg-") as directory, peers.podman() as words:
        keys = Path(directory)
        for signer in ("alice", "mallory"):
            make_key(keys, signer)

        for name, signer in (("single", "alice"), ("docker", "mallory")):
            image = IMAGES[f"kolla/{name}:{TAG}"]
            signed = message(keys, signer, f"quay.io/kolla/{name}:{TAG}", Digest.parse(image.digest))
            folder = root / ".quaymirror/lookaside/kolla" / f"{name}@{image.digest.replace(':', '=')}"
            folder.mkdir(parents=True)
            (folder / "signature-1").write_bytes(signed)

        subprocess.run(["gpgconf", "--homedir", directory, "--kill", "all"], check=False)
        wanted = {"quay.io/kolla": [requirement(keys, "alice.asc")]}
        policy = tmp_path / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": wanted}}))
        async with served(root) as client:
            pull = partial(_pull, words, client, tmp_path, policy)
            assert await pull("single") == ""
            assert "Invalid GPG signature" in await pull("docker")
            assert "A signature was required" in await pull("multi")


async def _pull(words: list[str], client: Client, tmp_path: Path, policy: Path, name: str) -> str:
    """Pull an image of quay.io from the mirror, and return what podman complains about."""
    conf, places = tmp_path / "registries.conf", tmp_path / "home/.config/containers/registries.d"
    text = (EXAMPLES / "use-the-mirror/registries.conf").read_text()
    conf.write_text(text.replace("registry.example:5000", host(client)) + "insecure = true\n")
    places.mkdir(parents=True, exist_ok=True)
    text = (EXAMPLES / "use-the-mirror/registries.d.yaml").read_text()
    (places / "mirror.yaml").write_text(
        text.replace("https://registry.example:5000", client.url).replace("registry.example:5000", host(client))
    )
    command = [*words, "pull", "-q", "--signature-policy", str(policy), f"quay.io/kolla/{name}:{TAG}"]
    environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(tmp_path / "home")}
    run_it = partial(subprocess.run, command, capture_output=True, text=True, timeout=100, check=False)
    done = await anyio.to_thread.run_sync(partial(run_it, env=environment))
    return "" if done.returncode == 0 else str(done.stderr)


@pytest.mark.soak
async def test_containerd_pulls_images_of_quay_io_from_the_mirror_only(client: Client, tmp_path: Path) -> None:
    hosts = tmp_path / "certs.d" / "quay.io" / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    text = (EXAMPLES / "use-the-mirror/hosts-only-mirror.toml").read_text()
    hosts.write_text(text.replace("https://registry.example:5000", client.url))
    (tmp_path / "containerd").mkdir()
    with peers.containerd(tmp_path / "containerd") as address:
        ctr = ["ctr", "--address", address]
        for name in ("single", "docker", "multi"):
            place = f"quay.io/kolla/{name}:{TAG}"
            await call(*ctr, "content", "fetch", "--all-platforms", "--hosts-dir", str(tmp_path / "certs.d"), place)

        content = set((await call(*ctr, "content", "ls", "-q")).split())

    for image in (SINGLE, DOCKER, MULTI):
        assert {node.digest for node in image.walk()} | image.all_blobs().keys() <= content


async def test_oras_pulls_an_artifact_by_tag_and_by_digest(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("oras")
    for number, reference in enumerate((":1", f"@{ARTIFACT.digest}")):
        code = (
            "import sys, oras.client\n"
            f"client = oras.client.OrasClient(hostname={host(client)!r}, insecure=True)\n"
            f"manifest = client.get_manifest({host(client) + '/kolla/chart' + reference!r})\n"
            "print(manifest['layers'][0]['digest'])\n"
            f"blob = client.get_blob({host(client) + '/kolla/chart' + reference!r}, manifest['layers'][0]['digest'])\n"
            f"open({str(tmp_path / str(number))!r}, 'wb').write(blob.content)\n"
        )
        assert (await call(sys.executable, "-c", code)).strip() == ARTIFACT.blobs[1].digest
        assert (tmp_path / str(number)).read_bytes() == b"chart"


async def test_curl_reads_ranges_conditions_and_referrers(client: Client) -> None:
    blob = BASE.blob
    path = f"{client.url}/v2/kolla/single/blobs/{blob.digest}"
    head = await call("curl", "-sI", path)
    assert "200 OK" in head
    assert "206" in await call("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-r", "5-9", path)
    tag = ["-H", f'If-None-Match: "{blob.digest}"']
    assert await call("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *tag, path) == "304"
    referrers = json.loads(await call("curl", "-s", f"{client.url}/v2/kolla/multi/referrers/{MULTI.digest}"))
    assert [one["digest"] for one in referrers["manifests"]] == [SBOM.digest]


async def answering(port: int) -> Client:
    await peers.answers(port)
    return Client(f"http://127.0.0.1:{port}")


async def test_nginx_alone_serves_the_images_of_one_moment(tmp_path: Path) -> None:
    mirror, port = write_layout(tmp_path / "mirror", IMAGES), peers.free_port()
    words = ["serve", str(mirror), "--write-nginx", str(tmp_path / "conf"), "--listen", f"127.0.0.1:{port}"]
    done = await run(*words, cwd=tmp_path, check=0)
    assert "5 images in" in done.stderr
    with peers.nginx(tmp_path, f"include {tmp_path}/conf/nginx.conf;"):
        client = await answering(port)
        found = partial(conformance.failures, client, "kolla/multi", TAG, MULTI, [SBOM])
        # Pages of lists can't be static.
        assert await anyio.to_thread.run_sync(lambda: list(found())) == ["tags/list?last="]
        copy = f"docker://127.0.0.1:{port}/kolla/multi:{TAG}"
        await call("skopeo", "copy", "--all", "--src-tls-verify=false", copy, f"dir:{tmp_path}/copied")
        assert (tmp_path / "copied/manifest.json").read_bytes() == MULTI.raw
        assert (await client.get("/v2/_catalog")).json["repositories"][0] == "kolla/chart"
        assert (await client.get("/v2/kolla/none/manifests/x")).status == 404
        assert (await client.get("/v2/../../index.json")).status in (400, 404)


async def test_nginx_in_front_passes_everything_on(client: Client, tmp_path: Path) -> None:
    port = peers.free_port()
    text = (EXAMPLES / "use-the-mirror/nginx-in-front.conf").read_text()
    text = re.sub(r"listen 443 ssl;|ssl_\w+ [^;]+;", "", text.replace("127.0.0.1:5000", host(client)))
    with peers.nginx(tmp_path, text.replace("server_name registry.example;", f"listen 127.0.0.1:{port};")):
        front = await answering(port)
        found = partial(conformance.failures, front, "kolla/multi", TAG, MULTI, [SBOM])
        assert await anyio.to_thread.run_sync(lambda: list(found())) == []
        assert f"127.0.0.1:{port}/kolla/single:{TAG}" in (await front.get(f"/images/kolla/single:{TAG}")).body.decode()


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_podman_pulls_a_whole_kolla_organization_under_the_names_of_kolla_ansible(tmp_path: Path) -> None:
    registry, images = kolla(187)
    async with QuayServer(registry) as source:
        await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "mirror", Options.of(server=source.url))

    names = yaml.safe_load((EXAMPLES / "use-the-mirror/kolla-globals.yml").read_text())
    async with served(tmp_path / "mirror") as client:
        prefix = f"{host(client)}/{names['docker_namespace']}"
        with peers.podman() as words:
            for name in images:
                await call(*words, "pull", "-q", "--tls-verify=false", f"{prefix}/{name}:{names['openstack_tag']}")

            found = json.loads(await call(*words, "images", "--format", "json"))

    assert {name for image in found for name in image["Names"]} == {f"{prefix}/{name}:{TAG}" for name in images}
    assert client.said == []
