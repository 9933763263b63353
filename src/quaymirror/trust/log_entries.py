"""Entries of transparency logs (Rekor v1): a log's signature on the fact that it recorded a signature at some time."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..untrusted import InvalidDocument, parse_object
from .bundle import Bundle, decoded, sha256_hex
from .keys import Certificate, PublicKey, UnusableKey, load_key
from .payload import MAX_PAYLOAD_BYTES, InvalidClaim


def check_annotation(
    text: str, logs: Sequence[PublicKey], signer: PublicKey | Certificate, signature: bytes, payload: bytes
) -> datetime:
    """Check the entry in the annotation `dev.sigstore.cosign/bundle` for a signature by `signer` over `payload`.

    Return when the log recorded it.

    :raises InvalidClaim: if no log recorded this signature.
    """
    if not text:
        raise InvalidClaim("no transparency log recorded the signature")

    try:
        document = parse_object(text, limit=MAX_PAYLOAD_BYTES)
    except InvalidDocument as error:
        raise InvalidClaim(f"the log entry {error}") from None

    entry = document.get("Payload")
    if not isinstance(entry, dict) or set(entry) != {"body", "integratedTime", "logIndex", "logID"}:
        raise InvalidClaim("the log entry is malformed")

    _check_promise(entry, decoded(document, "SignedEntryTimestamp"), logs)
    _check_body(decoded(entry, "body"), signer, signature, payload, is_envelope=False)
    try:
        return datetime.fromtimestamp(_number(entry["integratedTime"]), UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidClaim("the log entry is malformed") from None


def check_entries(bundle: Bundle, logs: Sequence[PublicKey], key: PublicKey, content: bytes) -> None:
    """Check that one of the entries of `bundle` is for its signature by `key`; `content` is what it claims.

    :raises InvalidClaim: if no log recorded this signature.
    """
    problem = InvalidClaim("no transparency log recorded the signature")
    for each in bundle.entries:
        try:
            return _check_entry(each, logs, key, bundle.signature, content, is_envelope=bundle.has_envelope)
        except InvalidClaim as error:
            problem = error

    raise problem


def _check_entry(
    each: dict[str, Any],
    logs: Sequence[PublicKey],
    key: PublicKey,
    signature: bytes,
    content: bytes,
    *,
    is_envelope: bool,
) -> None:
    promise, log = each.get("inclusionPromise"), each.get("logId")
    if not isinstance(promise, dict) or not isinstance(log, dict):
        raise InvalidClaim("the log entry has no signed timestamp")

    body = decoded(each, "canonicalizedBody")
    entry = {
        "body": base64.b64encode(body).decode(),
        "integratedTime": _number(each.get("integratedTime")),
        "logIndex": _number(each.get("logIndex", 0)),
        "logID": decoded(log, "keyId").hex(),
    }
    _check_promise(entry, decoded(promise, "signedEntryTimestamp"), logs)
    _check_body(body, key, signature, content, is_envelope=is_envelope)


def _check_promise(entry: dict[str, Any], promise: bytes, logs: Iterable[PublicKey]) -> None:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if not any(log.verifies(promise, canonical) for log in logs):
        raise InvalidClaim("the log entry is not signed by a log of the policy")


def _check_body(
    body: bytes, signer: PublicKey | Certificate, signature: bytes, content: bytes, *, is_envelope: bool
) -> None:
    try:
        document = parse_object(body, limit=MAX_PAYLOAD_BYTES)
    except InvalidDocument as error:
        raise InvalidClaim(f"the log entry {error}") from None

    wanted, read = ("dsse", _envelope_records) if is_envelope else ("hashedrekord", _hash_records)
    spec = document.get("spec")
    if (document.get("kind"), document.get("apiVersion")) != (wanted, "0.0.1") or not isinstance(spec, dict):
        raise InvalidClaim("the log entry is of another kind")

    hashed, records = read(spec)
    algorithm, value = hashed.get("algorithm"), hashed.get("value")
    is_recorded = any(found == signature and _is_of(verifier, signer) for found, verifier in records)
    if algorithm != "sha256" or value != sha256_hex(content) or not is_recorded:
        raise InvalidClaim("the log entry is for another signature")


def _hash_records(spec: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
    record = _part(spec, "signature")
    verifier = decoded(_part(record, "publicKey"), "content")
    return _part(_part(spec, "data"), "hash"), [(decoded(record, "content"), verifier)]


def _envelope_records(spec: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
    records = spec.get("signatures")
    tables = [each for each in records if isinstance(each, dict)] if isinstance(records, list) else []
    return _part(spec, "payloadHash"), [(decoded(each, "signature"), decoded(each, "verifier")) for each in tables]


def _part(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise InvalidClaim("the log entry is malformed")

    return value


def _is_of(verifier: bytes, signer: PublicKey | Certificate) -> bool:
    """Return True if a log has recorded this certificate, or this key."""
    try:
        if b"BEGIN CERTIFICATE" not in verifier:
            return load_key(verifier).der == signer.der

        certificate = Certificate(verifier)
    except UnusableKey as error:
        raise InvalidClaim(f"the key in the log entry {error}") from None

    return signer.der == (certificate.der if isinstance(signer, Certificate) else certificate.key.der)


def _number(value: object) -> int:
    try:
        return int(value) if isinstance(value, str | int) else -1
    except (ValueError, binascii.Error):
        raise InvalidClaim("the log entry is malformed") from None
