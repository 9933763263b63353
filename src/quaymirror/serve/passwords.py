"""Users and passwords of an htpasswd file (bcrypt only), read again when it changes. The only importer of bcrypt."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections import OrderedDict
from pathlib import Path

import anyio
import anyio.to_thread
import bcrypt

from ..errors import ConfigError, StoreError
from ..store.fsops import read_file

_MAX_FILE_BYTES = 4 * 1024 * 1024
_HASH = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}")
# At a cost of 16 one password takes seconds.
_MAX_COST = 15
# bcrypt uses no more bytes of a password, as htpasswd does.
_MAX_PASSWORD_BYTES = 72
_REMEMBERED = 1024
# Checks take a tenth of a second of a core each: wrong passwords must not keep all of them busy.
_CHECKS = 2
# That of an unknown user takes as long as that of a known one.
_NO_HASH = "$2b$10$CwTycUXWue0Thq9StjUM0uJ8n8tJ4q5uH8Yb2m0l7m5uXG3Q9c4yK"


class PasswordFile:
    """The users of an htpasswd file."""

    def __init__(self, path: Path) -> None:
        """Read the file at `path`.

        :raises ConfigError: if it can't be read, has no users, or has other hashes than bcrypt's.
        """
        self._path = path
        self._users: dict[str, str] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._limit = anyio.CapacityLimiter(_CHECKS)
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it has changed; return True if it was read.

        :raises ConfigError: if it can't be read or used; the earlier users stay.
        """
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return False

            self._stamp = stamp
            text = (read_file(self._path, _MAX_FILE_BYTES) or b"").decode()
        except (OSError, StoreError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read the users in {self._path}: {error}") from None

        self._users = _parse(text, self._path)
        self._right.clear()
        return True

    async def accepts(self, authorization: str) -> bool:
        """Return True if the header Authorization has the name and the password of a user."""
        given = _basic(authorization)
        if given is None:
            return False

        user, password = given
        known = self._users.get(user, "")
        proof = hashlib.blake2b(b"\0".join((user.encode(), known.encode(), password)), key=self._key).digest()
        if proof in self._right:
            self._right.move_to_end(proof)
            return True

        matches = await anyio.to_thread.run_sync(_matches, password, known or _NO_HASH, limiter=self._limit)
        if not matches or not known:
            return False

        self._right[proof] = None
        if len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)

        return True


def _parse(text: str, path: Path) -> dict[str, str]:
    users = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue

        user, colon, hashed = entry.partition(":")
        match = _HASH.fullmatch(hashed)
        if not user or not colon or match is None:
            raise ConfigError(f"{path}, line {number}: not a user with a bcrypt hash: use htpasswd -B")

        if int(match["cost"]) > _MAX_COST:
            raise ConfigError(f"{path}, line {number}: a bcrypt cost above {_MAX_COST} takes seconds per request")

        users[user] = hashed

    if not users:
        raise ConfigError(f"{path} has no users: add one with htpasswd -B")

    return users


def _basic(authorization: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None

    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None


def _matches(password: bytes, hashed: str) -> bool:
    try:
        return bcrypt.checkpw(password[:_MAX_PASSWORD_BYTES], hashed.encode())
    except ValueError:
        return False
