"""Challenges, answers of token services, and claims of tokens: pure parsing (RFC 9110, 11.6.1; RFC 6749; RFC 7519)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, NamedTuple, TypeGuard

from ..errors import Unavailable
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass, pattern

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Of a list that is separated by commas: a scheme with its first parameter or its token, or a further parameter.
_ELEMENT = pattern(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_SCHEME = pattern(rf"({_WORD})(?:\s+(.*))?")
_PARAMETER = pattern(rf'({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",]+)')
_MAX_CHALLENGE = 8 * 1024
_MAX_ANSWER = 64 * 1024

# The token specification's default when nothing is said; less than 30 s is not worth having, an hour is trust enough.
_DEFAULT_LIFETIME = 60.0
_MIN_LIFETIME, _MAX_LIFETIME = 30.0, 3600.0


@dataclass(frozen=True, slots=True)
class Challenge:
    """One authentication scheme a server offers: `bearer` or `basic`, in lower case, with its parameters."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(fields: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all `WWW-Authenticate` fields; what doesn't follow the grammar is left out."""
    return [challenge for value in fields for challenge in _challenges(value[:_MAX_CHALLENGE])]


def _challenges(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    for element in _ELEMENT.findall(text):
        parameter = _PARAMETER.fullmatch(element.strip())
        if parameter is None and (scheme := _SCHEME.fullmatch(element.strip())):
            found.append((scheme[1].lower(), {}))
            parameter = _PARAMETER.fullmatch(scheme[2] or "")

        if parameter is not None and found:
            found[-1][1][parameter[1].lower()] = _unquoted(parameter[2])

    # These go into URLs and messages; bytes that were no UTF-8 are half characters by now.
    return [
        Challenge(scheme, parameters)
        for scheme, parameters in found
        if all(value.isprintable() for value in parameters.values())
    ]


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


class TokenAnswer(NamedTuple):
    """The answer of a token service: a token, its lifetime in seconds, and a new identity token, if it sent one."""

    token: str
    lifetime: float
    refresh_token: str | None = None


def parse_token(body: bytes) -> TokenAnswer:
    """Return the content of a token service's answer.

    Quay sends only `{"token": …}`: the lifetime is then read from the token, which is a JWT.

    :raises Unavailable: if it contains no usable token.
    """
    try:
        fields = parse_object(body, limit=_MAX_ANSWER, nan_is_text=True)
    except InvalidDocument as error:
        raise Unavailable(f"the answer of the token service {error}") from None

    token = fields.get("token") or fields.get("access_token")
    if not _is_printable(token):
        raise Unavailable("the token service answered without a usable token")

    refresh = fields.get("refresh_token")
    lifetime = _lifetime(fields.get("expires_in"), token)
    return TokenAnswer(token, lifetime, refresh if _is_printable(refresh) else None)


def _is_printable(token: object) -> TypeGuard[str]:
    return isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token) is not None


def _lifetime(expires_in: object, token: str) -> float:
    seconds = _number(expires_in)
    return min(_MAX_LIFETIME, max(_MIN_LIFETIME, _jwt_lifetime(token) if seconds is None else seconds))


def sort_by_grant(token: str, scopes: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return those of `scopes`, such as `repository:kolla/nova:pull`, that `token` says it allows, and does not allow.

    A token service without rights to grant issues a token without rights. Not every token can be read: then both are
    empty.
    """
    access = _claims(token).get("access")
    if not isinstance(access, list):
        return frozenset(), frozenset()

    granted = frozenset(scope for scope in scopes if any(_allows(entry, scope) for entry in access))
    return granted, frozenset(scopes) - granted


def _allows(entry: object, scope: str) -> bool:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return (
        isinstance(entry, dict)
        and (entry.get("type"), entry.get("name")) == (kind, name)
        and isinstance(entry.get("actions"), list)
        and all(action in entry["actions"] for action in actions.split(","))
    )


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT, nothing for other tokens. They are not verified, so they only support guesses."""
    try:
        payload = token.split(".")[1]
        return parse_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), limit=_MAX_ANSWER)
    except (IndexError, ValueError):
        return {}


def _jwt_lifetime(token: str) -> float:
    """Return `exp - iat`: both are times of the server, so that our clock doesn't matter (RFC 7519, 4.1)."""
    claims = _claims(token)
    issued, expires = _number(claims.get("iat", claims.get("nbf"))), _number(claims.get("exp"))
    return _DEFAULT_LIFETIME if issued is None or expires is None else expires - issued


def _number(value: object) -> float | None:
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
    return float(value) if sensible else None  # type: ignore[arg-type]
