"""Signatures by GPG keys, as skopeo and podman keep them in a lookaside."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from peers import require

from quaymirror.oci import Digest

KIND = "atomic container signature"


def make_key(home: Path, name: str) -> None:
    """Make the key of NAME@example.com in a GPG home, and write its public key to NAME.asc and NAME.gpg."""
    words = (f"{name}@example.com", "ed25519", "sign", "never")
    gpg(home, "--batch", "--passphrase", "", "--quick-generate-key", *words)
    (home / f"{name}.asc").write_bytes(gpg(home, "--armor", "--export", f"{name}@example.com"))
    (home / f"{name}.gpg").write_bytes(gpg(home, "--export", f"{name}@example.com"))


def gpg(home: Path, *words: str, content: bytes = b"") -> bytes:
    command = [require("gpg"), "--homedir", str(home), "--quiet", *words]
    return subprocess.run(command, input=content, capture_output=True, check=True, timeout=30).stdout


def message(home: Path, signer: str, name: str, digest: Digest, kind: str = KIND) -> bytes:
    """Return what skopeo stores in a lookaside."""
    critical = {
        "type": kind,
        "image": {"docker-manifest-digest": str(digest)},
        "identity": {"docker-reference": name},
    }
    payload = json.dumps({"critical": critical, "optional": {"creator": "test"}}).encode()
    return gpg(home, "--local-user", f"{signer}@example.com", "--sign", content=payload)


def requirement(home: Path, *keys: str) -> dict[str, object]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyPaths": [str(home / key) for key in keys]}
