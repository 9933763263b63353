"""Manifests and indexes: OCI image-spec, manifest.md and image-index.md; ambiguity from CVE-2021-41190."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quaymirror.errors import UnsupportedContent
from quaymirror.oci import Digest, Index, Manifest
from quaymirror.oci import manifest as manifests
from quaymirror.oci.mediatype import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
)

BLOB = {"mediaType": "application/octet-stream", "digest": str(Digest.of(b"{}")), "size": 2}
KNOWN = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST]
WORDS = ["oci-index", "oci-manifest", "docker-list", "docker-manifest"]


def document(media_type: str = OCI_MANIFEST, **changes: Any) -> dict[str, Any]:
    """Return a valid document of that type, with `changes`; a value of `...` removes its key."""
    body: dict[str, Any] = {"manifests": [BLOB]}
    if media_type not in (OCI_INDEX, DOCKER_LIST):
        body = {"config": BLOB, "layers": [BLOB, BLOB]}

    fields = {"schemaVersion": 2, "mediaType": media_type} | body | changes
    return {key: value for key, value in fields.items() if value is not ...}


def parse(fields: object, media_type: str = OCI_MANIFEST) -> Manifest | Index:
    return manifests.parse(json.dumps(fields).encode(), media_type)


def refusal(raw: bytes | object, media_type: str = OCI_MANIFEST) -> str:
    content = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    with pytest.raises(UnsupportedContent) as caught:
        manifests.parse(content, media_type)

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1_000
    return caught.value.message


@pytest.mark.parametrize("media_type", KNOWN, ids=WORDS)
def test_each_known_type_is_read_with_its_bytes_kept(media_type: str) -> None:
    raw = json.dumps(document(media_type), indent=3).encode()
    parsed = manifests.parse(raw, media_type)

    assert isinstance(parsed, Index) is (media_type in (OCI_INDEX, DOCKER_LIST))
    assert parsed.raw == raw
    assert (parsed.descriptor.media_type, parsed.descriptor.size) == (media_type, len(raw))
    assert parsed.descriptor.digest == Digest.of(raw)


def test_a_manifest_names_its_blobs_config_first() -> None:
    layer = BLOB | {"size": 3}
    parsed = parse(document(layers=[layer]))

    assert isinstance(parsed, Manifest)
    assert [blob.size for blob in parsed.blobs] == [2, 3]


def test_the_requested_digest_is_kept() -> None:
    raw = json.dumps(document()).encode()
    digest = Digest.of(raw, "sha512")

    assert manifests.parse(raw, OCI_MANIFEST, digest=digest).descriptor.digest == digest


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": []},
        {"subject": BLOB},
        {"subject": None},
        {"artifactType": "application/vnd.example"},
        {"annotations": {"a": "\x1b[2J"}},
        {"x-custom": [{"deep": [1, 1.5, None]}]},
        {"mediaType": ...},
    ],
    ids=["no-layers", "subject", "null-subject", "artifact", "annotations", "custom-fields", "no-media-type"],
)
def test_legal_shapes_of_a_manifest_are_read(changes: dict[str, Any]) -> None:
    assert isinstance(parse(document(**changes)), Manifest)


def test_children_need_no_platform_and_may_be_attestations() -> None:
    attestation = BLOB | {"platform": {"os": "unknown", "architecture": "unknown"}}
    parsed = parse(document(OCI_INDEX, manifests=[BLOB, attestation]), OCI_INDEX)

    assert isinstance(parsed, Index)
    assert [str(child.platform) for child in parsed.manifests] == ["None", "unknown/unknown"]


@pytest.mark.parametrize("body", KNOWN, ids=[f"body-{word}" for word in WORDS])
@pytest.mark.parametrize("header", KNOWN, ids=[f"header-{word}" for word in WORDS])
def test_header_and_body_have_to_agree(header: str, body: str) -> None:
    if header == body:
        parse(document(body), header)
    else:
        assert refusal(document(body), header) == f"served as {header!r}, but its mediaType is {body!r}"


@pytest.mark.parametrize("media_type", KNOWN, ids=WORDS)
def test_without_a_header_the_body_decides(media_type: str) -> None:
    assert parse(document(media_type), "").descriptor.media_type == media_type


@pytest.mark.parametrize("header", ["", "application/json", "text/html"], ids=["none", "json", "html"])
def test_without_a_known_type_nothing_is_guessed(header: str) -> None:
    assert refusal(document(mediaType=...), header) == f"unsupported manifest type: {header!r}"


@pytest.mark.parametrize("media_type", KNOWN, ids=WORDS)
def test_a_stored_document_is_read_by_its_own_type(media_type: str) -> None:
    raw = json.dumps(document(media_type)).encode()

    assert manifests.parse_stored(raw, Digest.of(raw)) == manifests.parse(raw, media_type)


@pytest.mark.parametrize("media_type", [OCI_INDEX, OCI_MANIFEST], ids=["index", "manifest"])
def test_a_stored_document_without_type_is_an_oci_one(media_type: str) -> None:
    raw = json.dumps(document(media_type, mediaType=...)).encode()
    digest = Digest.of(raw, "sha512")
    stored = manifests.parse_stored(raw, digest)

    assert (stored.descriptor.media_type, stored.descriptor.digest) == (media_type, digest)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(document(mediaType=..., manifests=[]), id="two-things-at-once"),
        pytest.param(document(mediaType=0), id="type-is-zero"),
        pytest.param(document(mediaType="text/html"), id="unknown-type"),
        pytest.param({"schemaVersion": 1, "fsLayers": []}, id="schema-1"),
        pytest.param([], id="no-object"),
    ],
)
def test_a_stored_document_is_checked_as_strictly(fields: object) -> None:
    raw = json.dumps(fields).encode()
    with pytest.raises(UnsupportedContent):
        manifests.parse_stored(raw, Digest.of(raw))


@pytest.mark.parametrize("value", [5, [], {}, True], ids=["number", "list", "object", "true"])
def test_the_media_type_of_the_body_is_a_string(value: Any) -> None:
    assert refusal(document(mediaType=value)) == "mediaType is not a string"


@pytest.mark.parametrize(
    ("media_type", "extra"),
    [
        pytest.param(OCI_INDEX, "config", id="index-with-config"),
        pytest.param(OCI_INDEX, "layers", id="index-with-layers"),
        pytest.param(DOCKER_LIST, "fsLayers", id="list-with-schema-1-layers"),
        pytest.param(DOCKER_LIST, "history", id="list-with-schema-1-history"),
        pytest.param(OCI_MANIFEST, "manifests", id="manifest-with-children"),
        pytest.param(OCI_MANIFEST, "Manifests", id="manifest-with-children-in-another-case"),
        pytest.param(OCI_MANIFEST, "manife\u017fts", id="manifest-with-children-in-a-long-s"),
        pytest.param(DOCKER_MANIFEST, "fsLayers", id="manifest-with-schema-1-layers"),
        pytest.param(DOCKER_MANIFEST, "history", id="manifest-with-schema-1-history"),
    ],
)
def test_an_ambiguous_document_is_refused(media_type: str, extra: str) -> None:
    assert refusal(document(media_type, **{extra: []}), media_type).endswith(f", but has {extra}")


def test_keys_that_differ_only_in_case_are_refused() -> None:
    assert "only in case" in refusal(document(Layers=[]))


def test_a_meaningless_key_may_occur_twice() -> None:
    raw = json.dumps(document()).replace('"config"', '"x": 1, "X": 2, "x": 3, "config"').encode()
    assert isinstance(manifests.parse(raw, OCI_MANIFEST), Manifest)


def test_a_key_that_occurs_twice_is_refused() -> None:
    raw = json.dumps(document()).replace('"config"', '"layers": [], "config"').encode()

    assert refusal(raw) == "manifest has the same key twice in one object"


@pytest.mark.parametrize("header", [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, "application/json", OCI_MANIFEST, ""])
def test_schema_1_is_named(header: str) -> None:
    assert "schema 1" in refusal({"schemaVersion": 1, "fsLayers": [], "history": []}, header)


@pytest.mark.parametrize(
    "version", [..., None, 3, "2", 2.5, [2]], ids=["missing", "null", "three", "text", "float", "list"]
)
def test_the_schema_version_is_2(version: Any) -> None:
    assert refusal(document(schemaVersion=version)) == "schemaVersion is not 2"


@pytest.mark.parametrize(("media_type", "key"), [(OCI_MANIFEST, "layers"), (OCI_INDEX, "manifests")])
def test_null_for_a_list_is_an_empty_one(media_type: str, key: str) -> None:
    parsed = parse(document(media_type, **{key: None}), media_type)
    assert getattr(parsed, key) == ()


@pytest.mark.parametrize("value", [..., {}, "x", 5], ids=["missing", "object", "text", "number"])
@pytest.mark.parametrize(("media_type", "key"), [(OCI_MANIFEST, "layers"), (OCI_INDEX, "manifests")])
def test_lists_are_lists(media_type: str, key: str, value: Any) -> None:
    assert refusal(document(media_type, **{key: value}), media_type) == f"{key} is not a list"


@pytest.mark.parametrize("value", [..., None, [], [BLOB], "x"], ids=["missing", "null", "empty-list", "list", "text"])
def test_the_config_is_an_object(value: Any) -> None:
    assert refusal(document(config=value)) == "config is not an object"


@pytest.mark.parametrize("value", [[], "", 0, False, [BLOB]], ids=["empty-list", "empty-text", "zero", "false", "list"])
def test_a_subject_is_an_object(value: Any) -> None:
    assert refusal(document(subject=value)) == "subject is not an object"


def test_an_invalid_descriptor_is_named_by_its_position() -> None:
    assert refusal(document(layers=[BLOB, BLOB | {"size": -1}])) == "layers[1].size is not a size in bytes"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="html"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"{} {}", id="two-documents"),
        pytest.param(b'{"schemaVersion": NaN}', id="not-a-number"),
        pytest.param(b'{"schemaVersion": -Infinity}', id="infinity"),
        pytest.param(b'{"size": ' + b"9" * 10_000 + b"}", id="huge-integer"),
        pytest.param(b"[" * 1_000_000, id="deep-lists"),
        pytest.param(b'{"a":' * 500_000, id="deep-objects"),
        pytest.param(b'{"a": "\xff"}', id="not-utf8"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="encoded-surrogate"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
        pytest.param(json.dumps(document()).encode("utf-16"), id="utf-16"),
        pytest.param(json.dumps(document()).encode("utf-32-le"), id="utf-32"),
        pytest.param(b"\x1f\x8b\x08\0", id="gzip"),
    ],
)
def test_other_text_than_json_is_refused(raw: bytes) -> None:
    assert refusal(raw) == "manifest is not JSON"


@pytest.mark.parametrize("value", [[], [document()], "x", 5, None, True])
def test_a_manifest_is_an_object(value: object) -> None:
    assert refusal(value) == "manifest is not a JSON object"


def test_the_limit_of_bytes_is_exact() -> None:
    raw = json.dumps(document()).encode()
    padded = raw + b" " * (manifests.MAX_MANIFEST_BYTES - len(raw))

    assert isinstance(manifests.parse(padded, OCI_MANIFEST), Manifest)
    assert refusal(padded + b" ") == "manifest has 4,194,305 bytes; the limit is 4,194,304"


@pytest.mark.parametrize(
    ("media_type", "key", "limit"),
    [
        pytest.param(OCI_MANIFEST, "layers", manifests.MAX_LAYERS, id="layers"),
        pytest.param(OCI_INDEX, "manifests", manifests.MAX_CHILDREN, id="children"),
    ],
)
def test_the_limits_of_entries_are_exact(media_type: str, key: str, limit: int) -> None:
    parse(document(media_type, **{key: [BLOB] * limit}), media_type)

    assert refusal(document(media_type, **{key: [BLOB] * (limit + 1)}), media_type).endswith(f"limit is {limit:,}")
