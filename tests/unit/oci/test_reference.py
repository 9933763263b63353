"""Names: OCI distribution-spec ("Pulling manifests"), and the names that Quay accepts beyond it."""

from __future__ import annotations

import random

import pytest

from quaymirror.errors import InvalidName
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.oci.reference import is_registry_host, is_repository_name, is_tag

DIGEST = Digest.of(b"manifest")
NOVA = Repository("quay.io", "kolla/nova-api")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("kolla/nova-api", id="usual"),
        pytest.param("openstack.kolla/nova-api", id="organization-with-dot"),
        pytest.param("kolla/a/b/c", id="nested"),
        pytest.param("kolla/a..b", id="two-dots"),
        pytest.param("kolla/a--b", id="two-dashes"),
        pytest.param("kolla/a-", id="trailing-dash"),
        pytest.param("kolla/a.", id="trailing-dot"),
        pytest.param("a/0", id="digit"),
        pytest.param("nova", id="one-component"),
        pytest.param("a/" + "b" * 253, id="longest"),
    ],
)
def test_repository_names_that_quay_takes_are_legal(text: str) -> None:
    assert is_repository_name(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("..", id="parent"),
        pytest.param("kolla/..", id="parent-at-the-end"),
        pytest.param("../../etc", id="traversal"),
        pytest.param("kolla/../x", id="traversal-inside"),
        pytest.param("kolla/./x", id="dot"),
        pytest.param("/kolla/x", id="absolute"),
        pytest.param("kolla/x/", id="trailing-slash"),
        pytest.param("kolla//x", id="empty-component"),
        pytest.param("kolla/Nova", id="upper-case"),
        pytest.param("kolla/x\0", id="nul"),
        pytest.param("kolla/x\n", id="newline"),
        pytest.param("kolla/a b", id="space"),
        pytest.param("kolla/%2e%2e", id="percent-encoded"),
        pytest.param("kolla\\x", id="backslash"),
        pytest.param("kolla/x:y", id="colon"),
        pytest.param("kolla/x?y", id="question-mark"),
        pytest.param("kolla/-x", id="leading-dash"),
        pytest.param("kolla/_x", id="leading-underscore"),
        pytest.param("kolla/\x1b[2J", id="escape"),
        pytest.param("kolla/é", id="accent"),
        pytest.param("k" * 300, id="three-hundred"),
    ],
)
def test_invalid_repository_names_are_refused(text: str) -> None:
    assert not is_repository_name(text)
    with pytest.raises(InvalidName):
        Repository("quay.io", text)


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        pytest.param("latest", True, id="usual"),
        pytest.param("2025.1-debian", True, id="version"),
        pytest.param("_x", True, id="leading-underscore"),
        pytest.param("A", True, id="upper-case"),
        pytest.param("a..b", True, id="two-dots"),
        pytest.param("a" * 128, True, id="longest"),
        pytest.param("a" * 129, False, id="too-long"),
        pytest.param("", False, id="empty"),
        pytest.param(".x", False, id="leading-dot"),
        pytest.param("..", False, id="parent"),
        pytest.param("-x", False, id="leading-dash"),
        pytest.param("latest\n", False, id="newline"),
        pytest.param("a/b", False, id="slash"),
        pytest.param("a:b", False, id="colon"),
        pytest.param("a b", False, id="space"),
        pytest.param("a\0", False, id="nul"),
        pytest.param("٣", False, id="arabic-digit"),
    ],
)
def test_tags_follow_the_specification(text: str, legal: bool) -> None:
    assert is_tag(text) is legal


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        pytest.param("quay.io", True, id="usual"),
        pytest.param("localhost:5000", True, id="port"),
        pytest.param("127.0.0.1:8080", True, id="ipv4"),
        pytest.param("[::1]", True, id="ipv6"),
        pytest.param("[2001:db8::1]:443", True, id="ipv6-and-port"),
        pytest.param("Registry.Example", True, id="upper-case"),
        pytest.param("", False, id="empty"),
        pytest.param(":5000", False, id="only-a-port"),
        pytest.param("quay.io:", False, id="empty-port"),
        pytest.param("quay.io:0", False, id="port-zero"),
        pytest.param("quay.io:65536", False, id="port-too-high"),
        pytest.param("quay..io", False, id="empty-label"),
        pytest.param("quay-.io", False, id="label-ends-with-dash"),
        pytest.param("-quay.io", False, id="leading-dash"),
        pytest.param("user:secret@quay.io", False, id="credentials"),
        pytest.param("https://quay.io", False, id="scheme"),
        pytest.param("quay.io/kolla", False, id="path"),
        pytest.param("quay.io\n", False, id="newline"),
        pytest.param("[]", False, id="empty-brackets"),
        pytest.param("[:::]", False, id="no-ipv6"),
        pytest.param("[1:2]", False, id="short-ipv6"),
        pytest.param("::1", False, id="ipv6-without-brackets"),
        pytest.param("a" * 300, False, id="three-hundred"),
    ],
)
def test_registry_hosts_are_hosts_with_an_optional_port(text: str, legal: bool) -> None:
    assert is_registry_host(text) is legal
    if not legal:
        with pytest.raises(InvalidName, match="registry host"):
            Repository(text, "kolla/nova-api")


def test_a_reference_by_tag_knows_its_names() -> None:
    reference = Reference(NOVA, "2025.1-debian")

    assert reference.name == "kolla/nova-api:2025.1-debian"
    assert reference.full_name == str(reference) == "quay.io/kolla/nova-api:2025.1-debian"
    assert reference.digest is None


def test_pinning_adds_the_digest_and_keeps_the_name() -> None:
    pinned = Reference(NOVA, "latest").pinned(DIGEST)

    assert pinned.digest is not None
    assert pinned.full_name == "quay.io/kolla/nova-api:latest"
    assert str(pinned) == f"quay.io/kolla/nova-api:latest@{DIGEST}"


def test_a_reference_by_digest_is_called_by_it() -> None:
    assert str(Reference(NOVA, digest=DIGEST)) == f"quay.io/kolla/nova-api@{DIGEST}"


def test_a_reference_needs_a_tag_or_a_digest() -> None:
    with pytest.raises(InvalidName, match="needs a tag or a digest"):
        Reference(NOVA)


@pytest.mark.parametrize("tag", ["", "..", "a/b", "latest\n"], ids=["empty", "parent", "slash", "newline"])
def test_a_reference_refuses_an_invalid_tag(tag: str) -> None:
    with pytest.raises(InvalidName, match="not a tag"):
        Reference(NOVA, tag, DIGEST)


def test_references_sort_with_missing_parts() -> None:
    ordered = [
        Reference(Repository("quay.io", "a/a"), "z"),
        Reference(NOVA, digest=DIGEST),
        Reference(NOVA, "a"),
        Reference(NOVA, "a", DIGEST),
        Reference(NOVA, "b"),
    ]
    shuffled = random.Random(1).sample(ordered, len(ordered))

    assert sorted(shuffled) == ordered
