"""Descriptors: OCI image-spec, descriptor.md."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from quaymirror.errors import UnsupportedContent
from quaymirror.oci import Descriptor, Digest, Platform

CONTENT = b"{}"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def document(**changes: Any) -> dict[str, Any]:
    """Return a valid descriptor, with `changes`; a value of `...` removes its key."""
    fields = {"mediaType": LAYER, "digest": str(Digest.of(CONTENT)), "size": len(CONTENT)} | changes
    return {key: value for key, value in fields.items() if value is not ...}


def refusal(value: object) -> str:
    with pytest.raises(UnsupportedContent) as caught:
        Descriptor.parse(value, where="layers[3]")

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1_000
    return caught.value.message


def test_a_complete_descriptor_is_parsed() -> None:
    descriptor = Descriptor.parse(
        document(
            platform={"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1", "os.features": ["x"]},
            annotations={"a": "\x1b[2J", "b": ""},
            artifactType="application/vnd.example",
            urls=["https://example.org/x"],
            data=base64.b64encode(CONTENT).decode(),
            custom={"kept": "elsewhere"},
        ),
        where="layers[3]",
    )

    assert descriptor == Descriptor(
        LAYER,
        Digest.of(CONTENT),
        2,
        Platform("linux", "arm", "v7", "1"),
        {"a": "\x1b[2J", "b": ""},
        "application/vnd.example",
        ("https://example.org/x",),
    )
    assert hash(descriptor) == hash(descriptor)


@pytest.mark.parametrize("key", ["platform", "annotations", "artifactType", "urls", "data"])
def test_null_means_missing(key: str) -> None:
    assert Descriptor.parse(document(**{key: None}), where="x") == Descriptor.parse(document(), where="x")


@pytest.mark.parametrize("size", [0, 1, 2**63 - 1], ids=["zero", "one", "largest"])
def test_sizes_of_63_bits_are_legal(size: int) -> None:
    assert Descriptor.parse(document(size=size), where="x").size == size


@pytest.mark.parametrize(
    "size",
    [-1, 1.5, "5", True, None, [], {}, 2**63, 2**64, 10**400, 2.0**63, float("inf"), float("nan"), ...],
    ids=[
        "negative", "fraction", "text", "true", "null", "list", "object", "63-bits-exceeded",
        "64-bits-exceeded", "huge", "inexact", "infinite", "nan", "missing",
    ],
)  # fmt: skip
def test_a_size_must_be_a_number_of_bytes(size: Any) -> None:
    assert refusal(document(size=size)) == "layers[3].size is not a size in bytes"


@pytest.mark.parametrize(
    "digest",
    [..., None, "", 5, [], "sha256:../../x", "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n", "md5:" + "a" * 32],
    ids=["missing", "null", "empty", "number", "list", "traversal", "upper-case", "newline", "md5"],
)
def test_a_bad_digest_is_refused_and_named(digest: Any) -> None:
    assert refusal(document(digest=digest)).startswith("layers[3].digest")


def test_sha512_is_a_digest_too() -> None:
    digest = Digest.of(CONTENT, "sha512")

    assert Descriptor.parse(document(digest=str(digest)), where="x").digest == digest


def test_a_size_may_be_written_as_a_float() -> None:
    assert Descriptor.parse(document(size=2.0), where="x").size == 2


@pytest.mark.parametrize(
    "value",
    ["", "a/b\r\nX-Evil: 1", "a/b\n", " a/b", "a/\x1b[2J", "a/\ud800", "a/" + "b" * 300],
    ids=["empty", "header-injection", "newline", "space-before", "escape", "surrogate", "three-hundred"],
)
def test_a_media_type_that_is_not_a_line_of_ascii_is_never_sent(value: str) -> None:
    descriptor = Descriptor.parse(document(mediaType=value, artifactType=value), where="x")
    assert (descriptor.media_type, descriptor.artifact_type) == ("application/octet-stream", None)


@pytest.mark.parametrize(
    "value", [..., None, 5, [], {}, True], ids=["missing", "null", "number", "list", "object", "true"]
)
def test_the_media_type_is_required(value: Any) -> None:
    assert refusal(document(mediaType=value)) == "layers[3].mediaType is not a string"


@pytest.mark.parametrize("value", [LAYER, "text/plain; charset=utf-8", "x"], ids=["usual", "parameter", "odd"])
def test_media_types_of_artifacts_may_be_odd(value: str) -> None:
    assert Descriptor.parse(document(mediaType=value), where="x").media_type == value


@pytest.mark.parametrize(
    "value",
    [[], "", 0, False, "linux/amd64", {"os": 1}, {"os": ["linux"]}],
    ids=["list", "empty-text", "zero", "false", "text", "number-inside", "list-inside"],
)
def test_a_platform_is_an_object_of_strings(value: Any) -> None:
    assert refusal(document(platform=value)).startswith("layers[3].platform")


def test_a_platform_of_long_strings_can_not_be_selected() -> None:
    assert Descriptor.parse(document(platform={"architecture": "a" * 300}), where="x").platform is None


def test_a_platform_may_be_empty_or_hold_nulls() -> None:
    assert Descriptor.parse(document(platform={}), where="x").platform == Platform("", "")
    assert Descriptor.parse(document(platform={"os": "linux", "variant": None}), where="x").platform == Platform(
        "linux", ""
    )


@pytest.mark.parametrize(
    "value",
    [[], "", 0, False, ["a"]],
    ids=["empty-list", "empty-text", "zero", "false", "list"],
)
def test_annotations_are_an_object(value: Any) -> None:
    assert refusal(document(annotations=value)).startswith("layers[3].annotations")


def test_only_strings_are_annotations() -> None:
    annotations = {"a": "text", "b": 1, "c": None, "d": {}}
    assert Descriptor.parse(document(annotations=annotations), where="x").annotations == {"a": "text"}


@pytest.mark.parametrize(
    "value", ["https://x", {}, [1], [None], 0], ids=["text", "object", "number-inside", "null-inside", "zero"]
)
def test_urls_are_a_list_of_strings(value: Any) -> None:
    assert refusal(document(urls=value)).startswith("layers[3].urls")


@pytest.mark.parametrize(
    "data",
    ["e30", "e3 0=", "e30=\n", "W10=", "", "é", "\ud800", 5, ["e30="], {}],
    ids=[
        "no-padding", "space", "newline", "other-content", "empty", "not-ascii", "surrogate", "number", "list",
        "object",
    ],
)  # fmt: skip
def test_embedded_data_must_match_the_digest(data: Any) -> None:
    assert refusal(document(data=data)) == "layers[3].data does not match the descriptor"


def test_embedded_data_must_match_the_size() -> None:
    assert "data" in refusal(document(data="e30=", size=3))


def test_keys_that_differ_only_in_case_are_refused() -> None:
    other = str(Digest.of(b"other"))

    assert refusal(document(Digest=other)) == "layers[3] has keys that differ only in case"
    assert "case" in refusal(document(platform={"os": "linux", "OS": "windows"}))
    assert "case" in refusal(document() | {"\u017fize": 5})


def test_annotations_may_differ_only_in_case() -> None:
    assert Descriptor.parse(document(annotations={"a": "1", "A": "2"}), where="x").annotations == {"a": "1", "A": "2"}


@pytest.mark.parametrize(
    "value", [None, [], [1], "text", 5, True], ids=["null", "empty-list", "list", "text", "number", "true"]
)
def test_a_descriptor_is_an_object(value: object) -> None:
    assert refusal(value) == "layers[3] is not an object"
