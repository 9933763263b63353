from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from quaymirror.testing import (
    QuayServer,
    Registry,
    digest_of,
    make_artifact,
    make_attestation,
    make_image,
    make_index,
    make_layer,
)

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
EVERY_TYPE = f"{OCI_INDEX}, {OCI_MANIFEST};q=0.9, {DOCKER_MANIFEST}"
AMD64 = make_image([make_layer(1, 600), make_layer(2, 600)])
ARM64 = make_image([make_layer(3, 600)], platform="linux/arm64")
MULTI = make_index([(ARM64, "linux/arm64"), (AMD64, "linux/amd64"), (make_attestation(AMD64), "unknown/unknown")])
UNKNOWN_DIGEST = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Reply:
    """An answer, read."""

    status: int
    headers: Any
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["errors"][0]["code"])


class Client:
    """A session bound to a server."""

    def __init__(self, session: aiohttp.ClientSession, server: QuayServer, registry: Registry) -> None:
        self.session = session
        self.server = server
        self.registry = registry
        self.kolla = registry.organization("kolla")
        self.repository = self.kolla.repository("nova-api")

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Reply:
        url = self.server.url + path
        skipped = ["Accept", "Accept-Encoding"]
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, skip_auto_headers=skipped
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def tags(self, query: str = "") -> list[str]:
        reply = await self.ask(f"/v2/kolla/nova-api/tags/list{query}")
        names: list[str] = json.loads(reply.body)["tags"]
        return names


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    registry = Registry()
    async with QuayServer(registry) as server, aiohttp.ClientSession(auto_decompress=False) as session:
        yield Client(session, server, registry)


async def test_the_ping_challenges_the_anonymous(client: Client) -> None:
    reply = await client.ask("/v2/")
    assert (reply.status, reply.body) == (401, b"true")
    url, host = client.server.url, client.server.host
    assert reply.headers["WWW-Authenticate"] == f'Bearer realm="{url}/v2/auth",service="{host}"'
    assert reply.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert reply.headers["X-Sparse-Manifest-Support"] == "false"


async def test_the_ping_answers_clients_with_a_token(client: Client) -> None:
    token = json.loads(
        (await client.ask(f"/v2/auth?service={client.server.host}&scope=repository:kolla/nova-api:pull")).body
    )["token"]
    assert (await client.ask("/v2/", Authorization=f"Bearer {token}")).status == 200
    assert (await client.ask("/v2/", Authorization="Bearer garbage")).status == 401


async def test_a_public_manifest_needs_no_token(client: Client) -> None:
    client.repository.push("t", AMD64)
    reply = await client.ask("/v2/kolla/nova-api/manifests/t", Accept=EVERY_TYPE)
    assert (reply.status, reply.body) == (200, AMD64.raw)
    assert reply.headers["Content-Type"] == OCI_MANIFEST
    assert reply.headers["Docker-Content-Digest"] == AMD64.digest
    assert reply.headers["Content-Length"] == str(len(AMD64.raw))
    assert "Connection" not in reply.headers
    assert "ETag" not in reply.headers


async def test_head_has_the_headers_of_get_and_no_body(client: Client) -> None:
    client.repository.push("t", AMD64)
    reply = await client.ask("/v2/kolla/nova-api/manifests/t", "HEAD", Accept=EVERY_TYPE)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Docker-Content-Digest"] == AMD64.digest
    assert reply.headers["Content-Length"] == str(len(AMD64.raw))


@pytest.mark.parametrize(
    ("accept", "media_type", "digest"),
    [
        (EVERY_TYPE, OCI_INDEX, MULTI.digest),
        (OCI_MANIFEST, OCI_MANIFEST, AMD64.digest),
        (DOCKER_MANIFEST, SCHEMA1, None),
        ("application/json", SCHEMA1, None),
        ("*/*", SCHEMA1, None),
        ("", SCHEMA1, None),
    ],
)
async def test_a_tag_comes_back_converted_to_what_accept_lists(
    client: Client, accept: str, media_type: str, digest: str | None
) -> None:
    client.repository.push("t", MULTI)
    reply = await client.ask("/v2/kolla/nova-api/manifests/t", **({"Accept": accept} if accept else {}))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == media_type
    assert reply.headers["Docker-Content-Digest"] == digest_of(reply.body)
    assert digest in (None, digest_of(reply.body))


