"""Policies are read to the letter, or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import signing
from signing import keyless, reference_to, signed_by

from quaymirror.errors import ConfigError
from quaymirror.oci import Digest
from quaymirror.trust.judge import Judge
from quaymirror.trust.names import parse_name
from quaymirror.trust.policy import read_policy
from quaymirror.trust.requirements import AcceptAnything, Reject

ANYTHING, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}
DIGEST = Digest.of(b"")


def written(path: Path, document: Any) -> Path:
    file = path / "policy.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def key(**changes: Any) -> dict[str, Any]:
    """Return a requirement for a key, with these changes; None leaves a field out."""
    made = {**signed_by("p256"), **changes}
    return {name: value for name, value in made.items() if value is not None}


MISTAKES: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON"),
    "a key twice": ('{"default": [], "default": []}', "the same key twice"),
    "no default": ({}, "default: is missing"),
    "an unknown key": ({"default": [ANYTHING], "transport": {}}, "transport: unknown key"),
    "an empty list": ({"default": []}, "default: must be a list of at least one"),
    "an unknown type": ({"default": [{"type": "signedByMagic"}]}, "default[0].type: 'signedByMagic'"),
    "a type with more": ({"default": [{"type": "reject", "why": 1}]}, "default[0].why: unknown key"),
    "in a scope": (
        {"default": [ANYTHING], "transports": {"docker": {"quay.io/kolla": [{"type": "reject", "x": 1}]}}},
        'transports.docker["quay.io/kolla"][0].x: unknown key',
    ),
    "in another transport": (
        {"default": [ANYTHING], "transports": {"atomic": {"": [{"type": "x"}]}}},
        'transports.atomic[""][0].type',
    ),
    "a misspelt key": ({"default": [key(keypath="x")]}, "default[0].keypath: unknown key"),
    "no key": ({"default": [key(keyPaths=None)]}, "needs exactly one of"),
    "two kinds of keys": ({"default": [key(keyData="eA==")]}, "needs exactly one of"),
    "a file that is missing": ({"default": [key(keyPaths=["/no/such/key"])]}, "can't read /no/such/key"),
    "keys that are no list": ({"default": [key(keyPaths="x")]}, "keyPaths: must be a list"),
    "data that is no base64": ({"default": [key(keyPaths=None, keyData="%")]}, "keyData: is not base64"),
    "data that is no key": ({"default": [key(keyPaths=None, keyData="eA==")]}, "is not a public key in PEM"),
    "a weak key": ({"default": [signed_by("weak")]}, "1024 bits"),
    "two kinds of logs": (
        {"default": [key(rekorPublicKeyPath="x", rekorPublicKeyData="eA==")]},
        "needs exactly one of rekorPublicKeyPath",
    ),
    "pki": ({"default": [key(keyPaths=None, pki={})]}, "default[0].pki: unknown key"),
    "fulcio without a log": (
        {"default": [{**keyless(), "rekorPublicKeyPath": None}]},
        "rekorPublicKeyPath: must be a text",
    ),
    "an identity of an unknown kind": ({"default": [signed_by("p256", identity="any")]}, "signedIdentity.type: 'any'"),
    "an identity with more": (
        {"default": [signed_by("p256", identity={"type": "matchExact", "x": 1})]},
        "signedIdentity.x: unknown key",
    ),
    "an exact reference without tag": (
        {"default": [signed_by("p256", identity={"type": "exactReference", "dockerReference": "quay.io/a/b"})]},
        "signedIdentity.dockerReference: must be a repository with a tag",
    ),
    "gpg keys of another type": (
        {"default": [{"type": "signedBy", "keyType": "X509Certificates", "keyData": "eA=="}]},
        "default[0].keyType: must be GPGKeys",
    ),
    "gpg keys that are none": (
        {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "eA=="}]},
        "not a file of GPG public keys",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    document, words = MISTAKES[name]
    with pytest.raises(ConfigError) as caught:
        Judge(read_policy(written(tmp_path, document)))

    assert words in caught.value.message, caught.value.message
    assert "\n" not in caught.value.message


def test_fulcio_needs_a_trusted_root_with_its_authority_and_log(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path, {"default": [keyless()]}))
    with pytest.raises(ConfigError, match="--trusted-root"):
        Judge(policy)

    with pytest.raises(ConfigError, match=r"no certificate authority of the policy \(ca.pem\)"):
        Judge(policy, signing.DATA / "other-trusted_root.json")

    with pytest.raises(ConfigError, match="not a trusted root"):
        Judge(policy, signing.DATA / "verdicts.json")


def test_a_missing_extra_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    policy = read_policy(written(tmp_path, {"default": [keyless()]}))
    with pytest.raises(ConfigError, match=r"pip install 'quaymirror\[sigstore\]'$"):
        Judge(policy, signing.DATA / "trusted_root.json")


SCOPES = {
    "quay.io/kolla/nova-api:1": "tag",
    "quay.io/kolla/nova-api": "repository",
    "quay.io/kolla": "organization",
    "quay.io": "host",
    "*.io": "domain",
    "": "transport",
}


def test_the_most_precise_scope_counts(tmp_path: Path) -> None:
    scopes = [*SCOPES]
    for number, scope in enumerate(scopes):
        # All scopes from here on: this one accepts, the wider ones reject.
        table = {each: [ANYTHING if each == scope else REJECT] for each in scopes[number:]}
        policy = read_policy(written(tmp_path, {"default": [REJECT], "transports": {"docker": table}}))
        assert policy.requirements(reference_to(DIGEST)) == (AcceptAnything(),), scope

    policy = read_policy(
        written(tmp_path, {"default": [REJECT], "transports": {"docker": {"quay.io/other": [ANYTHING]}}})
    )
    assert policy.requirements(reference_to(DIGEST)) == (Reject(),)


def test_a_changed_key_is_another_policy(tmp_path: Path) -> None:
    file = tmp_path / "key.pub"
    file.write_bytes(signing.public_key("p256").read_bytes())
    policy = written(tmp_path, {"default": [{"type": "sigstoreSigned", "keyPath": "key.pub"}]})
    first, second = read_policy(policy), read_policy(policy)
    assert first.fingerprint == second.fingerprint
    file.write_bytes(signing.public_key("other").read_bytes())
    assert read_policy(policy).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("kolla/a", "docker.io/kolla/a"),
        ("index.docker.io/kolla/a", "docker.io/kolla/a"),
        ("localhost/a", "localhost/a"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b:1@{DIGEST}"),
        ("quay.io/a/b:", None),
        ("quay.io/a/B", None),
        ("quay.io/", None),
        ("quay.io/a/b@sha256:1", None),
        ("", None),
        ("a" * 2000, None),
    ],
)
def test_names_of_images(text: str, name: str | None) -> None:
    found = parse_name(text)
    assert (None if found is None else str(found)) == name
