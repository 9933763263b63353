"""Configurations of other tools as jobs; entries that can't be converted are listed."""

from __future__ import annotations

import contextlib
import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quaymirror.config.convert import convert
from quaymirror.errors import ConfigError
from quaymirror.selection.image_list import parse_list

SKOPEO = """\
quay.io:
  images:
    kolla/nova-api: ["2025.1", "2024.2"]
    kolla/nova-compute: ["2025.1", "2024.2"]
    coreos/etcd: []
    coreos/flannel: ["sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
  images-by-tag-regex:
    kolla/keystone: ^2025[.]1
    kolla/glance: ^2025\\.1-.*$
    kolla/cinder: 2025\\.1
  credentials: {username: me, password: hunter2}
  tls-verify: false
docker.io:
  images:
    library/busybox: []
"""
REGSYNC = """\
version: 1
creds: [{registry: localhost:5000, user: me, pass: hunter2}]
defaults: {parallel: 4, schedule: "15 01 * * *"}
sync:
  - {source: "quay.io/kolla/nova-api:2025.1", target: "mirror.example:5000/copies/kolla/nova-api:2025.1", type: image}
  - source: quay.io/kolla/cinder-api
    target: mirror.example:5000/elsewhere
    type: repository
    tags: {allow: ["2025.*"], deny: ["2025.1-rc.*"]}
    platforms: [linux/amd64]
  - {source: quay.io, target: "ocidir://mirror", type: registry, repos: {allow: ["kolla/.*", ".*"]}}
"""


def jobs(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    converted = convert(text, "file.yml")
    assert "hunter2" not in converted.toml + "".join(converted.left_out)
    for line in converted.left_out:
        assert f"# Not in here: {line}" in converted.toml

    return tomllib.loads(converted.toml), converted.left_out


def test_skopeo_images_with_the_same_tags_are_one_job() -> None:
    document, left_out = jobs(SKOPEO)

    assert list(document["jobs"].values()) == [
        {"organization": "kolla", "repositories": ["nova-api", "nova-compute"], "tags": ["2025.1", "2024.2"]},
        {"organization": "coreos", "repositories": ["etcd"], "tags": ["*"]},
        {"organization": "kolla", "repositories": ["glance"], "tags": ["2025.1-*"]},
        {"organization": "kolla", "repositories": ["cinder"], "tags": ["*2025.1*"]},
        {"source": "registry://registry-1.docker.io", "repositories": ["library/busybox"], "tags": ["*"]},
    ]
    for part in ("flannel", "keystone", "credentials", "tls-verify"):
        assert any(part in line for line in left_out)


def test_regsync_steps_are_jobs() -> None:
    document, left_out = jobs(REGSYNC)

    assert document["defaults"] == {"concurrency": 4}
    image, repository, registry = document["jobs"].values()
    assert image["to"] == "registry://mirror.example:5000/copies"
    assert image["tags"] == ["2025.1"]
    assert repository["tags"] == ["2025*"]
    assert repository["platform"] == ["linux/amd64"]
    assert registry == {"organization": "kolla", "repositories": ["*"], "tags": ["*"], "to": "ocidir://mirror"}
    assert repository["rename"] == ["kolla/cinder-api=elsewhere"]
    for part in ("schedule", "creds", "2025.1-rc", "expression .*"):
        assert any(part in line for line in left_out)


@pytest.mark.parametrize("text", ["", "[]", "a: 1", "{", "sync: 3", "a: {b: !!python/object:x.Y {}}"])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(text, "file.yml")

    assert caught.value.message.startswith("file.yml")
    assert "\n" not in caught.value.message


@example({"\U00010000/0": None})
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    )
)
def test_no_document_breaks_the_conversion(value: Any) -> None:
    import yaml

    for document in (value, {"sync": [value]}, {"quay.io": value}, {"quay.io": {"images": value}}):
        with contextlib.suppress(ConfigError):
            tomllib.loads(convert(yaml.safe_dump(document), "file.yml").toml)


