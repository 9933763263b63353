"""Signatures of images, made by openssl, and the policies that ask for them."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from quaymirror.oci import Digest, Reference, Repository
from quaymirror.trust.evidence import SimpleSignature

DATA = Path(__file__).parent.parent / "data" / "signatures"
SIGN = "https://sigstore.dev/cosign/sign/v1"
_ALGORITHMS = {
    "p256": ("EC", "ec_paramgen_curve:P-256"),
    "other": ("EC", "ec_paramgen_curve:P-256"),
    "log": ("EC", "ec_paramgen_curve:P-256"),
    "p384": ("EC", "ec_paramgen_curve:P-384"),
    "rsa": ("RSA", "rsa_keygen_bits:2048"),
    "weak": ("RSA", "rsa_keygen_bits:1024"),
    "ed25519": ("ED25519", ""),
}


def openssl(*arguments: str | Path, content: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], input=content, capture_output=True, check=True).stdout


@cache
def directory() -> Path:
    return Path(mkdtemp(prefix="quaymirror-keys-"))


@cache
def private_key(name: str) -> Path:
    algorithm, option = _ALGORITHMS[name]
    path = directory() / f"{name}.key"
    openssl("genpkey", "-algorithm", algorithm, *(("-pkeyopt", option) if option else ()), "-out", path)
    return path


@cache
def public_key(name: str) -> Path:
    path = directory() / f"{name}.pub"
    openssl("pkey", "-in", private_key(name), "-pubout", "-out", path)
    return path


def sign(name: str, content: bytes) -> bytes:
    """Return a signature by the key called `name`."""
    path = directory() / "content"
    path.write_bytes(content)
    if name == "ed25519":
        return openssl("pkeyutl", "-sign", "-inkey", private_key(name), "-rawin", "-in", path)

    return openssl("dgst", "-sha256", "-sign", private_key(name), path)


def payload_of(digest: Digest, name: str, **changes: Any) -> bytes:
    """Return what cosign signs."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": str(digest)},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": {**critical, **changes}, "optional": None}).encode()


def simple(key: str, payload: bytes, log: str | None = None) -> SimpleSignature:
    """Return a signature of a `.sig` image, recorded by the log with this key."""
    signature = sign(key, payload)
    return SimpleSignature.of(payload, annotations_of(key, signature, payload, log))


def annotations_of(key: str, signature: bytes, payload: bytes, log: str | None = None) -> dict[str, str]:
    """Return the annotations of a layer with a signature."""
    found = {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}
    if log is not None:
        found["dev.sigstore.cosign/bundle"] = json.dumps(log_entry(log, key, signature, payload))

    return found


def log_entry(log: str, key: str, signature: bytes, payload: bytes) -> dict[str, Any]:
    body = {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}},
            "signature": {
                "content": base64.b64encode(signature).decode(),
                "publicKey": {"content": base64.b64encode(public_key(key).read_bytes()).decode()},
            },
        },
    }
    entry = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "integratedTime": 1_700_000_000,
        "logID": "ab" * 32,
        "logIndex": 5,
    }
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return {"SignedEntryTimestamp": base64.b64encode(sign(log, canonical)).decode(), "Payload": entry}


def statement(digest: Digest, predicate: str = SIGN, **changes: Any) -> bytes:
    """Return an in-toto statement about an image."""
    subject = [{"digest": {digest.algorithm: digest.encoded}}]
    document = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": predicate}
    return json.dumps({**document, "predicate": {}, **changes}).encode()


def bundle(key: str, payload: bytes, *, log: str | None = None) -> dict[str, Any]:
    """Return a bundle with a statement in an envelope, signed by a key."""
    kind = "application/vnd.in-toto+json"
    signature = sign(key, b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    sig = base64.b64encode(signature).decode()
    entries = [] if log is None else [bundle_entry(log, key, sig, payload)]
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": entries},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": sig}],
        },
    }


def bundle_entry(log: str, key: str, sig: str, payload: bytes) -> dict[str, Any]:
    body = {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": sig, "verifier": base64.b64encode(public_key(key).read_bytes()).decode()}],
        },
    }
    raw = base64.b64encode(json.dumps(body).encode()).decode()
    entry = {"body": raw, "integratedTime": 1_700_000_000, "logID": "ab" * 32, "logIndex": 5}
    promise = sign(log, json.dumps(entry, sort_keys=True, separators=(",", ":")).encode())
    return {
        "canonicalizedBody": raw,
        "integratedTime": "1700000000",
        "logIndex": "5",
        "logId": {"keyId": base64.b64encode(bytes.fromhex("ab" * 32)).decode()},
        "inclusionPromise": {"signedEntryTimestamp": base64.b64encode(promise).decode()},
    }


def message_bundle(key: str, content: bytes) -> dict[str, Any]:
    """Return a bundle with a signature over `content` itself."""
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "messageSignature": {"signature": base64.b64encode(sign(key, content)).decode()},
    }


def signed_by(*keys: str, identity: object = "matchRepository", **more: Any) -> dict[str, Any]:
    """Return a requirement for keys."""
    paths = [str(public_key(key)) for key in keys]
    rule = {"type": identity} if isinstance(identity, str) else identity
    requirement = {"type": "sigstoreSigned", "keyPaths": paths, **more}
    return requirement if rule is None else {**requirement, "signedIdentity": rule}


def keyless(prefix: str = "", **changes: Any) -> dict[str, Any]:
    """Return a requirement for an identity of the stored signatures."""
    fulcio = {
        "caPath": str(DATA / f"{prefix}ca.pem"),
        "oidcIssuer": "https://issuer.example",
        "subjectEmail": "releases@example.com",
    }
    return {
        "type": "sigstoreSigned",
        "fulcio": {**fulcio, **changes},
        "rekorPublicKeyPath": str(DATA / f"{prefix}rekor.pem"),
        "signedIdentity": {"type": "matchRepository"},
    }


def reference_to(digest: Digest, tag: str | None = "1", repository: str = "kolla/nova-api") -> Reference:
    return Reference(Repository("quay.io", repository), tag, digest)
