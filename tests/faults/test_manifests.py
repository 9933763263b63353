"""Manifests and indexes that are too many, too deep, converted, or differ from the descriptors of their parents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import pytest
from organizations import TAG, small_image
from trouble import GLANCE, NOVA, messages, mirror, two_images

import quaymirror
from quaymirror import Options, Selection
from quaymirror.catalog.base import Discovery
from quaymirror.errors import ExitCode
from quaymirror.testing import (
    Blob,
    ExtraHeaders,
    Fault,
    QuayServer,
    Registry,
    ReplaceBody,
    RequestRecord,
    SourceManifest,
    digest_of,
)
from quaymirror.testing import Status as Answer

OCI = "application/vnd.oci.image"
INDEX, MANIFEST = f"{OCI}.index.v1+json", f"{OCI}.manifest.v1+json"
MANIFESTS, BY_TAG = "^/v2/kolla/nova/manifests/", f"^/v2/kolla/nova/manifests/{TAG}$"
TYPES = {
    INDEX,
    MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
}


def described(child: SourceManifest, **lies: object) -> dict[str, object]:
    return {"mediaType": child.media_type, "digest": child.digest, "size": len(child.raw), **lies}


def index_of(*entries: dict[str, object], children: tuple[SourceManifest, ...] = ()) -> SourceManifest:
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    return SourceManifest(raw, INDEX, digest_of(raw), children=children)


def whole(*children: SourceManifest) -> SourceManifest:
    """Return a correct index."""
    return index_of(*map(described, children), children=children)


def nested(depth: int) -> SourceManifest:
    image = small_image("leaf")
    for _ in range(depth):
        image = index_of(described(image), children=(image,))

    return image


def padded(number: int, size: int) -> SourceManifest:
    """Return a manifest of that many bytes."""
    image = small_image("padded")
    document = image.document | {"annotations": {"padding": f"{number}".ljust(size)}}
    raw = json.dumps(document).encode()
    return SourceManifest(raw, image.media_type, digest_of(raw), image.blobs)


def with_config(content: bytes) -> SourceManifest:
    image = small_image("odd")
    config, document = Blob.of(content), image.document
    document["config"] |= {"digest": config.digest, "size": config.size}
    raw = json.dumps(document).encode()
    return SourceManifest(raw, image.media_type, digest_of(raw), (config, *image.blobs[1:]))


async def fails(image: SourceManifest, path: Path, says: str, *, requests: int = 30) -> None:
    """Nova fails, and says why; glance arrives; and it does not take long to find out."""
    async with QuayServer(two_images(image)) as server:
        report = await mirror(server, path)
        assert server.count(MANIFESTS) <= requests

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert says in messages(report)[0]
    assert list(layouts.names(path)) == [GLANCE]


async def test_another_digest_than_that_of_the_bytes_is_no_answer(tmp_path: Path) -> None:
    """The header is not needed, but a wrong one means that the answer can't be trusted."""
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(MANIFESTS, ExtraHeaders({"Docker-Content-Digest": "sha256:" + "0" * 64})))
        server.faults.append(Fault(BY_TAG, ReplaceBody(small_image("another").raw)))
        report = await mirror(server, tmp_path / "mirror")

    names = layouts.names(tmp_path / "mirror")
    assert names.get(NOVA) in (None, small_image("nova", 400_000).digest)
    assert report.exit_code in (ExitCode.OK, ExitCode.PARTIAL)


async def test_a_hundred_indexes_in_each_other_are_not_followed_to_their_end(tmp_path: Path) -> None:
    await fails(nested(100), tmp_path / "mirror", "too deep or too wide", requests=6)


async def test_an_index_with_a_hundred_thousand_children_is_too_large(tmp_path: Path) -> None:
    child = described(small_image("child"))
    await fails(index_of(*[child] * 100_000), tmp_path / "mirror", "4,194,304", requests=6)


async def test_a_child_that_is_there_two_thousand_times_is_fetched_once(tmp_path: Path) -> None:
    child = small_image("child")
    async with QuayServer(two_images(index_of(*[described(child)] * 2_000, children=(child,)))) as server:
        report = await mirror(server, tmp_path / "mirror")
        assert server.count(MANIFESTS) == 2

    assert report.exit_code is ExitCode.OK, messages(report)


async def test_manifests_that_would_fill_the_memory_together_are_not_fetched(tmp_path: Path) -> None:
    """Each is as large as a manifest may be."""
    children = tuple(padded(number, 3_000_000) for number in range(8))
    await fails(whole(*children), tmp_path / "mirror", "its manifests have 24,", requests=1)


async def test_an_image_of_more_blobs_than_any_has_is_refused_before_the_first(tmp_path: Path) -> None:
    config = Blob.of(b"{}")
    children = []
    for number in range(11):
        layers = [
            {"mediaType": "application/x", "digest": digest_of(b"%d" % (number * 1000 + each)), "size": 1}
            for each in range(1000)
        ]
        described_config = {"mediaType": "application/x", "digest": config.digest, "size": config.size}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described_config, "layers": layers}
        raw = json.dumps(document).encode()
        children.append(SourceManifest(raw, MANIFEST, digest_of(raw), (config,)))

    async with QuayServer(two_images(whole(*children))) as server:
        report = await mirror(server, tmp_path / "mirror")
        assert server.count("^/v2/kolla/nova/blobs/") == 0

    assert report.exit_code is ExitCode.PARTIAL
    assert "11,001 blobs; the limit is 10,000" in messages(report)[0]