LISTS = {
    "hauler": "# images\nquay.io/kolla/nova-api:1\nghcr.io/a/b:2\n",
    "hauler manifest": (
        "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nmetadata:\n  name: mine\n"
        "spec:\n  images:\n    - name: quay.io/kolla/nova-api:1\n    - name: ghcr.io/a/b:2\n---\n"
        "kind: Charts\nmetadata: {name: charts}\n"
    ),
    "oc-mirror": (
        "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n"
        "  operators:\n    - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.15\n"
        "  additionalImages:\n    - name: quay.io/kolla/nova-api:1\n    - name: ghcr.io/a/b:2\n"
    ),
    "imgpkg": (
        "---\napiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n"
        "- annotations:\n    kbld.carvel.dev/id: quay.io/kolla/nova-api:1\n  image: quay.io/kolla/nova-api:1\n"
        "- image: ghcr.io/a/b:2\n"
    ),
}


@pytest.mark.parametrize("tool", LISTS)
def test_a_list_stays_a_file_that_a_job_names(tool: str) -> None:
    document, left_out = jobs(LISTS[tool])
    assert document["jobs"] == {"images": {"images": "file.yml"}}
    listed = parse_list(LISTS[tool].encode(), "x", "quay.io")
    assert [str(image) for image in listed.images] == ["kolla/nova-api:1", "ghcr.io/a/b:2"]
    assert left_out == {
        "hauler manifest": ("Charts: not a list of images",),
        "oc-mirror": ("mirror.operators: not images of a list",),
    }.get(tool, ())


BLOCKED = """\
kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v1alpha2
archiveSize: 4
storageConfig: {local: {path: ./metadata}}
mirror:
  platform:
    channels: [{name: stable-4.12}]
  additionalImages:
  - name: quay.io/kolla/nova-api:1
    targetTag: v9
  - {name: ghcr.io/a/b:2}
  helm:
    repositories: [{name: podinfo, url: "https://stefanprodan.github.io/podinfo"}]
  blockedImages:
  - name: quay.io/kolla/bad:1
  samples:
  - name: quay.io/kolla/sample:1
"""
HAULER = """\
apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata:
  name: mine
  annotations: {hauler.dev/platform: linux/amd64}
spec:
  images:
  - {name: "quay.io/kolla/nova-api:1", platform: linux/amd64, rewrite: "mine/nova:v1"}
  - name: docker.io/busybox:1
---
kind: Charts
"""


def test_only_the_additional_images_of_oc_mirror_are_images_of_a_list() -> None:
    document, left_out = jobs(BLOCKED)
    assert document["jobs"] == {"images": {"images": "file.yml"}}
    listed = parse_list(BLOCKED.encode(), "x", "quay.io")
    assert [str(image) for image in listed.images] == ["kolla/nova-api:1", "ghcr.io/a/b:2"]
    parts = ("archiveSize", "storageConfig", "mirror.platform", "mirror.helm", "mirror.blockedImages", "mirror.samples")
    assert {line.partition(":")[0] for line in left_out} == {*parts, "mirror.additionalImages[0].targetTag"}


