"""Secrets in memory: values that no log, error or file can show by accident, and the doors they come in by.

The rules are R7 and R8 of the credential rules: small regular files, no control characters, unwrapped only where a
header or a form is built. An error here is raised after the handler that saw the trouble has ended, so that not even
`__context__` (a `UnicodeDecodeError` holds all it was given) carries a secret along.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from .errors import ConfigError

__all__ = [
    "Credentials",
    "Secret",
    "SmallFile",
    "read_secret_file",
    "read_secret_stdin",
    "read_small_file",
    "unreadable",
]

SECRET_LIMIT: Final = 64 * 1024
_IDENTITY_TOKEN: Final = "<token>"  # noqa: S105  docker's user name that says the secret is an OAuth2 refresh token

# C0, DEL and C1; and lone surrogates, which no encoding can send.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HEADER_SAFE = re.compile(r"[\x20-\x7e]+")


class Secret:
    """A text that must not be seen: `str`, `repr` and `format` are `***`; it can't be pickled, hashed or put in JSON.

    Any text without control characters is fine, since passwords are UTF-8 that travels in base64. What goes into a
    header as it is (a bearer token) is taken with `header_value`, which wants printable ASCII.

    :raises ConfigError: for an empty text, a control character, or a lone surrogate. `what` names it in the message.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str, *, what: str = "a secret") -> None:
        if not value:
            raise ConfigError(f"{what} is empty")

        if _FORBIDDEN.search(value):
            raise ConfigError(f"{what} holds a control character or is no valid text")

        self.__value = value

    def reveal(self) -> str:
        """Return the text itself, for the one place that sends it."""
        return self.__value

    def header_value(self) -> str:
        """Return the text itself, safe to be a header's value as it is.

        :raises ConfigError: if it holds anything but printable ASCII.
        """
        if not _HEADER_SAFE.fullmatch(self.__value):
            raise ConfigError("a token holds characters that can't be sent in a header")

        return self.__value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented

        return hmac.compare_digest(self.__value.encode(), other.__value.encode())

    def __repr__(self) -> str:
        return "***"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret can't be pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to one registry: a user name with a password, or an identity token.

    :raises ConfigError: for a user name that is empty or holds `:` (RFC 7617) or a control character.
    """

    username: str
    secret: Secret

    def __post_init__(self) -> None:
        if not self.username or ":" in self.username or _FORBIDDEN.search(self.username):
            raise ConfigError("a user name is empty, or holds ':' or a control character")

    @classmethod
    def identity_token(cls, token: Secret) -> Credentials:
        """Return the credentials that `token`, an OAuth2 refresh token, is."""
        return cls(_IDENTITY_TOKEN, token)

    @property
    def is_identity_token(self) -> bool:
        """Whether the secret is an OAuth2 refresh token, to be POSTed to the token service, and no password."""
        return self.username == _IDENTITY_TOKEN

    def basic(self) -> Secret:
        """Return the value of an `Authorization` header: `Basic base64(user:password)`, UTF-8 (RFC 7617).

        :raises ConfigError: for an identity token: it is no password, and must not be sent as one.
        """
        if self.is_identity_token:
            raise ConfigError("an identity token can't be used as a password")

        pair = f"{self.username}:{self.secret.reveal()}".encode()
        return Secret(f"Basic {base64.b64encode(pair).decode()}")


@dataclass(frozen=True, slots=True, repr=False)
class SmallFile:
    """What a small regular file held, and whether others than its owner may read it."""

    data: bytes
    is_exposed: bool


def read_secret_file(path: Path, *, on_notice: Callable[[str], None] | None = None) -> Secret:
    """Return the secret that is all of the file at `path`; one newline at its end does not count.

    `on_notice` gets a line for a person when group or others can read the file.

    :raises ConfigError: naming the file, never its content: not there, not a regular file, over 64 KiB, not UTF-8,
        empty, or with control characters.
    """
    try:
        file = read_small_file(path, limit=SECRET_LIMIT)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None

    if file.is_exposed and on_notice is not None:
        on_notice(f"{str(path)!r} holds a secret and can be read by others than its owner: chmod 600")

    return _parse_secret(file.data, f"the secret in {str(path)!r}")


def read_secret_stdin(stream: BinaryIO) -> Secret:
    """Return the secret that is all of `stream`, under the rules of `read_secret_file`.

    :raises ConfigError: can't be read, over 64 KiB, not UTF-8, empty, or with control characters.
    """
    try:
        data = stream.read(SECRET_LIMIT + 1)
    except (OSError, ValueError):
        raise ConfigError("can't read a secret from standard input") from None

    if len(data) > SECRET_LIMIT:
        raise ConfigError(f"the secret on standard input is larger than {SECRET_LIMIT} bytes")

    return _parse_secret(data, "the secret on standard input")


def read_small_file(path: Path, *, limit: int) -> SmallFile:
    """Return the content of the regular file at `path`, whole. It never waits: a FIFO is refused, not opened for long.

    :raises OSError: if it can't be opened or read; ValueError for a path that no file can have.
    :raises ConfigError: if it is not a regular file, or larger than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{str(path)!r} is not a regular file")

        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)

    if len(data) > limit:
        raise ConfigError(f"{str(path)!r} is larger than {limit} bytes")

    return SmallFile(data, is_exposed=bool(mode & (stat.S_IRWXG | stat.S_IRWXO)))


def unreadable(path: Path, error: OSError | ValueError) -> ConfigError:
    """Return the error for a file that can't be opened or read."""
    reason = (error.strerror or "I/O error") if isinstance(error, OSError) else "no valid path"
    return ConfigError(f"can't read {str(path)!r}: {reason}")


def _parse_secret(data: bytes, what: str) -> Secret:
    # An undecodable byte becomes a lone surrogate, which Secret refuses: no UnicodeDecodeError is ever made.
    text = data.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
    return Secret(text, what=what)
