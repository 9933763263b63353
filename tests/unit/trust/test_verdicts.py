"""The verdicts of policies about signatures that openssl, npm's sigstore packages and gpg made."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
from collections.abc import Callable
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import signing
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from signing import (
    bundle,
    keyless,
    message_bundle,
    payload_of,
    reference_to,
    signed_by,
    simple,
    statement,
)
from sigstore.errors import VerificationError
from sigstore.models import Bundle, InvalidBundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity

from quaymirror.oci import Digest
from quaymirror.trust.evidence import Evidence, SimpleSignature
from quaymirror.trust.judge import Judge, Verdict
from quaymirror.trust.keys import Certificate, load_key
from quaymirror.trust.policy import read_policy

CONTENT = (signing.DATA / "manifest.json").read_bytes()
DIGEST = Digest.of(CONTENT)
OTHER = Digest.of(b"another image")
REPOSITORY = "quay.io/kolla/nova-api"
ANYTHING, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}


def cosigned(key: str = "p256", name: str = REPOSITORY, digest: Digest = DIGEST, **changes: Any) -> SimpleSignature:
    return simple(key, payload_of(digest, name, **changes))


def document(made: dict[str, Any]) -> bytes:
    return json.dumps(made).encode()


def judge_of(path: Path, requirements: list[dict[str, Any]], **more: Any) -> Judge:
    file = path / "policy.json"
    file.write_text(json.dumps({"default": requirements, **more}))
    return Judge(read_policy(file), signing.DATA / "trusted_root.json")


def verdict(path: Path, requirements: list[dict[str, Any]], tag: str | None = "1", **evidence: Any) -> Verdict:
    found = Evidence(DIGEST, CONTENT, **evidence)
    return judge_of(path, requirements).judge(reference_to(DIGEST, tag), found)


@cache
def stored(name: str) -> bytes:
    return (signing.DATA / f"{name}.json").read_bytes()


Case = Callable[[], tuple[list[dict[str, Any]], dict[str, Any]]]
# Name: requirements and evidence, and the words of a refusal; None if the image is accepted.
MATRIX: dict[str, tuple[Case, str | None]] = {
    "anything, unsigned": (lambda: ([ANYTHING], {}), None),
    "reject, signed": (lambda: ([REJECT], {"simple": (cosigned(),)}), "rejects"),
    "anything and reject": (lambda: ([ANYTHING, REJECT], {}), "rejects"),
    "unsigned": (lambda: ([signed_by("p256")], {}), "no signature"),
    "ecdsa p-256": (lambda: ([signed_by("p256")], {"simple": (cosigned(),)}), None),
    "ecdsa p-384": (lambda: ([signed_by("p384")], {"simple": (cosigned("p384"),)}), None),
    "rsa": (lambda: ([signed_by("rsa")], {"simple": (cosigned("rsa"),)}), None),
    "ed25519": (lambda: ([signed_by("ed25519")], {"simple": (cosigned("ed25519"),)}), None),
    "another key": (lambda: ([signed_by("other")], {"simple": (cosigned(),)}), "signed by another key"),
    "one of two keys": (lambda: ([signed_by("other", "p256")], {"simple": (cosigned(),)}), None),
    "both requirements, one signature": (
        lambda: ([signed_by("p256"), signed_by("other")], {"simple": (cosigned(),)}),
        "another key",
    ),
    "both requirements, two signatures": (
        lambda: ([signed_by("p256"), signed_by("other")], {"simple": (cosigned(), cosigned("other"))}),
        None,
    ),
    "one bad signature and a good one": (
        lambda: ([signed_by("p256")], {"simple": (cosigned(digest=OTHER), cosigned())}),
        None,
    ),
    "another image": (
        lambda: ([signed_by("p256")], {"simple": (cosigned(digest=OTHER),)}),
        "a signature of another image",
    ),
    "another repository": (
        lambda: ([signed_by("p256")], {"simple": (cosigned(name="quay.io/kolla/other"),)}),
        "quay.io/kolla/other",
    ),
    "default rule, repository only": (
        lambda: ([signed_by("p256", identity=None)], {"simple": (cosigned(),)}),
        "matchRepoDigestOrExact",
    ),
    "default rule, same tag": (
        lambda: ([signed_by("p256", identity=None)], {"simple": (cosigned(name=f"{REPOSITORY}:1"),)}),
        None,
    ),
    "default rule, another tag": (
        lambda: ([signed_by("p256", identity=None)], {"simple": (cosigned(name=f"{REPOSITORY}:2"),)}),
        "nova-api:2",
    ),
    "exact rule, same tag": (
        lambda: ([signed_by("p256", identity="matchExact")], {"simple": (cosigned(name=f"{REPOSITORY}:1"),)}),
        None,
    ),
    "exact rule, repository only": (
        lambda: ([signed_by("p256", identity="matchExact")], {"simple": (cosigned(),)}),
        "matchExact",
    ),
    "exact reference": (
        lambda: (
            [signed_by("p256", identity={"type": "exactReference", "dockerReference": "reg.example/a/b:3"})],
            {"simple": (cosigned(name="reg.example/a/b:3"),)},
        ),
        None,
    ),
    "exact reference, another tag": (
        lambda: (
            [signed_by("p256", identity={"type": "exactReference", "dockerReference": "reg.example/a/b:3"})],
            {"simple": (cosigned(name="reg.example/a/b:4"),)},
        ),
        "exactReference",
    ),
    "exact repository": (
        lambda: (
            [signed_by("p256", identity={"type": "exactRepository", "dockerRepository": "reg.example/a/b"})],
            {"simple": (cosigned(name="reg.example/a/b:3"),)},
        ),
        None,
    ),
    "exact repository, another one": (
        lambda: (
            [signed_by("p256", identity={"type": "exactRepository", "dockerRepository": "reg.example/a/b"})],
            {"simple": (cosigned(),)},
        ),
        "exactRepository",
    ),
    "remapped": (
        lambda: (
            [
                signed_by(
                    "p256",
                    identity={"type": "remapIdentity", "prefix": "quay.io/kolla", "signedPrefix": "vendor.example/x"},
                )
            ],
            {"simple": (cosigned(name="vendor.example/x/nova-api:1"),)},
        ),
        None,
    ),
    "remapped, signed under the old name": (
        lambda: (
            [
                signed_by(
                    "p256",
                    identity={"type": "remapIdentity", "prefix": "quay.io/kolla", "signedPrefix": "vendor.example/x"},
                )
            ],
            {"simple": (cosigned(name=f"{REPOSITORY}:1"),)},
        ),
        "remapIdentity",
    ),
    "a payload of another type": (
        lambda: ([signed_by("p256")], {"simple": (cosigned(type="atomic container signature"),)}),
        "not a signature of an image",
    ),
    "a payload with an unknown key": (
        lambda: ([signed_by("p256")], {"simple": (cosigned(more=1),)}),
        "malformed",
    ),
    "a payload that is no JSON": (
        lambda: ([signed_by("p256")], {"simple": (simple("p256", b"signed"),)}),
        "is not JSON",
    ),
    "log, recorded": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"simple": (simple("p256", payload_of(DIGEST, REPOSITORY), log="log"),)},
        ),
        None,
    ),
    "log, not recorded": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"simple": (cosigned(),)},
        ),
        "no transparency log",
    ),
    "log, another log": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"simple": (simple("p256", payload_of(DIGEST, REPOSITORY), log="other"),)},
        ),
        "not signed by a log of the policy",
    ),
    "log, the entry of another signature": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"simple": (_with_the_entry_of_another(),)},
        ),
        "for another signature",
    ),
    "bundle": (lambda: ([signed_by("p256")], {"bundles": (document(bundle("p256", statement(DIGEST))),)}), None),
    "bundle, another key": (
        lambda: ([signed_by("other")], {"bundles": (document(bundle("p256", statement(DIGEST))),)}),
        "another key",
    ),
    "bundle, another image": (
        lambda: ([signed_by("p256")], {"bundles": (document(bundle("p256", statement(OTHER))),)}),
        "another image",
    ),
    "bundle, an attestation": (
        lambda: (
            [signed_by("p256")],
            {"bundles": (document(bundle("p256", statement(DIGEST, "https://slsa.dev/provenance/v1"))),)},
        ),
        "an attestation",
    ),
    "bundle, a rule that needs a name": (
        lambda: (
            [signed_by("p256", identity="matchExact")],
            {"bundles": (document(bundle("p256", statement(DIGEST))),)},
        ),
        "names no image",
    ),
    "bundle, recorded": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"bundles": (document(bundle("p256", statement(DIGEST), log="log")),)},
        ),
        None,
    ),
    "bundle, not recorded": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"bundles": (document(bundle("p256", statement(DIGEST))),)},
        ),
        "no transparency log",
    ),
    "bundle, recorded by another log": (
        lambda: (
            [signed_by("p256", rekorPublicKeyPath=str(signing.public_key("log")))],
            {"bundles": (document(bundle("p256", statement(DIGEST), log="other")),)},
        ),
        "not signed by a log of the policy",
    ),
    "bundle of the manifest itself": (
        lambda: ([signed_by("rsa")], {"bundles": (document(message_bundle("rsa", CONTENT)),)}),
        None,
    ),
    "bundle of another manifest": (
        lambda: ([signed_by("rsa")], {"bundles": (document(message_bundle("rsa", b"{}")),)}),
        "another key",
    ),
    "bundle of version 0.1": (
        lambda: (
            [signed_by("p256")],
            {
                "bundles": (
                    document(
                        bundle("p256", statement(DIGEST))
                        | {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"}
                    ),
                )
            },
        ),
        "not of version 0.3",
    ),
    "bundle that is no JSON": (lambda: ([signed_by("p256")], {"bundles": (b"bundle",)}), "is not JSON"),
    "a key where an identity is wanted": (
        lambda: ([keyless()], {"bundles": (document(bundle("p256", statement(DIGEST))),)}),
        "by a key, not by an identity",
    ),
    "an identity where a key is wanted": (
        lambda: ([signed_by("p256")], {"bundles": (stored("signed"),)}),
        "by an identity, not by a key",
    ),
    "keyless, another issuer": (
        lambda: ([keyless(oidcIssuer="https://evil.example")], {"bundles": (stored("signed"),)}),
        "issuer",
    ),
    "keyless, a good one after a bad one": (
        lambda: ([keyless()], {"bundles": (stored("other-world"), stored("signed"))}),
        None,
    ),
}


def _with_the_entry_of_another() -> SimpleSignature:
    good, other = cosigned(), simple("p256", b"{}", log="log")
    return SimpleSignature(good.payload, good.signature, log_entry=other.log_entry)


@pytest.mark.parametrize("name", MATRIX)
def test_verdict(name: str, tmp_path: Path) -> None:
    case, words = MATRIX[name]
    requirements, evidence = case()
    found = verdict(tmp_path, requirements, **evidence)
    assert found.accepted is (words is None), found
    assert words is None or words in str(found), found


STORED = json.loads((signing.DATA / "verdicts.json").read_text())
# Peers verify signatures; that one is of this image, and no attestation, is for the caller to check.
NOT_FOR_THIS_IMAGE = {"other-image", "attestation"}


@pytest.mark.parametrize("name", STORED)
def test_verdicts_about_keyless_signatures_are_those_of_npms_sigstore(name: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, [keyless()], bundles=(stored(name),))
    assert found.accepted is (STORED[name] and name not in NOT_FOR_THIS_IMAGE), found


@pytest.mark.parametrize("name", STORED)
def test_verdicts_about_keyless_signatures_of_pypis_sigstore_are_those_of_npms(name: str) -> None:
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(signing.DATA / "trusted_root.json")))
    policy = Identity(identity="releases@example.com", issuer="https://issuer.example")
    try:
        found = Bundle.from_json(stored(name))
        if "dsseEnvelope" in json.loads(stored(name)):
            verifier.verify_dsse(found, policy)
        else:
            verifier.verify_artifact(CONTENT, found, policy)
    except (VerificationError, InvalidBundle):
        assert not STORED[name]
    else:
        assert STORED[name]


TAGS = json.loads((signing.DATA / "tags.json").read_text())
OF_OTHER_IMAGE = TAGS["other-image"]["annotations"]


def tagged(name: str, **changes: str) -> SimpleSignature:
    """Return a stored keyless signature of a `.sig` tag."""
    made = TAGS[name]
    annotations = {**made["annotations"], **{f"dev.sigstore.cosign/{key}": value for key, value in changes.items()}}
    return SimpleSignature.of(base64.b64decode(made["payload"]), annotations)


@pytest.mark.parametrize("name", TAGS)
def test_verdicts_about_keyless_signatures_in_tags_are_those_of_npms_sigstore(name: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, [keyless()], simple=(tagged(name),))
    assert found.accepted is (TAGS[name]["verdict"] and name not in NOT_FOR_THIS_IMAGE), found


@pytest.mark.parametrize(
    ("words", "evidence", "changes"),
    [
        ("releases@example.com", {}, {"subjectEmail": "another@example.com"}),
        ("checked by 'https://issuer.example'", {}, {"oidcIssuer": "https://evil.example"}),
        ("a signature by a key", {"certificate": ""}, {}),
        ("is not a certificate", {"certificate": "x"}, {}),
        ("not one by its certificate", {"certificate": OF_OTHER_IMAGE["dev.sigstore.cosign/certificate"]}, {}),
        ("is not a certificate", {"chain": "x"}, {}),
        ("no transparency log", {"bundle": ""}, {}),
        ("for another signature", {"bundle": OF_OTHER_IMAGE["dev.sigstore.cosign/bundle"]}, {}),
    ],
)
def test_a_keyless_signature_in_a_tag_is_refused_with_its_reason(
    words: str, evidence: dict[str, str], changes: dict[str, str], tmp_path: Path
) -> None:
    found = verdict(tmp_path, [keyless(**changes)], simple=(tagged("signed", **evidence),))
    assert not found.accepted
    assert words in str(found), found


PAST = {"validFor": {"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("not of the policy's authority", "certificateAuthorities"),
        ("not signed by a log", "tlogs"),
        ("no certificate log", "ctlogs"),
    ],
)
def test_a_trusted_root_is_followed_for_its_periods_only(words: str, part: str, tmp_path: Path) -> None:
    root = json.loads((signing.DATA / "trusted_root.json").read_text())
    for entry in root[part]:
        entry.get("publicKey", entry).update(PAST)

    (tmp_path / "root.json").write_text(json.dumps(root))
    (tmp_path / "policy.json").write_text(json.dumps({"default": [keyless()]}))
    judge = Judge(read_policy(tmp_path / "policy.json"), tmp_path / "root.json")
    found = judge.judge(reference_to(DIGEST), Evidence(DIGEST, CONTENT, simple=(tagged("signed"),)))
    assert not found.accepted
    assert words in str(found), found


def test_a_digest_without_tag_needs_the_repository_only(tmp_path: Path) -> None:
    signature = cosigned(name=f"{REPOSITORY}:7")
    assert verdict(tmp_path, [signed_by("p256", identity=None)], None, simple=(signature,)).accepted
    signature = cosigned(name="quay.io/kolla/other:7")
    assert not verdict(tmp_path, [signed_by("p256", identity=None)], None, simple=(signature,)).accepted


def test_an_index_counts_as_signed_if_it_is_or_all_its_platforms_are(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, [signed_by("p256")])
    unsigned = Evidence(OTHER, b"index", name="index")
    children = [Evidence(DIGEST, CONTENT, simple=(cosigned(),), name="linux/amd64")]
    found = judge.judge(reference_to(OTHER), unsigned, children)
    assert found.accepted
    assert "each of 1 platform" in str(found)
    found = judge.judge(reference_to(OTHER), unsigned, [*children, Evidence(OTHER, b"", name="linux/arm64")])
    assert not found.accepted
    assert "linux/arm64" in str(found)


def test_all_keys_are_in_the_reasons_of_a_refusal(tmp_path: Path) -> None:
    found = verdict(tmp_path, [signed_by("other", "rsa")], simple=(cosigned(),))
    assert [reason.partition(" (")[0] for reason in found.reasons] == ["key other.pub", "key rsa.pub"]


def openssl_accepts(key: Path, signature: bytes, content: bytes, place: Path) -> bool:
    """Return True if openssl says that `signature` is one of `key` over `content`."""
    (place / "signature").write_bytes(signature)
    (place / "content").write_bytes(content)
    words: list[str | Path] = ["dgst", "-sha256", "-verify", key, "-signature", place / "signature", place / "content"]
    if key.name == "ed25519.pub":
        at: list[str | Path] = ["-in", place / "content", "-sigfile", place / "signature"]
        words = ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", *at]

    try:
        signing.openssl(*words)
    except subprocess.CalledProcessError:
        return False

    return True


def signed_parts(evidence: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Return the signatures by keys in evidence, and the bytes that each is over."""
    found = [(each.signature, each.payload) for each in evidence.get("simple", ())]
    for raw in evidence.get("bundles", ()):
        made = json.loads(raw) if raw.startswith(b"{") else {}
        if "messageSignature" in made:
            found.append((base64.b64decode(made["messageSignature"]["signature"]), CONTENT))
        elif "dsseEnvelope" in made:
            kind, content = made["dsseEnvelope"]["payloadType"].encode(), made["dsseEnvelope"]["payload"]
            content = base64.b64decode(content)
            signature = base64.b64decode(made["dsseEnvelope"]["signatures"][0]["sig"])
            found.append((signature, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(content), content)))

    return found