@pytest.mark.parametrize("how", ["alone", "beside the truth", "after the truth"])
@pytest.mark.parametrize("lie", [{"size": 5}, {"mediaType": INDEX}], ids=["size", "type"])
async def test_an_index_with_a_wrong_descriptor_is_refused_even_if_the_child_is_stored(
    how: str, lie: dict[str, object], tmp_path: Path
) -> None:
    """The child may be here already, from an index that was right, and be read from the disk."""
    child = small_image("child")
    entries = [described(child)] if how == "beside the truth" else []
    image = index_of(*entries, described(child, **lie), children=(child,))
    registry = two_images(image)
    if how == "after the truth":
        registry.organization("kolla").repository("neutron").push(TAG, whole(child))

    async with QuayServer(registry) as server:
        if how == "after the truth":
            await quaymirror.sync(
                Selection("kolla", "neutron", TAG), tmp_path / "mirror", Options.of(server=server.url)
            )

        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert "but its index says" in messages(report)[0]
    assert NOVA not in layouts.names(tmp_path / "mirror")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe" * 100, b"not JSON", b"", b"[" * 100_000, bytes(20_000_000)], ids=lambda c: str(len(c))
)
async def test_any_config_is_mirrored(content: bytes, tmp_path: Path) -> None:
    """Mirroring does not parse configs."""
    image = with_config(content)
    async with QuayServer(two_images(image)) as server:
        report = await mirror(server, tmp_path / "mirror")
        derived = await quaymirror.sync(
            Selection("kolla", "*", TAG), f"dir://{tmp_path / 'derived'}", Options.of(server=server.url)
        )

    assert report.exit_code is ExitCode.OK, messages(report)
    assert digest_of(content) in layouts.check(tmp_path / "mirror")
    # Deriving an image does read it.
    assert derived.exit_code is ExitCode.PARTIAL
    assert [outcome.reference.name for outcome in derived.outcomes if outcome.error is not None] == [NOVA]
    assert all(message.isprintable() and len(message) < 500 for message in messages(derived))


async def test_a_tag_that_moves_during_the_fetch_gives_one_consistent_image(tmp_path: Path) -> None:
    """HEAD says one digest, and GET another one, since the tag moves in between."""
    registry, new = two_images(), small_image("moved")

    def move(request: RequestRecord) -> None:
        if request.method == "GET" and f"/nova/manifests/{TAG}" in request.path:
            registry.organization("kolla").repository("nova").push(TAG, new)

    async with QuayServer(registry, on_request=move) as server:
        report = await mirror(server, tmp_path / "mirror", discovery=Discovery.REGISTRY)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert layouts.names(tmp_path / "mirror")[NOVA] == new.digest


@pytest.mark.parametrize("text", ["\x1b[2J\x07\u202e", "x" * 1_000_000, "</script>", "\ud800"], ids=ascii)
async def test_annotations_are_stored_and_have_no_effect(text: str, tmp_path: Path) -> None:
    text = text.encode("utf-8", "ignore").decode()
    image = small_image("annotated")
    names = ("org.opencontainers.image.ref.name", "io.containerd.image.name", "a")
    document = image.document | {"annotations": dict.fromkeys(names, text), "artifactType": "application/x"}
    raw = json.dumps(document).encode()
    annotated = SourceManifest(raw, image.media_type, digest_of(raw), image.blobs)
    async with QuayServer(two_images(annotated)) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}
    assert layouts.blob(tmp_path / "mirror", annotated.digest) == raw


async def test_every_type_is_accepted_always(tmp_path: Path) -> None:
    """Of a type that is not listed Quay makes another one, and answers 200."""
    registry = two_images(whole(small_image("amd64"), small_image("arm64")))
    async with QuayServer(registry) as server:
        report = await mirror(server, tmp_path / "mirror", discovery=Discovery.REGISTRY)
        asked = [request for request in server.requests if "/manifests/" in request.path]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert asked
    assert all({part.strip() for part in request.headers["accept"].split(",")} == TYPES for request in asked)


async def test_a_converted_image_is_refused(tmp_path: Path) -> None:
    """A consistent answer with its own digest, which is not the digest of the tag."""
    image, child = whole(small_image("amd64"), small_image("arm64")), small_image("amd64")
    async with QuayServer(two_images(image)) as server:
        headers = {"Content-Type": child.media_type, "Docker-Content-Digest": child.digest}
        server.faults.append(fault := Fault(BY_TAG, Answer(200, headers, child.raw), method="GET"))
        report = await mirror(server, tmp_path / "mirror")

    assert fault.fired
    assert report.exit_code is ExitCode.OK, messages(report)
    assert layouts.names(tmp_path / "mirror")[NOVA] == image.digest


# Sizes that are claims


@pytest.mark.parametrize("size", [2**62, 10**15], ids=["exabytes", "petabytes"])
async def test_an_image_that_claims_to_be_larger_than_the_disk_ends_no_other(size: int, tmp_path: Path) -> None:
    """With the look at the free space that is usual."""
    config, layer = Blob.of(b"{}"), Blob.of(b"layer")
    entries: dict[str, Any] = {
        "config": {"mediaType": "application/x", "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": "application/x", "digest": layer.digest, "size": size}],
    }
    raw = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **entries}).encode()
    registry = Registry()
    kolla = registry.organization("kolla")
    kolla.repository("a").push(TAG, SourceManifest(raw, MANIFEST, digest_of(raw), (config, layer)))
    for number in range(30):
        kolla.repository(f"image-{number}").push(TAG, small_image(f"{number}"))

    async with QuayServer(registry) as server:
        report = await mirror(server, tmp_path / "mirror", concurrency=1)

    assert report.exit_code is ExitCode.PARTIAL
    assert len(layouts.names(tmp_path / "mirror")) == 30
    assert "free on the disk of" in messages(report)[0]
