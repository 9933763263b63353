"""Digests: OCI image-spec, descriptor.md, "Digests"; hostile values from CVE-2024-3727 and its family."""

from __future__ import annotations

import hashlib

import pytest

from quaymirror.errors import InvalidName, Scope
from quaymirror.oci import Digest

SHA256 = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b"
SHA512 = hashlib.sha512(b"layer").hexdigest()


@pytest.mark.parametrize("text", [f"sha256:{SHA256}", f"sha512:{SHA512}"], ids=["sha256", "sha512"])
def test_registered_digests_are_read_and_written_unchanged(text: str) -> None:
    assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(":", id="only-a-colon"),
        pytest.param("sha256", id="only-an-algorithm"),
        pytest.param("sha256:", id="no-hex"),
        pytest.param(SHA256, id="no-algorithm"),
        pytest.param(f":{SHA256}", id="empty-algorithm"),
        pytest.param(f"sha256:{SHA256[:-1]}", id="one-short"),
        pytest.param(f"sha256:{SHA256}0", id="one-long"),
        pytest.param(f"sha256:{SHA256.upper()}", id="upper-case-hex"),
        pytest.param(f"SHA256:{SHA256}", id="upper-case-algorithm"),
        pytest.param(f"sha256:{SHA256}\n", id="newline-after"),
        pytest.param(f"sha256:{SHA256[:-1]}\n", id="newline-in-place-of-the-last-digit"),
        pytest.param(f"\nsha256:{SHA256}", id="newline-before"),
        pytest.param(f" sha256:{SHA256}", id="space-before"),
        pytest.param(f"sha256:{SHA256[:-1]}\0", id="nul"),
        pytest.param(f"sha256:{SHA256[:-1]}g", id="not-hex"),
        pytest.param(f"sha256:{SHA256[:-1]}٣", id="arabic-digit"),
        pytest.param(f"sha256:{SHA256[:-1]}\ud800", id="lone-surrogate"),
        pytest.param("sha256:../../etc/passwd", id="traversal"),
        pytest.param("sha256:" + "../" * 21 + "x", id="traversal-of-the-right-length"),
        pytest.param(f"sha512:{SHA256}", id="length-of-the-other-algorithm"),
        pytest.param(f"sha256:{SHA512}", id="length-of-the-other-algorithm-too"),
        pytest.param("md5:d41d8cd98f00b204e9800998ecf8427e", id="md5"),
        pytest.param(f"foo:{SHA256}", id="unknown-algorithm"),
        pytest.param(f"sha256:sha256:{SHA256}", id="twice"),
        pytest.param("sha256:" + "a" * 10_240, id="ten-kilobytes"),
    ],
)
def test_anything_else_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(InvalidName) as caught:
        Digest.parse(text)

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert caught.value.scope is Scope.IMAGE


def test_the_message_quotes_what_was_written() -> None:
    with pytest.raises(InvalidName, match=r"digest: 'latest'$"):
        Digest.parse("latest")


def test_the_constructor_checks_as_well() -> None:
    with pytest.raises(InvalidName):
        Digest("sha256", "../x")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_matches_its_own_digest_only(algorithm: str) -> None:
    digest = Digest.of(b"layer", algorithm)

    assert digest.encoded == hashlib.new(algorithm, b"layer").hexdigest()
    assert digest.matches(b"layer")
    assert not digest.matches(b"layes")


@pytest.mark.parametrize("algorithm", ["md5", "shake_128", "nonsense", ""])
def test_no_digest_is_made_with_another_algorithm(algorithm: str) -> None:
    with pytest.raises(InvalidName):
        Digest.of(b"", algorithm)


def test_the_hasher_is_of_the_digests_algorithm_and_fresh() -> None:
    digest = Digest.of(b"layer", "sha512")
    hasher = digest.hasher()
    hasher.update(b"layer")

    assert hasher.hexdigest() == digest.encoded
    assert digest.hasher().hexdigest() == hashlib.sha512().hexdigest()


def test_the_short_form_has_twelve_digits() -> None:
    assert Digest.parse(f"sha256:{SHA256}").short == SHA256[:12]


def test_digests_sort_and_are_keys() -> None:
    first, second = sorted([Digest.of(b"a"), Digest.of(b"b")], key=str)

    assert first < second
    assert {first: 1}[Digest.parse(str(first))] == 1