async def test_a_conversion_to_schema_1_lists_the_layers_backwards(client: Client) -> None:
    client.repository.push("t", AMD64)
    document = json.loads((await client.ask("/v2/kolla/nova-api/manifests/t")).body)
    layers = [layer["digest"] for layer in AMD64.document["layers"]]
    assert document["schemaVersion"] == 1
    assert [layer["blobSum"] for layer in document["fsLayers"]] == layers[::-1]
    assert (document["name"], document["tag"], document["architecture"]) == ("kolla/nova-api", "t", "amd64")
    assert json.loads(document["history"][0]["v1Compatibility"])["parent"]


@pytest.mark.parametrize(
    "manifest", [make_artifact("text/sbom", b"x"), make_index([(ARM64, "linux/arm64")])], ids=["artifact", "no amd64"]
)
async def test_a_manifest_that_can_not_be_converted_is_unknown(client: Client, manifest: Any) -> None:
    client.repository.push("t", manifest)
    reply = await client.ask("/v2/kolla/nova-api/manifests/t", Accept=DOCKER_MANIFEST)
    assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("manifest", [MULTI, AMD64, ARM64], ids=["index", "child", "other child"])
async def test_a_manifest_by_digest_ignores_accept(client: Client, manifest: Any) -> None:
    client.repository.push("t", MULTI)
    reply = await client.ask(f"/v2/kolla/nova-api/manifests/{manifest.digest}", Accept="*/*")
    assert (reply.status, reply.body) == (200, manifest.raw)


async def test_a_conditional_request_is_answered_in_full(client: Client) -> None:
    client.repository.push("t", AMD64)
    headers = {"If-None-Match": f'"{AMD64.digest}"', "Accept": EVERY_TYPE}
    assert (await client.ask("/v2/kolla/nova-api/manifests/t", **headers)).status == 200


async def test_a_missing_object_has_an_error_code(client: Client) -> None:
    client.repository.push("gone", ARM64)
    client.repository.delete_tag("gone")
    base = "/v2/kolla/nova-api"
    for path, code in [
        (f"{base}/manifests/nope", "MANIFEST_UNKNOWN"),
        (f"{base}/manifests/gone", "TAG_EXPIRED"),
        (f"{base}/manifests/{ARM64.digest}", "MANIFEST_UNKNOWN"),
        (f"{base}/manifests/{UNKNOWN_DIGEST}", "MANIFEST_UNKNOWN"),
        (f"{base}/blobs/{UNKNOWN_DIGEST}", "BLOB_UNKNOWN"),
    ]:
        reply = await client.ask(path, Accept=EVERY_TYPE)
        assert (reply.status, reply.code) == (404, code)
    assert (await client.ask(f"{base}/manifests/nope", "HEAD")).body == b""


@pytest.mark.parametrize(
    "path", ["/v2/kolla/nova-api/manifests/-bad", "/v2/kolla/nova-api/blobs/bad", "/v2/x/y", "/", "/v2x"]
)
async def test_an_unknown_route_is_an_html_page(client: Client, path: str) -> None:
    reply = await client.ask(path)
    assert reply.status == 404
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ["secret", "nope"])
@pytest.mark.parametrize("rest", ["manifests/t", f"blobs/{UNKNOWN_DIGEST}", "tags/list", f"referrers/{UNKNOWN_DIGEST}"])
async def test_the_private_and_the_missing_look_the_same(client: Client, name: str, rest: str) -> None:
    client.kolla.repository("secret", public=False)
    reply = await client.ask(f"/v2/kolla/{name}/{rest}")
    assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
    assert reply.headers["WWW-Authenticate"].endswith(f',scope="repository:kolla/{name}:pull"')


