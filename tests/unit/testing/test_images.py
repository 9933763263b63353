from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from quaymirror.testing import (
    digest_of,
    kolla_like,
    make_artifact,
    make_attestation,
    make_image,
    make_index,
    make_layer,
)
from quaymirror.testing.images import Compression


def test_a_layer_is_the_same_every_time_and_differs_between_seeds() -> None:
    assert make_layer(1, 5000) == make_layer(1, 5000)
    assert make_layer(1, 5000).blob.digest != make_layer(2, 5000).blob.digest


@pytest.mark.parametrize("size", [2000, 20_000, 1_500_000])
def test_a_layer_has_about_the_size_asked_for(size: int) -> None:
    assert make_layer("x", size).blob.size == pytest.approx(size, rel=0.1, abs=200)


def test_a_layer_is_an_archive_of_files_and_its_diff_id_is_that_of_the_archive() -> None:
    layer = make_layer(3, 4000)
    archive = gzip.decompress(layer.blob.data)

    assert layer.diff_id == digest_of(archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        assert len(members.getnames()) == 4


@pytest.mark.parametrize(
    ("compression", "media_type"),
    [
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("none", "application/vnd.oci.image.layer.v1.tar"),
    ],
)
def test_a_layer_names_its_compression(compression: Compression, media_type: str) -> None:
    if compression == "zstd":
        pytest.importorskip("zstandard")
    assert make_layer(1, 3000, compression=compression).media_type("oci") == media_type


def test_an_image_describes_its_configuration_and_layers() -> None:
    layers = [make_layer(1, 1000), make_layer(2, 1000)]
    image = make_image(layers, platform="linux/arm64/v8", labels={"name": "nova"})
    document, config = image.document, json.loads(image.blobs[0].data)

    assert image.digest == digest_of(image.raw)
    assert document["mediaType"] == image.media_type == "application/vnd.oci.image.manifest.v1+json"
    assert document["config"]["digest"] == image.blobs[0].digest
    assert [layer["digest"] for layer in document["layers"]] == [layer.blob.digest for layer in layers]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in layers]
    assert (config["architecture"], config["os"], config["variant"]) == ("arm64", "linux", "v8")
    assert config["config"]["Labels"] == {"name": "nova"}
    assert len(config["history"]) == 2


def test_a_docker_image_has_dockers_types() -> None:
    document = make_image([make_layer(1, 1000)], media="docker").document
    assert document["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert document["layers"][0]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"


def test_an_index_lists_its_children_with_their_platforms() -> None:
    image = make_image([make_layer(1, 1000)])
    index = make_index([(image, "linux/amd64"), (make_attestation(image), "unknown/unknown"), (image, None)])
    first, second, third = index.document["manifests"]

    assert first == {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": len(image.raw),
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    assert second["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert "platform" not in third
    assert set(index.all_blobs()) >= {blob.digest for blob in image.blobs}


def test_an_artifact_can_refer_to_a_subject() -> None:
    image = make_image([make_layer(1, 1000)])
    assert make_artifact("text/sbom", b"x", subject=image).document["subject"]["digest"] == image.digest


def test_the_kolla_tree_shares_layers_from_parent_to_child() -> None:
    images = kolla_like(40, layer_size=600)
    layers = {name: [blob.digest for blob in image.blobs[1:]] for name, image in images.items()}

    assert len(images) == 40
    assert layers["nova-api"][:6] == layers["nova-base"]
    assert layers["nova-base"][:2] == layers["base"]
    assert [name for name, image in images.items() if image.is_index] == ["fluentd"]


def test_the_kolla_tree_can_be_flat_small_or_large() -> None:
    assert {len(image.blobs) for image in kolla_like(20, depth=1, layer_size=600).values() if not image.is_index} == {3}
    assert kolla_like(0) == {}
    assert len(kolla_like(300, layer_size=450)) == 300
    assert kolla_like(3, seed=1, layer_size=500) == kolla_like(3, seed=1, layer_size=500)


def test_the_kolla_tree_refuses_no_depth_at_all() -> None:
    with pytest.raises(ValueError, match="depth"):
        kolla_like(1, depth=0)
