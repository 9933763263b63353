"""Random documents: parsers return a value or raise an error of quaymirror, and values survive a round trip."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from quaymirror.errors import InvalidName, QuaymirrorError, UnsupportedContent
from quaymirror.oci import Descriptor, Digest, Index, Manifest, Platform, Reference, Repository
from quaymirror.oci import manifest as manifests
from quaymirror.oci.mediatype import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, essence
from quaymirror.oci.reference import is_registry_host, is_repository_name, is_tag

DIGESTS = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(["sha256", "sha512"]))
MEDIA_TYPES = st.sampled_from([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST])
TEXT = st.text(st.characters(), max_size=20)  # surrogates and control characters included

DESCRIPTOR_KEYS = ["mediaType", "digest", "size", "platform", "annotations", "artifactType", "urls", "data"]
MANIFEST_KEYS = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "fsLayers", "Layers"]
KEYS = st.sampled_from([*DESCRIPTOR_KEYS, *MANIFEST_KEYS, "os", "architecture", "variant"]) | TEXT
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | MEDIA_TYPES | DIGESTS.map(str)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=20
)

VALID_DESCRIPTORS = st.fixed_dictionaries(
    {"mediaType": MEDIA_TYPES, "digest": DIGESTS.map(str), "size": st.integers(0, 2**63 - 1)},
    optional={
        "annotations": st.dictionaries(TEXT, TEXT, max_size=3),
        "platform": st.fixed_dictionaries({"os": TEXT, "architecture": TEXT}),
        "urls": st.lists(TEXT, max_size=2),
    },
)
VALID_MANIFESTS = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(2),
        "mediaType": st.just(OCI_MANIFEST),
        "config": VALID_DESCRIPTORS,
        "layers": st.lists(VALID_DESCRIPTORS, max_size=3),
    }
)
VALID_INDEXES = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(2),
        "mediaType": st.just(OCI_INDEX),
        "manifests": st.lists(VALID_DESCRIPTORS, max_size=3),
    }
)


def check_message(error: QuaymirrorError) -> None:
    assert error.message.isprintable()
    assert len(error.message) < 2_000


@given(DIGESTS)
def test_digests_survive_a_round_trip(digest: Digest) -> None:
    assert Digest.parse(str(digest)) == digest


@given(TEXT | st.from_regex(r"sha(256|512):[0-9a-fA-F]{60,130}\n?"))
def test_a_text_is_a_digest_only_as_it_is_written(text: str) -> None:
    with contextlib.suppress(InvalidName):
        assert str(Digest.parse(text)) == text


@given(TEXT | st.from_regex(r"[a-zA-Z0-9_.-]{1,6}/[a-zA-Z0-9_.-]{1,6}(/v?[0-9])?"))
@example("linux/armhf")
@example("linux/arm/8")
def test_platforms_survive_a_round_trip(text: str) -> None:
    with contextlib.suppress(InvalidName):
        platform = Platform.parse(text)

        assert Platform.parse(str(platform)) == platform
        assert platform.normalized() == platform


@given(st.builds(Platform, TEXT, TEXT, TEXT, TEXT))
def test_every_platform_matches_itself_and_prints_on_one_line(platform: Platform) -> None:
    assert platform.normalized().normalized() == platform.normalized()
    assert platform.matches(platform)
    assert str(platform).isprintable()


@given(TEXT | st.from_regex(r"[a-z0-9._/-]{0,40}"))
def test_no_legal_name_leads_out_of_a_directory(text: str) -> None:
    if is_repository_name(text):
        assert not {"", ".", ".."} & set(text.split("/"))
        assert text.isascii()
        assert text.isprintable()


@given(TEXT, TEXT, st.none() | TEXT, st.none() | DIGESTS)
def test_references_are_built_or_refused(host: str, name: str, tag: str | None, digest: Digest | None) -> None:
    try:
        reference = Reference(Repository(host, name), tag, digest)
    except InvalidName as error:
        check_message(error)
    else:
        assert is_registry_host(host)
        assert tag is None or is_tag(tag)
        assert str(reference).isprintable()


@given(st.none() | TEXT)
def test_the_essence_of_an_essence_is_itself(header: str | None) -> None:
    assert essence(essence(header)) == essence(header)


@given(JSON)
def test_any_json_is_a_descriptor_or_refused(document: Any) -> None:
    with contextlib.suppress(UnsupportedContent):
        assert Descriptor.parse(document, where="x").size >= 0


@given(VALID_DESCRIPTORS, st.sampled_from(DESCRIPTOR_KEYS), JSON)
def test_any_json_in_any_field_of_a_descriptor_is_read_or_refused(
    document: dict[str, Any], key: str, value: Any
) -> None:
    try:
        Descriptor.parse(document | {key: value}, where="x")
    except UnsupportedContent as error:
        check_message(error)


@given(VALID_MANIFESTS | VALID_INDEXES)
def test_every_valid_document_is_read(document: dict[str, Any]) -> None:
    raw = json.dumps(document).encode()
    parsed = manifests.parse(raw, document["mediaType"])

    assert isinstance(parsed, Index if "manifests" in document else Manifest)
    assert parsed.raw is raw


@given(VALID_MANIFESTS | VALID_INDEXES, st.sampled_from(MANIFEST_KEYS), JSON, MEDIA_TYPES | st.just(""))
def test_any_json_in_any_field_of_a_manifest_is_read_or_refused(
    document: dict[str, Any], key: str, value: Any, media_type: str
) -> None:
    try:
        manifests.parse(json.dumps(document | {key: value}).encode(), media_type)
    except UnsupportedContent as error:
        check_message(error)


@given(JSON.map(json.dumps).map(str.encode) | st.binary(), MEDIA_TYPES | TEXT)
def test_any_bytes_are_a_manifest_or_refused(raw: bytes, media_type: str) -> None:
    with contextlib.suppress(UnsupportedContent):
        assert manifests.parse(raw, media_type).raw is raw