async def test_a_granted_repository_that_was_deleted_since_is_unknown(client: Client) -> None:
    url = f"/v2/auth?service={client.server.host}&scope=repository:kolla/nova-api:pull"
    token = json.loads((await client.ask(url)).body)["token"]
    client.kolla.delete_repository("nova-api")
    reply = await client.ask("/v2/kolla/nova-api/manifests/t", Authorization=f"Bearer {token}")
    assert (reply.status, reply.code) == (404, "NAME_UNKNOWN")


async def test_a_blob_is_redirected_to_a_signed_link_elsewhere(client: Client) -> None:
    client.repository.push("t", AMD64)
    blob = AMD64.blobs[1]
    reply = await client.ask(f"/v2/kolla/nova-api/blobs/{blob.digest}")
    assert reply.status == 302
    location = reply.headers["Location"]
    encoded = blob.digest.removeprefix("sha256:")
    assert location.startswith(f"{client.server.cdn_url}/blob/sha256/{encoded[:2]}/{encoded}?X-Amz-Expires=600&exp=")
    assert reply.headers["Docker-Content-Digest"] == blob.digest
    assert reply.headers["Cache-Control"] == "max-age=31536000"
    assert reply.headers["Connection"] == "close"


async def test_a_blob_answers_head_itself(client: Client) -> None:
    client.repository.push("t", AMD64)
    blob = AMD64.blobs[1]
    reply = await client.ask(f"/v2/kolla/nova-api/blobs/{blob.digest}", "HEAD")
    assert (reply.status, reply.headers["Content-Length"]) == (200, str(blob.size))
    assert reply.headers["Accept-Ranges"] == "bytes"


async def test_a_blob_must_belong_to_the_repository(client: Client) -> None:
    client.repository.push("t", AMD64)
    client.kolla.repository("empty")
    reply = await client.ask(f"/v2/kolla/empty/blobs/{AMD64.blobs[0].digest}")
    assert (reply.status, reply.code) == (404, "BLOB_UNKNOWN")


async def test_quay_streams_whole_blobs_and_compresses_them_on_request() -> None:
    registry = Registry()
    registry.organization("kolla").repository("r").push("t", AMD64)
    blob = AMD64.blobs[0]
    path = f"/v2/kolla/r/blobs/{blob.digest}"
    async with (
        QuayServer(registry, redirect_blobs=False) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        client = Client(session, server, registry)
        plain = await client.ask(path, Range="bytes=5-9", **{"Accept-Encoding": "identity"})
        squeezed = await client.ask(path, **{"Accept-Encoding": "gzip, deflate"})
        assert server.blob_bytes() == len(plain.body) + len(squeezed.body)

    assert (plain.status, plain.body) == (200, blob.data)
    assert "Accept-Ranges" not in plain.headers
    assert squeezed.headers["Content-Encoding"] == "gzip"
    assert "Content-Length" not in squeezed.headers
    assert gzip.decompress(squeezed.body) == blob.data


async def test_the_tag_list_is_sorted_and_paged_by_a_relative_link(client: Client) -> None:
    for number in reversed(range(120)):
        client.repository.push(f"t{number:03d}", AMD64)
    reply = await client.ask("/v2/kolla/nova-api/tags/list?n=150")
    document = json.loads(reply.body)

    assert document["name"] == "kolla/nova-api"
    assert document["tags"] == [f"t{number:03d}" for number in range(100)]
    assert reply.headers["Link"] == '</v2/kolla/nova-api/tags/list?n=100&last=t099>; rel="next"'
    following = await client.ask("/v2/kolla/nova-api/tags/list?n=100&last=t099")
    assert len(json.loads(following.body)["tags"]) == 20
    assert "Link" not in following.headers


async def test_the_tag_list_understands_n_and_last(client: Client) -> None:
    for name in "abc":
        client.repository.push(name, AMD64)
    assert await client.tags("?n=0") == []
    assert await client.tags("?n=2") == ["a", "b"]
    assert await client.tags("?n=x&last=a") == ["b", "c"]


async def test_the_tag_list_can_lag_behind_until_something_is_deleted() -> None:
    registry = Registry()
    async with QuayServer(registry, tag_list_cache=120) as server, aiohttp.ClientSession() as session:
        client = Client(session, server, registry)
        client.repository.push("a", AMD64)
        assert await client.tags() == ["a"]
        client.repository.push("b", AMD64)
        assert await client.tags() == ["a"]
        client.repository.delete_tag("a")
        assert await client.tags() == ["b"]


async def test_referrers_lists_the_manifests_with_this_subject(client: Client) -> None:
    client.repository.push("t", AMD64)
    sbom = make_artifact("text/sbom", b"x", subject=AMD64, annotations={"k": "v"})
    client.repository.attach(sbom)
    client.repository.attach(make_artifact("text/signature", b"y", subject=AMD64))
    path = f"/v2/kolla/nova-api/referrers/{AMD64.digest}"
    everything, filtered = await client.ask(path), await client.ask(f"{path}?artifactType=text/sbom")

    assert everything.headers["Content-Type"] == OCI_INDEX
    assert len(json.loads(everything.body)["manifests"]) == 2
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert json.loads(filtered.body)["manifests"] == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": sbom.digest,
            "size": len(sbom.raw),
            "artifactType": "text/sbom",
            "annotations": {"k": "v"},
        }
    ]


