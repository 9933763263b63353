"""The names of images in layouts of all kinds of tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quaymirror.catalog.layout.entries import ImageName, parse_images, parse_name
from quaymirror.errors import MirrorDamaged
from quaymirror.oci import Digest, mediatype
from quaymirror.untrusted import InvalidDocument

REF, FULL = "org.opencontainers.image.ref.name", "io.containerd.image.name"


def entry(content: str = "x", media_type: str = mediatype.OCI_MANIFEST, **names: str) -> dict[str, Any]:
    keys = {"ref": REF, "full": FULL}
    node = {"mediaType": media_type, "digest": str(Digest.of(content.encode())), "size": len(content)}
    return node | {"annotations": {keys[key]: value for key, value in names.items()}}


def index(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def none(_: Digest) -> None:
    return None


@pytest.mark.parametrize(
    ("names", "registry", "image"),
    [
        ({"ref": "kolla/nova:1", "full": "quay.io/kolla/nova:1"}, "quay.io", "kolla/nova:1"),
        ({"ref": "openstack.kolla/nova:1"}, "", "openstack.kolla/nova:1"),
        (
            {"ref": "openstack.kolla/nova:1", "full": "quay.io/openstack.kolla/nova:1"},
            "quay.io",
            "openstack.kolla/nova:1",
        ),
        ({"ref": "1", "full": "docker.io/library/alpine:1"}, "docker.io", "library/alpine:1"),
        ({"full": "docker.io/library/alpine:1"}, "docker.io", "library/alpine:1"),
        ({"ref": "docker.io/library/alpine:1"}, "docker.io", "library/alpine:1"),
        ({"ref": "localhost/tool:1"}, "localhost", "tool:1"),
        ({"ref": "127.0.0.1:5000/a/b:1"}, "127.0.0.1:5000", "a/b:1"),
        ({"ref": "registry.example/a/b:1"}, "registry.example", "a/b:1"),
        ({"ref": "busybox:1"}, "", "busybox:1"),
        ({"ref": "kolla/nova:1", "full": "evil.example/other/thing:1"}, "", "kolla/nova:1"),
    ],
)
def test_names_of_tools_are_understood(names: dict[str, str], registry: str, image: str) -> None:
    found = parse_images(index(entry(**names)), none)
    repository, _, tag = image.rpartition(":")
    assert found.rejected == []
    assert {name: [*tags] for name, tags in found.images.items()} == {repository: [tag]}
    assert found.registries.get(repository, "") == registry


def test_a_tag_alone_needs_a_repository() -> None:
    document = index(entry(ref="2025.1"), entry("y"))
    assert "name that in the target" in parse_images(document, none).rejected[0]
    found = parse_images(document, none, repository="kolla/nova")
    assert [*found.images["kolla/nova"]] == ["2025.1"]
    assert found.rejected == [f"an entry without a name: {Digest.of(b'y')}"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": "sha256:0"},
        entry(ref="../up:1"),
        entry(ref="UPPER/case:1"),
        entry(ref="a/b:" + "x" * 200),
        entry(ref="kolla/nova@sha256:" + "0" * 64),
        entry(ref="kolla/nova@sha256:0"),
        entry(ref="") | {"size": -1},
        {"annotations": {REF: 7}, "mediaType": 1},
        {"annotations": []},
    ],
)
def test_entries_that_name_no_image_are_left_out(wrong: dict[str, Any]) -> None:
    found = parse_images(index(wrong, entry(ref="kolla/nova:1")), none)
    assert [*found.images] == ["kolla/nova"]
    assert len(found.rejected) == 1
    assert len(found.rejected[0]) < 250


def test_images_may_be_named_by_their_digests() -> None:
    digest = str(Digest.of(b"x"))
    names = {"ref": f"kolla/nova@{digest}", "full": f"quay.io/kolla/nova@{digest}"}
    for given in (names, {"ref": names["ref"]}):
        found = parse_images(index(entry(**given)), none)
        assert found.rejected == []
        assert [*found.images["kolla/nova"]] == [f"@{digest}"]


def test_a_name_of_two_images_is_left_out_and_one_that_is_repeated_is_not() -> None:
    same, other = entry("x", ref="a/b:1"), entry("y", ref="a/b:2")
    found = parse_images(index(same, same, other, entry("z", ref="a/b:2")), none)
    assert [*found.images["a/b"]] == ["1"]
    assert found.rejected == ["a/b:2, which names several images"]


def test_nested_indexes_are_read_if_they_name_images() -> None:
    inner = index(entry("x", ref="a/b:1"), entry("y", ref="a/b:2"))
    outer = index(entry("n", mediatype.OCI_INDEX) | {"annotations": {}})
    found = parse_images(
        index(entry("o", mediatype.OCI_INDEX), entry("z", ref="a/b:3")),
        {Digest.of(b"o"): outer, Digest.of(b"n"): inner}.get,
    )
    assert sorted(found.images["a/b"]) == ["1", "2", "3"]
    # A named index is one image of several platforms.
    found = parse_images(index(entry("o", mediatype.OCI_INDEX, ref="a/b:1")), none)
    assert [*found.images["a/b"]] == ["1"]


def test_nested_indexes_that_are_damaged_or_nest_for_ever_are_left_out() -> None:
    document = index(entry("o", mediatype.OCI_INDEX), entry(ref="a/b:1"))

    def damaged(_: Digest) -> bytes:
        raise MirrorDamaged("sha256:… is damaged")

    for read in (damaged, {Digest.of(b"o"): b"[]"}.get, none):
        found = parse_images(document, read)
        assert [*found.images] == ["a/b"]
        assert len(found.rejected) == 1

    assert [*parse_images(document, {Digest.of(b"o"): document}.get).images] == ["a/b"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"manifests": [1]}'])
def test_other_documents_are_no_index(text: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_images(text, none)


def test_a_name_may_be_a_tag() -> None:
    assert parse_name("2025.1") == ImageName("", "", "2025.1")
    assert parse_name("a b") is None
