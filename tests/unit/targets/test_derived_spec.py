"""Addresses of derived targets, and those that are refused before the first request."""

from __future__ import annotations

import pytest

from quaymirror import Options, Selection
from quaymirror.errors import ConfigError
from quaymirror.oci import Platform, Reference, Repository
from quaymirror.targets.derived_address import parse_derived
from quaymirror.targets.kinds import parse_target

ALL = Selection("kolla", "nova-*", "2025.1")
NOVA = Reference(Repository("quay.io", "kolla/nova-api"), "2025.1")


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("tar:///srv/all.tar", {}, r"the same for all images .*add \{repo\} to it"),
        ("oci:///srv/bundle", {"allow_extract": True}, r"add \{repo\} to it"),
        ("mounts:///srv/mounts", {"allow_extract": True}, r"add \{repo\} to it"),
        ("dir:///srv/all?expand=true", {"allow_extract": True}, r"add \{repo\} to it"),
        ("dir:///srv/all?unique_names=false", {}, "overwrite each other"),
        ("oci:///srv/{repo}", {}, "--allow-extract"),
        ("mounts:///srv/{repo}", {}, "--allow-extract"),
        ("dir:///srv/{repo}?expand=true", {}, "--allow-extract"),
        ("registry://mirror?compression=zstd&password=hunter2", {}, "set OCCYSTRAP_PASSWORD"),
        ("registry://mirror?compression=lzma", {}, "gzip or zstd"),
        ("registry://?compression=zstd", {}, "needs a host"),
        ("registry://quay.io?compression=zstd", {}, "source of the images"),
        ("registry://QUAY.IO/kolla/{repo}", {"filters": ("normalize-timestamps",)}, "source of the images"),
        ("tar://", {}, "needs a path"),
        ("dir:///srv/all?shell=true", {}, "no option 'shell'"),
        ("dir:///srv/a\nb", {}, "not allowed in an address"),
        ("./mirror", {"filters": ("normalize-timestamps",)}, "filters change images"),
    ],
)
def test_an_invalid_address_is_refused_with_advice(target: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_target(target, ALL, Options.of(**options))


def test_a_derived_image_is_for_one_platform() -> None:
    both = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    with pytest.raises(ConfigError, match="--platform once"):
        parse_target("dir:///srv/all", ALL, Options.of(platforms=both))


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        ("dir:///srv/{org}/{tag}", "", "/srv/kolla/2025.1"),
        ("tar:///srv/{repo}-{tag}.tar", "", "/srv/nova-api-2025.1.tar"),
        ("tar://here/{repo}.tar", "", "here/nova-api.tar"),
        ("registry://mirror:5000", "mirror:5000", "/kolla/nova-api:2025.1"),
        ("registry://mirror/os/{repo}", "mirror", "/os/nova-api:2025.1"),
        ("docker://", "", ""),
    ],
)
def test_each_image_gets_an_address_of_its_own(target: str, host: str, path: str) -> None:
    destination = parse_derived(target, ALL, Options()).destination(NOVA)
    assert (destination.host, destination.path) == (host, path)


def test_a_single_image_needs_no_placeholder() -> None:
    parse_target("tar:///srv/nova.tar", Selection("kolla", "nova-api", "2025.1"), Options())
