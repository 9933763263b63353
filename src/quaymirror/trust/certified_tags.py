"""Signatures in `.sig` tags by short-lived certificates, as cosign up to version 2 makes them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from .evidence import SimpleSignature
from .keys import Certificate, PublicKey, UnusableKey, key_from_der, split_certificates
from .log_entries import check_annotation
from .payload import InvalidClaim
from .requirements import SignedByIdentity


class CertifiedTags:
    """Verifies these signatures for one requirement, with the authorities and logs in `trusted`, a trusted root.

    :raises KeyError: if the root lacks a field; TypeError and ValueError for malformed ones.
    """

    def __init__(self, requirement: SignedByIdentity, anchors: Iterable[bytes], trusted: Mapping[str, Any]) -> None:
        self._requirement = requirement
        wanted = frozenset(anchors)
        self._authorities = [
            (_period(each), [Certificate(raw) for raw in chain if raw in wanted], [*map(Certificate, chain - wanted)])
            for each in trusted["certificateAuthorities"]
            if (chain := {_raw(one) for one in each["certChain"]["certificates"]})
        ]
        self._logs = [*_logs(trusted["tlogs"])]
        self._certificate_logs = [*_logs(trusted.get("ctlogs", ()))]

    def verify(self, signature: SimpleSignature) -> None:
        """Verify a signature with all that its certificate needs: authority, identity, and the entries of logs.

        :raises InvalidClaim: if it is not acceptable.
        """
        try:
            leaf = Certificate(signature.certificate.encode())
            others = split_certificates(signature.chain.encode())
        except UnusableKey as error:
            raise InvalidClaim(f"the certificate {error}") from None

        if not leaf.key.verifies(signature.signature, signature.payload):
            raise InvalidClaim("the signature is not one by its certificate")

        at = self._recorded(signature, leaf)
        self._check_certificate(leaf, others, at)
        wanted = self._requirement
        if wanted.subject not in leaf.names or wanted.issuer != leaf.issuer:
            found = ", ".join(sorted(leaf.names))[:200] or "no name"
            raise InvalidClaim(f"the certificate is for {found!r}, checked by {leaf.issuer[:200]!r}")

    def _recorded(self, signature: SimpleSignature, leaf: Certificate) -> datetime:
        """Return when a log recorded the signature."""
        content = signature.log_entry, signature.signature, signature.payload

        def check(logs: list[PublicKey]) -> datetime:
            entry, raw, payload = content
            return check_annotation(entry, logs, leaf, raw, payload)

        at = check([log for _, log in self._logs])
        return check([log for period, log in self._logs if _covers(period, at)])

    def _check_certificate(self, leaf: Certificate, others: list[Certificate], at: datetime) -> None:
        issuer = None
        for period, anchors, between in self._authorities:
            if issuer is None and _covers(period, at):
                issuer = leaf.issuer_among(anchors, [*between, *others], at)

        if issuer is None:
            raise InvalidClaim("the certificate is not of the policy's authority")

        if not leaf.may_sign(at):
            raise InvalidClaim("the certificate was not valid for signatures when the log recorded this one")

        if not leaf.is_logged(issuer, [log for period, log in self._certificate_logs if _covers(period, at)]):
            raise InvalidClaim("no certificate log of the trusted root has recorded the certificate")


_Period = tuple[datetime | None, datetime | None]


def _logs(entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[_Period, PublicKey]]:
    """Yield the keys of logs with the periods for which they are valid; those of other kinds are left out."""
    for each in entries:
        try:
            yield _period(each["publicKey"]), key_from_der(_raw(each["publicKey"]))
        except UnusableKey:
            continue


def _raw(table: Mapping[str, Any]) -> bytes:
    return base64.b64decode(table["rawBytes"])


def _period(table: Mapping[str, Any]) -> _Period:
    limits = table.get("validFor", {})
    found = (datetime.fromisoformat(limits[key]).astimezone(UTC) if key in limits else None for key in ("start", "end"))
    start, end = found
    return start, end


def _covers(period: _Period, at: datetime) -> bool:
    start, end = period
    return (start is None or start <= at) and (end is None or at <= end)
