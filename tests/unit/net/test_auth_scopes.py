"""Tokens for several scopes: one a subject, widened when more is needed, renewed before they expire."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

from quaymirror.net.auth import TokenAuth
from quaymirror.net.origin import Origin
from quaymirror.net.secret import Credentials, Secret

CHALLENGE = ['Bearer realm="https://r.example/auth",service="r.example"']


class Service:
    """A token service that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.now = 0.0
        self.auth = TokenAuth(
            Origin.of("https://r.example"), ask=self.ask, find_credentials=self.find, clock=lambda: self.now
        )

    async def ask(self, url: str, authorization: Secret | None) -> bytes:
        self.asked.append(parse_qs(urlsplit(url).query).get("scope", []))
        return json.dumps({"token": f"token-{len(self.asked)}", "expires_in": 300}).encode()

    async def find(self) -> Credentials | None:
        return Credentials("me", Secret("password"))

    async def request(self, scope: str) -> str:
        """Do what a client does for one request, and return what it sends in the end."""
        header = await self.auth.header(scope)
        if header is None:
            assert await self.auth.challenged(CHALLENGE, scope, None)
            header = await self.auth.header(scope)

        assert header is not None
        return header.reveal()


async def test_several_scopes_are_asked_for_at_once_one_parameter_each() -> None:
    service = Service()
    await service.request("repository:b:pull,push repository:a:pull")
    assert service.asked == [["repository:b:pull,push", "repository:a:pull"]]


async def test_a_token_is_asked_for_once_a_scope() -> None:
    service = Service()
    sent = {await service.request("repository:b:pull,push") for _ in range(5)}
    assert len(sent) == len(service.asked) == 1


async def test_a_token_that_is_not_enough_is_widened_and_keeps_what_it_had() -> None:
    service = Service()
    await service.request("repository:b:pull,push repository:a:pull")
    await service.request("repository:b:pull,push repository:c:pull")
    assert service.asked[1] == ["repository:b:pull,push", "repository:c:pull", "repository:a:pull"]
    for scope in ("repository:b:pull,push", "repository:b:pull,push repository:a:pull"):
        assert await service.request(scope) == "Bearer token-2"

    assert len(service.asked) == 2


async def test_a_token_is_renewed_before_it_expires() -> None:
    service = Service()
    assert await service.request("repository:b:pull") == "Bearer token-1"
    service.now = 290
    assert await service.request("repository:b:pull") == "Bearer token-2"
