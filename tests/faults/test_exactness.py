"""Byte for byte: addresses that servers name, challenges as the grammar has them, and every manifest Quay accepts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import layouts
import pytest
from commands import run
from organizations import TAG, small_image
from pushing import organization
from receiver import Receiver
from trouble import NOVA, two_images

from quaymirror.http.guard import is_public
from quaymirror.testing import Blob, ExtraHeaders, Fault, QuayServer, Redirect, Registry, SourceManifest, digest_of

IMAGE = small_image("nova", 3_000)
LAYER = IMAGE.blobs[1]


async def sync(server: QuayServer, target: Path | str, *options: str, cwd: Path, code: int = 0) -> str:
    """Mirror all of kolla by the command, and return its output."""
    done = await run(
        "sync", "kolla", "*", TAG, "--server", server.url, "--to", str(target), *options, cwd=cwd, check=code
    )
    return done.stderr


@asynccontextmanager
async def storage(content: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve `content` at every path; hand out the server's address, and the request targets as they arrive."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ", 1)[1].rsplit(b" HTTP/1.1\r\n", 1)[0].decode("latin-1"))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2]), asked


# As it is in `Location`, and as it has to be asked for where that differs.
TARGETS = {
    "an escaped slash": "/a%2Fb/c",
    "lower-case escapes": "/a%2fb%3a",
    "escapes that nothing needs": "/%7Euser/%41%2D%2E%5F",
    "an escaped at sign": "/registry%40eu/x",
    "empty segments": "//a///b//",
    "dots": "/a/./b/../c",
    "escaped dots": "/a/%2E%2E/%2e/c",
    "semicolons and commas": "/a;v=1,2;w=(3)!*'/x",
    "brackets": '/a[1]{2}|3^`4\\5"<6>',
    "a signed query": "/x?X-Amz-Credential=AKIA%2F20261101%2Fus-east-1&X-Amz-Signature=0aF%2B%3d%3D&e=a+b%20c",
    "a signature in base64": "/x?sig=ab/c+d=/e%2Bf==&se=2026-11-01T00%3A00%3A00Z&sp=r",
    "an empty query": "/x?",
    "empty parameters": "/x?a&b=&&=c&",
    "question marks and slashes in the query": "/x?u=https://cdn.example/y?z&at=@:~",
    "a per cent sign alone": "/100%/x?p=5%&q=%zz",
}
QUOTED = {
    "letters that are no ASCII": ("/caf\u00e9?x=\u20ac", "/caf%C3%A9?x=%E2%82%AC"),
    "a space": ("/a b?c d", "/a%20b?c%20d"),
    "a fragment": ("/a%2Fb?c#d%2Fe", "/a%2Fb?c"),
    "no path": ("?token=a%2Fb", "/?token=a%2Fb"),
}


@pytest.mark.parametrize("name", [*TARGETS, *QUOTED])
async def test_a_redirect_is_followed_to_exactly_where_it_leads(name: str, tmp_path: Path) -> None:
    target, expected = QUOTED[name] if name in QUOTED else (TARGETS[name], TARGETS[name])
    async with QuayServer(two_images(IMAGE)) as server, storage(LAYER.data) as (url, asked):
        server.faults.append(Fault(f"^/v2/kolla/nova/blobs/{LAYER.digest}", Redirect(f"{url}{target}")))
        await sync(server, tmp_path / "mirror", cwd=tmp_path)

    assert asked == [expected]
    assert NOVA in layouts.names(tmp_path / "mirror")


@pytest.mark.parametrize("form", ["without scheme", "upper case", "twice"])
async def test_however_a_redirect_is_written_its_path_stays(form: str, tmp_path: Path) -> None:
    target = "/a%2fb/%7E//../c?sig=%40+%3d"
    async with QuayServer(two_images(IMAGE)) as server, storage(LAYER.data) as (url, asked):
        location = {
            "without scheme": url.removeprefix("http:"),
            "upper case": f"HTTP{url[4:]}",
            "twice": f"{server.url}/hop%2F",
        }[form]
        server.faults += [
            Fault(f"^/v2/kolla/nova/blobs/{LAYER.digest}", Redirect(f"{location}{target}")),
            Fault("^/hop", Redirect(f"{url}{target}")),
        ]
        await sync(server, tmp_path / "mirror", cwd=tmp_path)

    assert asked == [target]


UPLOADS = {
    "an escaped slash": "?_state=a%2Fb%2fc",
    "escapes that nothing needs": "?_state=%7E%40%2D~@",
    "base64": "?_state=eyJ/+a==&n=%2B%3D",
    "an empty parameter": "?_state=&x",
}


@pytest.mark.parametrize("where", ["path", "absolute", "without scheme"])
@pytest.mark.parametrize("name", UPLOADS)
async def test_an_upload_goes_on_exactly_where_the_registry_says(name: str, where: str, tmp_path: Path) -> None:
    image = small_image("pushed", 20_000)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        prefix = {"path": "", "absolute": f"http://{target.host}", "without scheme": f"//{target.host}"}[where]
        target.location = lambda path: f"{prefix}{path.replace('session', '%73ession')}{UPLOADS[name]}"
        await sync(server, target.address, "--state", str(tmp_path / "state"), cwd=tmp_path)
        uploads = [request.source.raw_path for request in target.requests if request.method in ("PATCH", "PUT")]

    ends = {
        path.partition("%73ession-")[2].lstrip("0123456789").partition("&digest=")[0]
        for path in uploads
        if "/uploads/" in path
    }
    assert ends == {UPLOADS[name]}


BEARER = 'Bearer realm="{url}/v2/auth",service="{host}"'
CHALLENGES = {
    "another scheme before it, in one field": [f"Negotiate, {BEARER}"],
    "another scheme after it, in one field": [f"{BEARER}, Negotiate"],
    "another scheme with a token before it": [f"Negotiate YIIJvwYGKwYBBQUC/+==, NTLM TlRMTVNTUAACAAAA, {BEARER}"],
    "another scheme with parameters before it": [
        f'Digest realm="a, b=\\"c\\"", qop="auth,auth-int", stale=false, {BEARER}'
    ],
    "Basic before it": [f'Basic realm="x", {BEARER}'],
    "empty elements": [f" , ,{BEARER},,"],
    "spaces everywhere": ['  bEARER   realm = "{url}/v2/auth" , service = "{host}"  '],
    "two fields": ["Negotiate", BEARER],
    "something broken before it": [f"Basic realm=not a token, {BEARER}"],
}


@pytest.mark.parametrize("name", CHALLENGES)
async def test_a_challenge_is_found_among_others(name: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(), require_token=True) as server:
        fields = [field.format(url=server.url, host=server.host) for field in CHALLENGES[name]]
        server.faults.append(Fault("^/v2/kolla/", ExtraHeaders([("WWW-Authenticate", field) for field in fields])))
        await sync(server, tmp_path / "mirror", cwd=tmp_path)
        assert server.count("^/v2/auth$")

    assert NOVA in layouts.names(tmp_path / "mirror")


NOT_PUBLIC = {
    "site-local": "[fec0::1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "IPv4-compatible, of a public address": "[::8.8.8.8]",
    "NAT64 of a local prefix": "[64:ff9b:1::7f00:1]",
    "NAT64 of a private address": "[64:ff9b::a00:1]",
    "multicast": "224.0.0.1",
    "multicast of an organization": "239.1.2.3",
    "multicast in IPv6": "[ff02::1]",
    "multicast in IPv6, global": "[ff0e::1]",
    "segment routing": "[5f00::1]",
    "6to4 of a private address": "[2002:a00:1::1]",
    "6to4's relays": "192.88.99.1",
    "Teredo": "[2001:0:53aa:64c::1]",
    "IPv4-mapped": "[::ffff:10.0.0.1]",
    "IPv4-translated": "[::ffff:0:7f00:1]",
    "documentation": "[3fff::1]",
    "discard only": "[100::1]",
    "unique local": "[fd00::1]",
    "link-local": "[fe80::1]",
    "shared": "100.64.0.1",
    "benchmarks": "198.18.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
}


@pytest.mark.parametrize("name", NOT_PUBLIC)
def test_no_address_outside_the_public_internet_counts_as_public(name: str) -> None:
    assert not is_public(NOT_PUBLIC[name].strip("[]"))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2600:9000:2000::1",
        "2001:4860:4860::8888",
        "64:ff9b::808:808",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_the_public_internet_is_public(address: str) -> None:
    assert is_public(address)


INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"


def described(child: SourceManifest | Blob, media_type: str, **more: Any) -> dict[str, Any]:
    size = len(child.raw) if isinstance(child, SourceManifest) else child.size
    return {"mediaType": media_type, "digest": child.digest, "size": size, **more}


def index_with(*children: SourceManifest | Blob, media_type: str = "application/x-unknown") -> SourceManifest:
    """Return an index of an image and of `children`, which are manifests or blobs of unknown types."""
    image = small_image("amd64")
    entries = [described(image, MANIFEST), *(described(child, media_type) for child in children)]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    manifests = tuple(child for child in children if isinstance(child, SourceManifest))
    blobs = tuple(child for child in children if isinstance(child, Blob))
    return SourceManifest(raw, INDEX, digest_of(raw), blobs, (image, *manifests))


def opaque(content: bytes, media_type: str) -> SourceManifest:
    return SourceManifest(content, media_type, digest_of(content))


UNKNOWN = {
    "an artifact manifest": index_with(
        opaque(b'{"mediaType": "%s", "blobs": []}' % ARTIFACT.encode(), ARTIFACT), media_type=ARTIFACT
    ),
    "no JSON": index_with(opaque(b"\xff\x00 whatever", "application/x-unknown")),
    "nothing": index_with(opaque(b"", "application/x-unknown")),
    "two of them": index_with(opaque(b"one", "application/x-unknown"), opaque(b"two", "application/x-unknown")),
    "a blob": index_with(Blob.of(b"a blob that an index names")),
    "a blob larger than any manifest": index_with(Blob.of(bytes(5 << 20))),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_a_child_of_an_unknown_type_is_mirrored_with_its_index(name: str, tmp_path: Path) -> None:
    image = UNKNOWN[name]
    root = tmp_path / "mirror"
    async with QuayServer(two_images(image)) as server:
        await sync(server, root, cwd=tmp_path)
        assert layouts.names(root)[NOVA] == image.digest
        for entry in image.document["manifests"]:
            assert layouts.blob(root, entry["digest"]) is not None

        server.reset_records()
        assert "unchanged" in await sync(server, root, cwd=tmp_path)
        assert server.count("^/v2/.*/(manifests|blobs)/sha256") == 0

    await run("verify", str(root), cwd=tmp_path, check=0)


async def test_a_child_of_an_unknown_type_is_pushed_as_the_manifest_it_was(tmp_path: Path) -> None:
    child = opaque(b'{"blobs": []}', ARTIFACT)
    image, state = index_with(child, media_type=ARTIFACT), str(tmp_path / "state")
    async with QuayServer(organization(image)) as server, Receiver() as target:
        await sync(server, target.address, "--state", state, cwd=tmp_path)
        assert target.manifests["kolla/image-0"][child.digest] == (ARTIFACT, child.raw)
        assert target.manifests["kolla/image-0"][TAG] == (INDEX, image.raw)
        await run("verify", target.address, "--state", state, cwd=tmp_path, check=0)


async def test_a_child_whose_type_the_index_hides_is_refused(tmp_path: Path) -> None:
    """As an opaque child its layers would stay behind."""
    image = index_with(small_image("arm64"))
    async with QuayServer(two_images(image)) as server:
        said = await sync(server, tmp_path / "mirror", cwd=tmp_path, code=3)

    assert "but its index says" in said


def document(**changes: Any) -> SourceManifest:
    """Return a manifest with some fields changed, and its blobs."""
    config, layer = Blob.of(b"{}"), Blob.of(b"layer")
    fields = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")],
    } | changes
    raw = json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()
    return SourceManifest(raw, MANIFEST, digest_of(raw), (config, layer))


def layer(**changes: Any) -> SourceManifest:
    return document(layers=[described(Blob.of(b"layer"), "application/vnd.oci.image.layer.v1.tar") | changes])


def child(**changes: Any) -> SourceManifest:
    image = small_image("amd64")
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [described(image, MANIFEST) | changes]}
    ).encode()
    return SourceManifest(raw, INDEX, digest_of(raw), children=(image,))


def edited(old: bytes, new: bytes) -> SourceManifest:
    image = document()
    raw = image.raw.replace(old, new)
    assert raw != image.raw
    return SourceManifest(raw, MANIFEST, digest_of(raw), image.blobs)


DEEP = {"a": [{"b": [[1.5, None, True]]}]}
# Documents that Go's decoder or Quay's schemas (image/oci, image/docker/schema2) accept.
ACCEPTED = {
    "null for layers": document(layers=None),
    "null for annotations": document(annotations=None),
    "null in annotations": document(annotations={"a": None}),
    "annotations that are no texts": document(annotations=DEEP),
    "null for a layer's annotations": layer(annotations=None),
    "null in a layer's annotations": layer(annotations={"a": None}),
    "a layer's annotations that are no texts": layer(annotations=DEEP),
    "null for a child's annotations": child(annotations=None),
    "a child's annotations that are no texts": child(
        annotations=DEEP, platform={"os": "linux", "architecture": "amd64"}
    ),
    "null for a child's platform": child(platform=None),
    "a platform of more than anyone needs": child(platform={"os": "l" * 1000, "architecture": "a", "features": ["x"]}),
    "an artifact type that is no media type": child(artifactType="any thing\n"),
    "an artifact type of nothing": document(artifactType=""),
    "null for the subject": document(subject=None),
    "a subject of another algorithm": document(
        subject={"mediaType": MANIFEST, "digest": "sha384:" + "0" * 96, "size": 5}
    ),
    "null for no children": SourceManifest(
        raw := json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": None}).encode(), INDEX, digest_of(raw)
    ),
    "no children": SourceManifest(
        raw := json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode(), INDEX, digest_of(raw)
    ),
    "null for urls": layer(urls=None),
    "the version as a float": edited(b'"schemaVersion": 2', b'"schemaVersion": 2.0'),
    "a size as a float": edited(b'"size": 5', b'"size": 5.0'),
    "a size with an exponent": edited(b'"size": 5', b'"size": 0.5e1'),
    "a media type of a layer that is none": layer(mediaType="caf\u00e9\n"),
    "an empty media type of a layer": layer(mediaType=""),
    "an unknown key twice": edited(b'{"schemaVersion"', b'{"x": 1, "x": {"y": 2, "y": 3}, "schemaVersion"'),
    "unknown keys that differ in case": document(custom={"a": 1, "A": 2}, Custom=1),
    "an annotation twice": edited(b'{"schemaVersion"', b'{"annotations": {"a": "1", "a": "2"}, "schemaVersion"'),
}


async def test_every_manifest_that_quay_or_go_accepts_is_mirrored(tmp_path: Path) -> None:
    registry = Registry()
    for number, image in enumerate(ACCEPTED.values()):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    async with QuayServer(registry) as server:
        done = await run(
            "sync",
            "kolla",
            "*",
            TAG,
            "--server",
            server.url,
            "--to",
            str(tmp_path / "mirror"),
            "--report",
            "report.json",
            cwd=tmp_path,
        )
        report = json.loads((tmp_path / "report.json").read_text())
        failed = {outcome["reference"]: outcome["error"] for outcome in report["outcomes"] if outcome["error"]}
        assert not failed
        assert done.returncode == 0, done.stderr
        await run("verify", str(tmp_path / "mirror"), cwd=tmp_path, check=0)
        assert "unchanged" in await sync(server, tmp_path / "mirror", cwd=tmp_path)

    names = layouts.names(tmp_path / "mirror")
    for number, image in enumerate(ACCEPTED.values()):
        assert layouts.blob(tmp_path / "mirror", names[f"kolla/image-{number}:{TAG}"]) == image.raw


# Ambiguous or false documents; see also test_hostile_registry.py.
REFUSED = {
    "a known key twice": edited(b'"config"', b'"layers": [], "config"'),
    "a layer's digest twice": edited(b'"digest"', b'"digest": "sha256:' + b"0" * 64 + b'", "digest"'),
    "known keys that differ in case": document(Layers=[]),
    "a size with a fraction": edited(b'"size": 5', b'"size": 5.5'),
    "a size too large for a float to be exact": edited(b'"size": 5', b'"size": 1e300'),
    "no config": document(config=None),
}


async def test_ambiguous_documents_are_refused(tmp_path: Path) -> None:
    registry = Registry()
    for number, image in enumerate(REFUSED.values()):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    async with QuayServer(registry) as server:
        await sync(server, tmp_path / "mirror", cwd=tmp_path, code=3)

    assert layouts.names(tmp_path / "mirror") == {}


async def test_info_shows_each_image_that_is_accepted(tmp_path: Path) -> None:
    registry = Registry()
    for number, image in enumerate(ACCEPTED.values()):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    async with QuayServer(registry) as server:
        done = await run("info", "kolla", "*", TAG, "--server", server.url, "--json", cwd=tmp_path)

    assert "internal error" not in done.stderr
    infos = json.loads(done.stdout)
    assert len(infos) == len(ACCEPTED)
    errors = [info["error"] for info in infos if "error" in info]
    assert all("has no image" in error for error in errors)
