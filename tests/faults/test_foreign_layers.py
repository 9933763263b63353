"""Layers that a registry does not keep itself (OCI image-spec, descriptor.md, "urls"): asked for elsewhere, or not."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import commands
import layouts
import pytest
import trustme
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Report, Selection
from quaymirror.errors import ExitCode
from quaymirror.http import guard
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import Blob, Fault, QuayServer, Redirect, Registry, SourceManifest, digest_of, too_many_requests
from quaymirror.testing import Status as Answer

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
CONTENT = b"a layer that may not be given away"
SIGNED = "?X-Amz-Signature=canary-of-a-signature"
PASSWORD = "canary-of-a-password"


def image(*urls: str) -> SourceManifest:
    """Return an image with a layer that is at `urls` and not in its registry."""
    config, layer = Blob.of(b"{}"), Blob.of(CONTENT)
    manifest = "application/vnd.docker.distribution.manifest.v2+json"
    document = {
        "schemaVersion": 2,
        "mediaType": manifest,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": config.digest,
            "size": config.size,
        },
        "layers": [{"mediaType": FOREIGN, "digest": layer.digest, "size": layer.size, "urls": [*urls]}],
    }
    raw = json.dumps(document).encode()
    return SourceManifest(raw, manifest, digest_of(raw), (config,))


def push(registry: Registry, *urls: str) -> None:
    registry.robot("kolla+robot", token=PASSWORD)
    registry.organization("kolla").repository("windows").push(TAG, image(*urls))
    registry.organization("kolla").repository("glance").push(TAG, small_image("glance"))


async def mirror(server: QuayServer, path: Path, **options: Any) -> Report:
    credentials = Credentials("kolla+robot", Secret(PASSWORD))
    settings = Options.of(server=server.url, retries=1, credentials=credentials, **options)
    report = await quaymirror.sync(Selection("kolla", "*", TAG), path, settings)
    layouts.check(path)
    # The other image arrives in any case.
    assert f"kolla/glance:{TAG}" in layouts.names(path)
    return report


def why(report: Report) -> str:
    (error,) = [outcome.error for outcome in report.outcomes if outcome.error is not None]
    assert "canary" not in str(error)
    return error.message


async def test_only_the_registry_is_used_unless_more_is_allowed(tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        push(registry, f"{server.cdn_url}/files/layer{SIGNED}")
        server.faults.append(Fault("^/files/", Answer(200, body=CONTENT)))
        report = await mirror(server, tmp_path / "mirror")
        assert server.count("^/files/") == 0

    assert report.exit_code is ExitCode.PARTIAL
    assert "add --allow-foreign-layers to fetch it from there" in why(report)
    assert server.cdn_url.removeprefix("http://") in why(report)


async def test_an_allowed_layer_is_fetched_without_credentials_and_verified(tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry, require_token=True) as server:
        push(registry, f"{server.cdn_url}/gone{SIGNED}", f"{server.cdn_url}/files/layer{SIGNED}")
        server.faults.append(Fault("^/files/", Answer(200, body=CONTENT)))
        report = await mirror(server, tmp_path / "mirror", allow_foreign_layers=True)
        asked = [request for request in server.requests if request.path in ("/gone", "/files/layer")]

    assert report.exit_code is ExitCode.OK
    assert digest_of(CONTENT) in layouts.check(tmp_path / "mirror")
    assert [request.path for request in asked] == ["/gone", "/files/layer"]
    assert not any({"authorization", "cookie"} & request.headers.keys() for request in asked)


async def test_a_layer_that_the_registry_has_is_fetched_from_nowhere_else(tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        push(registry, f"{server.cdn_url}/files/layer")
        server.faults.append(Fault(f"^/v2/.*/blobs/{digest_of(CONTENT)}", Answer(200, body=CONTENT)))
        report = await mirror(server, tmp_path / "mirror", allow_foreign_layers=True)
        assert server.count("^/files/") == 0

    assert report.exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(200, body=CONTENT[::-1]), "another digest"),
        (Answer(200, body=CONTENT + b"!"), "bytes of it, not"),
        (Answer(404), "(for a foreign layer): 404"),
        (Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}), "private, or needs credentials"),
        (too_many_requests("3600"), "3600 s"),
        (Redirect("file:///etc/passwd"), "can't be followed"),
    ],
    ids=["other bytes", "another size", "gone", "wants a password", "closed for an hour", "a file"],
)
async def test_a_bad_answer_fails_that_image_alone(answer: Any, says: str, tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        push(registry, f"{server.cdn_url}/files/layer{SIGNED}")
        server.faults.append(Fault("^/files/", answer))
        report = await mirror(server, tmp_path / "mirror", allow_foreign_layers=True)

    assert report.exit_code is ExitCode.PARTIAL
    assert says in why(report)


@pytest.mark.parametrize(
    "url", ["", "/files/layer", "ftp://h/x", "http://[::1", "https://me:canary@h/x", "http://h:x/", "https://h/\x1b[2J"]
)
async def test_an_invalid_url_is_not_requested(url: str, tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        push(registry, url)
        report = await mirror(server, tmp_path / "mirror", allow_foreign_layers=True)

    assert report.exit_code is ExitCode.PARTIAL
    assert "without a usable URL" in why(report)


async def test_one_layer_does_not_send_us_everywhere(tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        push(registry, *(f"{server.cdn_url}/files/{number}" for number in range(100)))
        await mirror(server, tmp_path / "mirror", allow_foreign_layers=True)
        assert server.count("^/files/") == 5


async def test_a_public_registry_s_images_lead_to_no_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1")
    registry = Registry()
    async with QuayServer(registry) as server, QuayServer(Registry(), host="127.0.0.2") as inside:
        push(registry, f"{inside.url}/files/layer{SIGNED}")
        report = await mirror(server, tmp_path / "mirror", allow_foreign_layers=True)
        assert not inside.requests

    assert report.exit_code is ExitCode.PARTIAL
    assert "a private address: refused" in why(report)


async def test_a_registry_with_tls_has_no_layers_without(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    registry = Registry()
    async with QuayServer(registry, tls=context) as server, QuayServer(Registry()) as plain:
        push(registry, f"{plain.url}/files/layer")
        report = await mirror(server, tmp_path / "mirror", allow_foreign_layers=True, cafile=tmp_path / "ca.pem")
        assert not plain.requests

    assert report.exit_code is ExitCode.PARTIAL
    assert "without a usable URL" in why(report)


async def test_the_message_names_the_option_that_works(tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        url = f"{server.cdn_url}/files/layer{SIGNED}"
        registry.organization("kolla").repository("windows").push(TAG, image(url))
        server.faults.append(Fault("^/files/", Answer(200, body=CONTENT)))
        words = ("sync", "kolla", "*", TAG, "--server", server.url, "--progress", "plain", "--verbose")
        first = await commands.run(*words, cwd=tmp_path, check=3)
        second = await commands.run(*words, "--allow-foreign-layers", cwd=tmp_path, check=0)

    assert "--allow-foreign-layers" in first.stderr
    assert "canary" not in first.stdout + first.stderr + second.stdout + second.stderr
    assert list(layouts.names(tmp_path / "mirror")) == [f"kolla/windows:{TAG}"]


async def test_a_mirror_is_repaired_from_elsewhere_only_if_that_is_allowed(tmp_path: Path) -> None:
    registry = Registry()
    async with QuayServer(registry) as server:
        registry.organization("kolla").repository("windows").push(TAG, image(f"{server.cdn_url}/files/layer{SIGNED}"))
        server.faults.append(Fault("^/files/", Answer(200, body=CONTENT)))
        await mirror_alone(server, tmp_path / "mirror")
        lost = tmp_path / "mirror" / "blobs" / "sha256" / digest_of(CONTENT).removeprefix("sha256:")
        lost.unlink()
        server.reset_records()
        words = ("verify", "mirror", "--repair", "--server", server.url)
        first = await commands.run(*words, cwd=tmp_path, check=8)
        assert server.count("^/files/") == 0
        second = await commands.run(*words, "--allow-foreign-layers", cwd=tmp_path, check=0)

    assert "add --allow-foreign-layers to fetch it from there" in first.stderr
    assert "canary" not in first.stdout + first.stderr + second.stdout + second.stderr
    assert lost.read_bytes() == CONTENT


async def mirror_alone(server: QuayServer, path: Path) -> None:
    settings = Options.of(server=server.url, retries=1, allow_foreign_layers=True)
    report = await quaymirror.sync(Selection("kolla", "*", TAG), path, settings)
    assert report.exit_code is ExitCode.OK