async def test_referrers_of_an_unknown_digest_are_a_bad_request(client: Client) -> None:
    reply = await client.ask(f"/v2/kolla/nova-api/referrers/{UNKNOWN_DIGEST}")
    assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")


async def test_the_catalog_is_empty_for_the_anonymous(client: Client) -> None:
    assert json.loads((await client.ask("/v2/_catalog")).body) == {"repositories": []}


async def test_a_public_catalog_pages_by_token_and_ignores_last() -> None:
    registry = Registry()
    for name in "cab":
        registry.organization("kolla").repository(name)
    async with QuayServer(registry, public_catalog=True) as server, aiohttp.ClientSession() as session:
        client = Client(session, server, Registry())
        first = await client.ask("/v2/_catalog?n=2&last=kolla/a")
        link = first.headers["Link"]
        assert json.loads(first.body) == {"repositories": ["kolla/c", "kolla/a"]}
        assert link.startswith("</v2/_catalog?n=2&next_page=gAAAAA")
        assert link.endswith('>; rel="next"')
        second = await client.ask(link.partition(">")[0].removeprefix("<"))
        assert json.loads(second.body) == {"repositories": ["kolla/b"]}


async def test_nested_names_work_plain_and_quoted(client: Client) -> None:
    client.kolla.repository("nested/a/b").push("t", AMD64)
    for name in ("nested/a/b", "nested%2Fa%2Fb"):
        assert (await client.ask(f"/v2/kolla/{name}/manifests/t", Accept=EVERY_TYPE)).body == AMD64.raw


async def test_a_name_without_a_namespace_is_in_library(client: Client) -> None:
    client.registry.organization("library").repository("debian").push("t", AMD64)
    assert (await client.ask("/v2/debian/manifests/t", Accept=EVERY_TYPE)).body == AMD64.raw


async def test_public_repositories_can_be_made_to_need_a_token() -> None:
    registry = Registry()
    async with QuayServer(registry, require_token=True) as server, aiohttp.ClientSession() as session:
        client = Client(session, server, registry)
        client.repository.push("t", AMD64)
        assert (await client.ask("/v2/kolla/nova-api/manifests/t")).status == 401
        url = f"/v2/auth?service={server.host}&scope=repository:kolla/nova-api:pull"
        token = json.loads((await client.ask(url)).body)["token"]
        reply = await client.ask("/v2/kolla/nova-api/manifests/t", Authorization=f"Bearer {token}")
        assert reply.status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_nothing_can_be_written(client: Client, method: str) -> None:
    assert (await client.ask("/v2/kolla/nova-api/manifests/t", method)).status == 405


async def test_the_root_without_a_slash_is_redirected(client: Client) -> None:
    assert (await client.ask("/v2")).headers["Location"] == f"{client.server.url}/v2/"