def test_openssl_accepts_a_signature_for_each_key_of_all_accepted_images_and_only_those_that_the_judge_accepts(
    tmp_path: Path,
) -> None:
    checked = dict[tuple[Path, bytes, bytes], bool]()
    for name, (case, words) in MATRIX.items():
        requirements, evidence = case()
        for keys in [each["keyPaths"] for each in requirements if "keyPaths" in each]:
            for key in map(Path, keys):
                for part in signed_parts(evidence):
                    checked[key, *part] = openssl_accepts(key, *part, tmp_path)
                    assert checked[key, *part] is load_key(key.read_bytes()).verifies(*part), name

            found = [checked[Path(key), *part] for key in keys for part in signed_parts(evidence)]
            assert words is not None or any(found), name

    assert {*checked.values()} == {True, False}


def fields_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all texts in a document."""
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in fields_of(each, (*path, key))]

    if isinstance(value, list):
        return [found for key, each in enumerate(value) for found in fields_of(each, (*path, key))]

    return [path] if isinstance(value, str) else []


def corrupted(made: dict[str, Any], path: tuple[Any, ...], position: int, character: str) -> dict[str, Any]:
    changed = copy.deepcopy(made)
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]

    text: str = holder[path[-1]]
    position %= len(text)
    holder[path[-1]] = text[:position] + character + text[position + 1 :]
    return changed


@cache
def judge_for(kind: str) -> Judge:
    log = {"rekorPublicKeyPath": str(signing.public_key("log"))} if kind == "recorded" else {}
    directory = signing.directory() / kind
    directory.mkdir()
    return judge_of(directory, [keyless() if kind == "keyless" else signed_by("p256", **log)])


def accepts(kind: str, **evidence: Any) -> bool:
    return judge_for(kind).judge(reference_to(DIGEST), Evidence(DIGEST, CONTENT, **evidence)).accepted


KEYED = bundle("p256", statement(DIGEST), log="log")
# A hint says which key to try; all keys of the policy are tried.
KEYED_FIELDS = [path for path in fields_of(KEYED) if path[-1] != "hint"]
CHARACTERS = st.sampled_from("Ab0z9+/=é")


@given(path=st.sampled_from(KEYED_FIELDS), position=st.integers(0, 10_000), character=CHARACTERS)
@settings(max_examples=60, deadline=None)
def test_a_bundle_of_which_any_field_is_corrupted_is_refused(
    path: tuple[Any, ...], position: int, character: str
) -> None:
    changed = corrupted(KEYED, path, position, character)
    assert accepts("recorded", bundles=(document(changed),)) is (changed == KEYED)


SIGNED = json.loads(stored("signed"))
KEYLESS_FIELDS = fields_of(SIGNED)


def names_signer(text: str, position: int) -> bool:
    """Return True for a place in the name before the signature of a checkpoint: logs are known by their keys only."""
    start = text.find("\u2014 ")
    return 0 <= start < position % len(text) < text.index(" ", start + 2)


@given(path=st.sampled_from(KEYLESS_FIELDS), position=st.integers(0, 10_000), character=CHARACTERS)
@settings(max_examples=40, deadline=None)
def test_a_keyless_bundle_of_which_any_field_is_corrupted_is_refused(
    path: tuple[Any, ...], position: int, character: str
) -> None:
    assume(path[-1] != "envelope" or not names_signer(reduce(getitem, path, SIGNED), position))
    changed = corrupted(SIGNED, path, position, character)
    assert accepts("keyless", bundles=(document(changed),)) is (changed == SIGNED)


SIMPLE = simple("p256", payload_of(DIGEST, REPOSITORY), log="log")


@given(name=st.sampled_from(["payload", "signature"]), position=st.integers(0, 10_000), change=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_signature_of_which_any_byte_is_changed_is_refused(name: str, position: int, change: int) -> None:
    parts = {"payload": bytearray(SIMPLE.payload), "signature": bytearray(SIMPLE.signature)}
    parts[name][position % len(parts[name])] ^= change
    changed = SimpleSignature(bytes(parts["payload"]), bytes(parts["signature"]))
    assert not accepts("key", simple=(changed,))


PARTS = ["payload", *TAGS["signed"]["annotations"]]


@given(name=st.sampled_from(PARTS), position=st.integers(0, 10_000), character=CHARACTERS)
@settings(max_examples=60, deadline=None)
def test_a_keyless_signature_in_a_tag_of_which_any_field_is_corrupted_is_refused(
    name: str, position: int, character: str
) -> None:
    made = copy.deepcopy(TAGS["signed"])
    holder = made if name == "payload" else made["annotations"]
    holder[name] = corrupted({"text": holder[name]}, ("text",), position, character)["text"]
    try:
        payload = base64.b64decode(made["payload"])
    except ValueError:
        return

    signature = SimpleSignature.of(payload, made["annotations"])
    assert accepts("keyless", simple=(signature,)) is means_the_same(signature, tagged("signed"))


def means_the_same(changed: SimpleSignature, good: SimpleSignature) -> bool:
    """Return True if only the form of a certificate in PEM, or of JSON, is another one."""
    try:
        is_same = Certificate(changed.certificate.encode()).der == Certificate(good.certificate.encode()).der
        is_same &= json.loads(changed.log_entry) == json.loads(good.log_entry)
    except ValueError:
        return False

    return is_same and (changed.payload, changed.signature) == (good.payload, good.signature)


def test_a_signature_that_is_not_base64_is_refused(tmp_path: Path) -> None:
    payload = payload_of(DIGEST, REPOSITORY)
    changed = SimpleSignature.of(payload, {"dev.cosignproject.cosign/signature": "%"})
    assert not verdict(tmp_path, [signed_by("p256")], simple=(changed,)).accepted
    assert base64.b64encode(changed.signature) == b""
