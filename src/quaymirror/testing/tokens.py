"""Quay's registry tokens: ``/v2/auth`` gives them out, ``/v2/...`` looks at them.

They are JWTs as the distribution project's token specification has them, signed with HS256 so that no cryptography
library is needed; clients must not look at the signature anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from quaymirror.testing.messages import Answer, Request, compact_json, html, method_not_allowed, registry_error
from quaymirror.testing.organization import User
from quaymirror.testing.site import Site

LEEWAY_S = 30
ANONYMOUS = "(anonymous)"

_SCOPE = re.compile(r"repository:([^:\s]+):((?:push|pull|\*)(?:,(?:push|pull|\*))*)")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/[a-z0-9][a-z0-9._-]*)+")
_MAX_NAME_LENGTH = 255


class BadToken(Exception):
    """A bearer token that Quay refuses, with the words it uses."""


class _BadCredentials(Exception):
    """Credentials for ``/v2/auth`` that Quay refuses."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights of a token: the repositories its ``access`` claim lists with ``pull``, on behalf of ``subject``."""

    subject: str
    pullable: frozenset[str]


class Tokens:
    """The token endpoint and the check of its tokens."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def answer(self, request: Request) -> Answer:
        """Answer ``/v2/auth``."""
        if request.method == "POST" and self._site.registry.identity_tokens:
            return self._exchange(request)
        if not request.is_read:
            return method_not_allowed()
        scopes = [scope for scope in request.query.getall("scope", []) if scope]
        try:
            principal = self._principal(request.headers.get("Authorization", ""))
        except _BadCredentials as problem:
            return self.unauthorized(str(problem))
        if principal is None and not scopes:
            return self.unauthorized()
        return self._grant(principal, scopes, request.query.get("service"))

    def _exchange(self, request: Request) -> Answer:
        """Answer an OAuth2 exchange of an identity token (token specification, "OAuth2")."""
        form = dict(parse_qsl(request.body.decode(errors="replace")))
        account = self._site.registry.identity_tokens.get(form.get("refresh_token", ""))
        if form.get("grant_type") != "refresh_token" or account is None or not form.get("client_id"):
            return compact_json({"error": "invalid_grant"}, 400)
        answer = self._grant(account, form.get("scope", "").split(), form.get("service"))
        if answer.status != 200 or not isinstance(answer.body, bytes):
            return answer
        token = json.loads(answer.body)["token"]
        return compact_json({"access_token": token, "scope": form.get("scope", ""), "expires_in": 300})

    def unauthorized(
        self, message: str = "access to the requested resource is not authorized", name: str = ""
    ) -> Answer:
        """Return a 401 with the challenge for pulling *name*."""
        return registry_error(401, "UNAUTHORIZED", message).with_headers(self.challenge(name))

    def bad_token(self, problem: BadToken, name: str) -> Answer:
        """Return the 401 for a token that can't be accepted: JSON that calls itself HTML."""
        answer = html(json.dumps({"error": str(problem)}), 401)
        return answer.with_headers(self.challenge(name))

    def challenge(self, name: str = "") -> dict[str, str]:
        """Return the headers of a 401 (distribution-spec, "Authentication"), with a scope if *name* is a repository."""
        scope = f',scope="repository:{name}:pull"' if name else ""
        return {
            "WWW-Authenticate": f'Bearer realm="{self._site.url}/v2/auth",service="{self._site.host}"{scope}',
            "Docker-Distribution-API-Version": "registry/2.0",
        }

    def grant_of(self, request: Request) -> Grant | None:
        """Return the rights of the request's token, None if it has none.

        Raises:
            BadToken: its token is not valid, or no longer.
        """
        authorization = request.headers.get("Authorization")
        if not authorization:
            return None
        claims = self._claims(authorization)
        entries = claims["access"]
        return Grant(claims["sub"], frozenset(entry["name"] for entry in entries if "pull" in entry["actions"]))

    def _claims(self, authorization: str) -> dict[str, Any]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or " " in token:
            raise BadToken("Invalid bearer token format")
        claims = self._decode(token)
        if claims.get("aud") is None:
            raise BadToken('Token is missing the "aud" claim')
        if claims["aud"] != self._site.host:
            raise BadToken("Invalid audience")
        if claims["exp"] + LEEWAY_S < self._site.now():
            raise BadToken("Signature has expired")
        return claims

    def _decode(self, token: str) -> dict[str, Any]:
        signed, _, signature = token.rpartition(".")
        if token.count(".") != 2 or not hmac.compare_digest(self._signature(signed), signature):
            raise BadToken("Signature verification failed")
        claims: dict[str, Any] = json.loads(_unbase64(signed.partition(".")[2]))
        return claims

    def _principal(self, authorization: str) -> str | None:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as problem:
            raise _BadCredentials("Invalid basic auth header") from problem
        return self._log_in(user, password)

    def _log_in(self, user: str, password: str) -> str:
        registry = self._site.registry
        if user == "$oauthtoken":
            token = registry.valid_oauth_token(password)
            if token is None:
                raise _BadCredentials("OAuth access token could not be validated")
            return token.user
        if "+" in user:
            robot = registry.robots.get(user)
            if robot is None or robot.token != password:
                raise _BadCredentials(f"Could not find robot with username: {user} and supplied password.")
            return user
        account = registry.namespaces.get(user)
        if not isinstance(account, User) or account.password != password:
            raise _BadCredentials("Invalid Username or Password")
        return user

    def _grant(self, principal: str | None, scopes: list[str], service: str | None) -> Answer:
        access = []
        for scope in scopes:
            found = _SCOPE.fullmatch(scope)
            if found is None:
                return registry_error(400, "INVALID_REQUEST", f"Unable to decode repository and actions: {scope}")
            name, actions = found.groups()
            if not is_repository_name(name):
                return registry_error(400, "NAME_INVALID", f"Invalid repository name: {name}")
            access.append({"type": "repository", "name": name, "actions": self._actions(principal, name, actions)})
        token = self._issue(principal, access, service)
        return compact_json({"token": token}).with_headers({"Cache-Control": "no-cache, no-store, must-revalidate"})

    def _actions(self, principal: str | None, name: str, asked: str) -> list[str]:
        """Return the granted ones of the *asked* actions. This server takes no pushes, so it never grants them."""
        repo = self._site.registry.find(name)
        readable = repo is not None and (repo.is_public or self._site.registry.may_read(principal, repo))
        return ["pull"] if readable and not {"pull", "*"}.isdisjoint(asked.split(",")) else []

    def _issue(self, principal: str | None, access: list[dict[str, Any]], service: str | None) -> str:
        now = int(self._site.now())
        roots = {entry["name"]: "$disabled" for entry in access}
        claims = {
            "iss": "quay",
            "aud": service,
            "nbf": now,
            "iat": now,
            "exp": now + int(self._site.token_lifetime),
            "sub": principal or ANONYMOUS,
            "access": access,
            "context": {"com.apostille.roots": roots, "com.apostille.root": "$disabled"},
        }
        signed = f"{_base64({'alg': 'HS256', 'typ': 'JWT'})}.{_base64(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def _signature(self, signed: str) -> str:
        digest = hmac.new(self._site.key, signed.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_repository_name(name: str) -> bool:
    """Return whether *name* (with its namespace) is legal at Quay."""
    return len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def _base64(document: object) -> str:
    encoded = json.dumps(document, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(encoded).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
