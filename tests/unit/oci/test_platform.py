"""Platforms: OCI image-spec, image-index.md; the aliases are containerd's."""

from __future__ import annotations

import pytest

from quaymirror.errors import InvalidName
from quaymirror.oci import Platform


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("linux/amd64", "linux/amd64", id="usual"),
        pytest.param("Linux/AMD64", "linux/amd64", id="upper-case"),
        pytest.param("linux/x86_64", "linux/amd64", id="kernel-name"),
        pytest.param("linux/x86-64", "linux/amd64", id="kernel-name-with-dash"),
        pytest.param("linux/amd64/v1", "linux/amd64", id="default-amd64-variant"),
        pytest.param("linux/amd64/v3", "linux/amd64/v3", id="other-amd64-variant"),
        pytest.param("linux/aarch64", "linux/arm64", id="arm64-kernel-name"),
        pytest.param("linux/arm64/v8", "linux/arm64", id="default-arm64-variant"),
        pytest.param("linux/arm64/8", "linux/arm64", id="default-arm64-variant-by-number"),
        pytest.param("linux/arm/7", "linux/arm/v7", id="variant-by-number"),
        pytest.param("linux/arm", "linux/arm", id="arm-of-any-variant"),
        pytest.param("linux/armhf", "linux/arm/v7", id="debian-hard-float"),
        pytest.param("linux/armel", "linux/arm/v6", id="debian-soft-float"),
        pytest.param("linux/i386", "linux/386", id="i386"),
        pytest.param("linux/s390x", "linux/s390x", id="mainframe"),
    ],
)
def test_platforms_are_normalized(text: str, canonical: str) -> None:
    assert str(Platform.parse(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "linux", "linux/", "/amd64", "linux//v8", "a/b/c/d", "linux/amd64\n", "linux/ amd64", "linux/a\0", "x/" * 999],
    ids=[
        "empty", "only-os", "no-architecture", "no-os", "empty-architecture", "four-parts", "newline", "space", "nul",
        "thousand-parts",
    ],
)  # fmt: skip
def test_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidName, match="such as linux/arm64") as caught:
        Platform.parse(text)

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("child", "wanted", "fits"),
    [
        pytest.param(Platform("linux", "amd64"), "linux/amd64", True, id="same"),
        pytest.param(Platform("linux", "arm64", "v8"), "linux/arm64", True, id="default-variant-said"),
        pytest.param(Platform("linux", "arm64"), "linux/arm64/v8", True, id="default-variant-asked"),
        pytest.param(Platform("linux", "arm", "v6"), "linux/arm", True, id="variant-left-open"),
        pytest.param(Platform("linux", "arm", "v6"), "linux/arm/v7", False, id="another-variant"),
        pytest.param(Platform("linux", "arm"), "linux/arm/v7", True, id="arm-is-v7"),
        pytest.param(Platform("linux", "arm"), "linux/arm/v6", False, id="arm-is-not-v6"),
        pytest.param(Platform("linux", "amd64"), "linux/amd64/v3", False, id="variant-not-said"),
        pytest.param(Platform("windows", "amd64"), "linux/amd64", False, id="another-os"),
        pytest.param(Platform("linux", "ppc64le"), "linux/amd64", False, id="another-architecture"),
        pytest.param(Platform("windows", "amd64", "", "10.0"), "windows/amd64", True, id="os-version-left-open"),
        pytest.param(Platform("unknown", "unknown"), "linux/amd64", False, id="attestation"),
    ],
)
def test_an_empty_field_matches_anything(child: Platform, wanted: str, fits: bool) -> None:
    assert child.matches(Platform.parse(wanted)) is fits


def test_a_requested_os_version_must_match() -> None:
    wanted = Platform("windows", "amd64", "", "10.0.20348")

    assert Platform("windows", "amd64", "", "10.0.20348").matches(wanted)
    assert not Platform("windows", "amd64").matches(wanted)


def test_a_hostile_platform_prints_as_one_harmless_line() -> None:
    assert str(Platform("li\x1b[2J\nux", "\u202eamd64")) == r"li\x1b[2J\nux/\u202eamd64"
