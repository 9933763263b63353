"""Chains of certificates, made by openssl."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from signing import openssl, private_key

from quaymirror.trust.keys import Certificate, UnusableKey, split_certificates

NOW = datetime.now(UTC) + timedelta(hours=1)
AUTHORITY = "basicConstraints=critical,CA:true,pathlen:1\nkeyUsage=critical,keyCertSign\n"
LIMITED = AUTHORITY.replace("pathlen:1", "pathlen:0")
LEAF = (
    "keyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\nsubjectAltName=critical,email:dev@example.com\n"
    "1.3.6.1.4.1.57264.1.1=ASN1:FORMAT:UTF8,UTF8:https://plain.example\n"
    "1.3.6.1.4.1.57264.1.8=ASN1:UTF8:https://issuer.example\n"
)


def make(place: Path, name: str, key: str, extensions: str, issuer: tuple[str, str] | None = None) -> Certificate:
    """Return a certificate, signed by `issuer`, its name and the name of its key, or by itself."""
    request, extra, out = (place / f"{name}.{end}" for end in ("csr", "ext", "pem"))
    extra.write_text(extensions)
    openssl("req", "-new", "-key", private_key(key), "-subj", f"/CN={name}", "-out", request)
    by = ("-signkey", private_key(key))
    if issuer is not None:
        by = ("-CA", place / f"{issuer[0]}.pem", "-CAkey", private_key(issuer[1]), "-CAcreateserial")  # type: ignore[assignment]

    openssl("x509", "-req", "-in", request, *by, "-days", "2", "-extfile", extra, "-out", out)
    return Certificate(out.read_bytes())


def test_a_chain_leads_to_an_anchor_over_an_authority_in_between_while_all_are_valid(tmp_path: Path) -> None:
    root = make(tmp_path, "root", "p256", AUTHORITY)
    between = make(tmp_path, "between", "p384", LIMITED, ("root", "p256"))
    leaf = make(tmp_path, "leaf", "rsa", LEAF, ("between", "p384"))
    found = leaf.issuer_among([root], [between], NOW)
    assert found is not None
    assert found.der == between.der
    assert leaf.may_sign(NOW)
    assert leaf.names == {"dev@example.com"}
    assert leaf.issuer_among([root], [], NOW) is None
    assert leaf.issuer_among([between], [], NOW) is not None
    later = NOW + timedelta(days=3)
    assert leaf.issuer_among([root], [between], later) is None
    assert not leaf.may_sign(later)


def test_only_an_authority_with_room_below_it_issues_certificates(tmp_path: Path) -> None:
    root = make(tmp_path, "root", "p256", LIMITED)
    between = make(tmp_path, "between", "p384", AUTHORITY, ("root", "p256"))
    leaf = make(tmp_path, "leaf", "rsa", LEAF, ("between", "p384"))
    assert leaf.issuer_among([root], [between], NOW) is None
    below = make(tmp_path, "below", "other", LEAF, ("leaf", "rsa"))
    assert below.issuer_among([leaf], [], NOW) is None
    assert not between.may_sign(NOW)


def test_an_issuer_that_is_named_in_two_ways_is_none(tmp_path: Path) -> None:
    assert make(tmp_path, "leaf", "p256", LEAF).issuer == ""
    assert make(tmp_path, "one", "p256", LEAF.replace("57264.1.1=", "57264.1.99=")).issuer == "https://issuer.example"


def test_a_critical_extension_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, "root", "p256", AUTHORITY)
    leaf = make(tmp_path, "leaf", "rsa", LEAF + "1.2.3.4=critical,ASN1:NULL\n", ("root", "p256"))
    assert leaf.issuer_among([root], [], NOW) is None


def test_what_is_no_certificate_is_refused() -> None:
    assert split_certificates(b"  ") == []
    for content in (b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(UnusableKey, match="not a certificate"):
            Certificate(content)
