"""Signatures by GPG keys (simple signing), verified by gpgv, which trusts exactly the keys it is given."""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from .payload import MAX_PAYLOAD_BYTES, InvalidClaim
from .requirements import KeyFile

_ARMOR = re.compile(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)
_TIMEOUT_SECONDS = 30
# A signature that one of these is said of is good, but does not count: an expired or revoked key.
_BAD = ("EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG")


def verify_message(message: bytes, keyrings: Sequence[KeyFile]) -> tuple[bytes, str]:
    """Return the content of a signed message, and the fingerprint of the key that signed it.

    :raises InvalidClaim: if it is not signed by one of the keys.
    :raises ConfigError: if gpgv is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="quaymirror-") as directory:
        keyring, signed, content = (Path(directory, name) for name in ("keys", "message", "content"))
        keyring.write_bytes(b"".join(_binary(each.content) for each in keyrings))
        signed.write_bytes(message)
        command = ["gpgv", "--homedir", directory, "--status-fd", "1", "--keyring", str(keyring)]
        try:
            result = subprocess.run(  # noqa: S603 - the message and the keys are files that it only reads
                [*command, "--output", str(content), str(signed)],
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise ConfigError("signedBy needs gpgv: install it (package gpgv)") from None
        except subprocess.TimeoutExpired:
            raise InvalidClaim("gpgv did not end in time") from None

        fingerprint = _signer(result.stdout, result.returncode)
        with content.open("rb") as file:
            return file.read(MAX_PAYLOAD_BYTES + 1), fingerprint


def check_keyring(keyring: KeyFile) -> None:
    """Raise `ConfigError` if `keyring` has no keys."""
    if not _binary(keyring.content):
        raise ConfigError(f"{keyring.label}: not a file of GPG public keys")


def _signer(status: bytes, code: int) -> str:
    lines = [line.split() for line in status.decode("ascii", "replace").splitlines() if line.startswith("[GNUPG:] ")]
    words = [line[1] for line in lines if len(line) > 1]
    signers = [line[2] for line in lines if len(line) > 2 and line[1] == "VALIDSIG"]
    if "NO_PUBKEY" in words:
        raise InvalidClaim("signed by another key")

    if code or words.count("GOODSIG") != 1 or len(signers) != 1 or any(word in words for word in _BAD):
        bad = next((word for word in words if word in _BAD), "")
        raise InvalidClaim("the key is expired or revoked" if bad in _BAD[1:3] else "the signature is not valid")

    return signers[0]


def _binary(content: bytes) -> bytes:
    """Return keys without their armor, which gpgv does not read."""
    blocks = _ARMOR.findall(content)
    if not blocks:
        return content if content[:1] >= b"\x80" else b""

    return b"".join(map(_unarmored, blocks))


def _unarmored(block: bytes) -> bytes:
    lines = [line.strip() for line in block.strip(b"\r\n").splitlines()]
    start = next((number + 1 for number, line in enumerate(lines) if not line), 0)
    lines = [line for line in lines[start:] if line and not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        return b""
