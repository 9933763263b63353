"""Secrets as values that no log, error or file can show by accident.

They are revealed only where a header or a form is built.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import field
from typing import Final, NoReturn

from .errors import ConfigError
from .values import dataclass, pattern

__all__ = ["Credentials", "Secret"]

_IDENTITY_TOKEN: Final = "<token>"  # noqa: S105  docker's user name for an OAuth2 refresh token

# C0, DEL and C1; and lone surrogates, which no encoding can send.
_FORBIDDEN = pattern("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HEADER_SAFE = pattern(r"[\x20-\x7e]+")


class Secret:
    """A text that is never shown: `str`, `repr` and `format` are `***`; it can't be pickled, hashed or put in JSON.

    Any text without control characters is valid, since passwords are UTF-8 in base64. `header_value` returns a text
    that is a header by itself (a bearer token), which has to be printable ASCII.

    :raises ConfigError: for an empty text, a control character, or a lone surrogate. `what` names it in the message.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str, *, what: str = "a secret") -> None:
        if not value:
            raise ConfigError(f"{what} is empty")

        if _FORBIDDEN.search(value):
            raise ConfigError(f"{what} contains a control character or is not valid text")

        self.__value = value

    def reveal(self) -> str:
        """Return the text itself, for the code that sends it."""
        return self.__value

    def header_value(self) -> str:
        """Return the text itself, safe as the value of a header.

        :raises ConfigError: if it contains anything but printable ASCII.
        """
        if not _HEADER_SAFE.fullmatch(self.__value):
            raise ConfigError("a token contains characters that can't be sent in a header")

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
    """The identity of the user at one registry: a user name with a password, or an identity token.

    `source` names the place they were found in, for messages.

    :raises ConfigError: for a user name that is empty or contains `:` (RFC 7617) or a control character.
    """

    username: str
    secret: Secret
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.username or ":" in self.username or _FORBIDDEN.search(self.username):
            raise ConfigError("a user name is empty, or contains ':' or a control character")

    def __str__(self) -> str:
        name = "the identity token" if self.is_identity_token else f"the credentials of {self.username!r}"
        return f"{name} ({self.source})" if self.source else name

    @classmethod
    def identity_token(cls, token: Secret, *, source: str = "") -> Credentials:
        """Return the credentials for `token`, an OAuth2 refresh token."""
        return cls(_IDENTITY_TOKEN, token, source)

    @property
    def is_identity_token(self) -> bool:
        """True if the secret is an OAuth2 refresh token, which is exchanged at the token service, and no password."""
        return self.username == _IDENTITY_TOKEN

    def basic(self) -> Secret:
        """Return the value of an `Authorization` header: `Basic base64(user:password)`, UTF-8 (RFC 7617).

        :raises ConfigError: for an identity token, which is not a password and must not be sent as one.
        """
        if self.is_identity_token:
            raise ConfigError(f"{self} can't be used as a password")

        pair = f"{self.username}:{self.secret.reveal()}".encode()
        return Secret(f"Basic {base64.b64encode(pair).decode()}")


def decoded_basic(scheme: str, value: str) -> tuple[str, ...]:
    """Return the password in the value of a `Basic` header; of other schemes nothing."""
    if scheme.lower() != "basic":
        return ()

    try:
        return (base64.b64decode(value).decode().partition(":")[2],)
    except ValueError:
        return ()
