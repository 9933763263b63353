"""Signatures of exports: SSHSIG (openssh, PROTOCOL.sshsig), made and checked by ssh-keygen."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..text import one_line

NAMESPACE = "quaymirror-export"
_SECONDS = 30.0
MAX_BYTES = 64 * 1024


def sign(message: bytes, key: Path) -> bytes:
    """Return the signature of `message` by the private key, or the public one of a key in the agent, at `key`.

    ssh-keygen asks for a passphrase on the terminal.

    :raises ConfigError: if ssh-keygen is not installed, or can't use the key.
    """
    with tempfile.TemporaryDirectory(prefix="quaymirror-") as directory:
        path = Path(directory, "manifest")
        path.write_bytes(message)
        _run(["sign", "-f", str(key), "-n", NAMESPACE, str(path)], f"can't sign with {key}", seconds=None)
        return path.with_suffix(".sig").read_bytes()


def check(message: bytes, signature: bytes, allowed_signers: Path | None) -> str:
    """Return the signer of `message` according to the file `allowed_signers`; "" if it is None.

    Without the file only the signature is checked, by the key in it.

    :raises ConfigError: if ssh-keygen is not installed, the signature is wrong, or its key is not an allowed one.
    """
    with tempfile.TemporaryDirectory(prefix="quaymirror-") as directory:
        path = Path(directory, "manifest.sig")
        path.write_bytes(signature)
        given = ["-n", NAMESPACE, "-s", str(path)]
        if allowed_signers is None:
            _run(["check-novalidate", *given], "the signature is wrong", message)
            return ""

        known = ["-f", str(allowed_signers)]
        reason = f"its signer is not in {allowed_signers}"
        found = _run(["find-principals", *known, "-s", str(path)], reason).splitlines()
        if not found:
            raise ConfigError(reason)

        _run(["verify", *known, *given, "-I", found[0]], "the signature is wrong", message)
        return found[0]


def _run(arguments: Sequence[str], problem: str, message: bytes = b"", *, seconds: float | None = _SECONDS) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ConfigError("ssh-keygen is not installed: signatures need it (package openssh-client)")

    try:
        # The file of allowed signers and the key are the user's own; everything else has a fixed name.
        done = subprocess.run(  # noqa: S603
            [program, "-Y", *arguments], input=message, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{problem}: ssh-keygen does not answer") from None

    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(f"{problem}{': ' + one_line(lines[-1]) if lines else ''}")

    return done.stdout.decode(errors="replace")