def test_names_of_hauler_in_the_mirror_are_renames_and_its_other_options_are_left_out() -> None:
    document, left_out = jobs(HAULER)
    assert document["jobs"] == {"images": {"images": "file.yml"}}
    listed = parse_list(HAULER.encode(), "x", "quay.io")
    assert [str(image) for image in listed.images] == ["kolla/nova-api:1", "docker.io/library/busybox:1"]
    assert [str(rule) for rule in listed.renames] == ["kolla/nova-api:1=mine/nova:v1"]
    assert left_out == (
        "metadata.annotations.hauler.dev/platform: not images of a list",
        "spec.images[0].platform: not for single images",
        "Charts: not a list of images",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: BundleLock\nbundle: {image: a/b}\n", "file.yml names no image of a list: BundleLock: not a list"),
        ("kind: Images\nspec: {images: [{name: busybox}]}\n", "file.yml: spec.images[0]: not an image: 'busybox': "),
        ("kind: ImagesLock\nimages: [{name: a/b}]\n", "file.yml: images[0]: image is missing"),
        ("kind: Images\nspec: {images: 7}\n", "file.yml names no image"),
        ("kind: Images\nspec: {images: [7]}\n", "file.yml: spec.images[0]: name is missing"),
    ],
)
def test_a_document_without_images_says_what_is_wrong_and_where(text: str, message: str) -> None:
    for read in (lambda: convert(text, "file.yml"), lambda: parse_list(text.encode(), "file.yml", "quay.io")):
        with pytest.raises(ConfigError) as caught:
            read()

        assert caught.value.message.startswith(message.partition(" of a list")[0])

    with pytest.raises(ConfigError) as caught:
        convert(text, "file.yml")

    assert caught.value.message.startswith(message)


def test_an_image_of_image_syncer_without_a_registry_is_left_out() -> None:
    document, left_out = jobs("nginx: mirror.example/x/nginx\nquay.io/kolla/nova:1: mirror.example/kolla/nova\n")
    assert len(document["jobs"]) == 1
    assert left_out == ("nginx: no registry in its name",)


def test_image_syncer_expresses_renaming() -> None:
    document, left_out = jobs(
        "quay.io/kolla/nova-api:1,2: mirror.example/mine/nova\n"
        "quay.io/kolla/cinder: mirror.example/kolla/cinder\n"
        "ghcr.io/a/b:/v.*/: [mirror.example/a/b]\n"
        "quay.io/kolla/x@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: mirror.example/x/y\n"
    )
    one, two, three = document["jobs"].values()
    to = "registry://mirror.example"
    assert one == {
        "organization": "kolla",
        "repositories": ["nova-api"],
        "tags": ["1", "2"],
        "to": to,
        "rename": ["kolla/nova-api=mine/nova"],
    }
    assert two == {"organization": "kolla", "repositories": ["cinder"], "tags": ["*"], "to": to}
    assert three == {"source": "registry://ghcr.io", "repositories": ["a/b"], "tags": ["v*"], "to": to}
    (line,) = left_out
    assert line.endswith("images by digest belong in a list: images = FILE")


@pytest.mark.parametrize(
    "text",
    [
        "sync:\n"
        "  - {source: 'quay.io/kolla/nova:1', target: 'mirror.example/mine/nova:v1', type: image}\n"
        "  - {source: 'quay.io/kolla/nova:1', target: 'mirror.example/other/nova:v1', type: image}\n"
        "  - {source: quay.io/kolla/cinder, target: mirror.example/mine/cinder, type: repository}\n",
        "quay.io/kolla/nova:1: [mirror.example/mine/nova:v1, mirror.example/other/nova:v1]\n"
        "quay.io/kolla/cinder: mirror.example/mine/cinder\n"
        "quay.io/kolla/glance:1,2: mirror.example/mine/glance:v1\n",
    ],
)
def test_names_and_tags_at_the_target_are_renames(text: str) -> None:
    document, left_out = jobs(text)
    nova, cinder = document["jobs"].values()
    assert (nova["to"], nova["rename"]) == ("registry://mirror.example", ["kolla/nova:1=mine/nova:v1"])
    assert (nova["repositories"], nova["tags"]) == (["nova"], ["1"])
    assert (cinder["to"], cinder["rename"]) == ("registry://mirror.example", ["kolla/cinder=mine/cinder"])
    second = "quay.io/kolla/nova: another name for it at the same target, other/nova:v1: write a second job"
    tag = "quay.io/kolla/glance:1,2: its tag at the target, mirror.example/mine/glance:v1: "
    tag += "name one tag at the source, too"
    assert left_out in ((second,), (second, tag))
