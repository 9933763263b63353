"""Tokens for several scopes: one a subject, widened when more is needed, renewed before they expire."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.lowlevel
import pytest

from quaymirror.auth.tokens import TokenAuth
from quaymirror.errors import AccessDenied, CredentialsRefused, Unavailable
from quaymirror.http.origin import Origin
from quaymirror.secret import Credentials, Secret

CHALLENGE = ['Bearer realm="https://r.example/auth",service="r.example"']


class Service:
    """A token service that records its requests."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.refuses: set[str] = set()
        self.outages = 0
        self.now = 0.0
        self.auth = TokenAuth(
            Origin.of("https://r.example"), ask=self.ask, find_credentials=self.find, clock=lambda: self.now
        )

    async def ask(self, url: str, authorization: Secret | None, form: Secret | None) -> bytes:
        scopes = parse_qs(urlsplit(url).query).get("scope", [])
        self.asked.append(scopes)
        await anyio.lowlevel.checkpoint()
        if self.outages:
            self.outages -= 1
            raise Unavailable("502", status=502)

        if self.refuses & set(scopes):
            raise AccessDenied("403", status=403)

        return json.dumps({"token": f"token-{len(self.asked)}", "expires_in": 300}).encode()

    async def find(self) -> Credentials | None:
        return Credentials("me", Secret("password"))

    async def request(self, scope: str) -> str:
        """Handle one request as a client does, and return the final header."""
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
    assert sorted(service.asked[1]) == ["repository:a:pull", "repository:b:pull,push", "repository:c:pull"]
    for scope in ("repository:b:pull,push", "repository:b:pull,push repository:a:pull"):
        assert await service.request(scope) == "Bearer token-2"

    assert len(service.asked) == 2


async def test_a_token_is_renewed_before_it_expires() -> None:
    service = Service()
    assert await service.request("repository:b:pull") == "Bearer token-1"
    service.now = 290
    assert await service.request("repository:b:pull") == "Bearer token-2"


async def test_requests_that_wait_for_a_token_share_one() -> None:
    service = Service()
    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(service.request, f"repository:{number}:pull")

    assert [len(scopes) for scopes in service.asked] == [16] or [len(scopes) for scopes in service.asked] == [1, 15]


async def test_one_token_is_not_for_more_than_a_header_can_hold() -> None:
    service = Service()
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(service.request, f"repository:{number}:pull,push repository:shared:pull")

    assert max(len(scopes) for scopes in service.asked) <= 30
    assert len(service.asked) < 12


async def test_a_scope_that_is_refused_is_the_trouble_of_who_wanted_it() -> None:
    service = Service()
    service.refuses = {"repository:3:pull"}
    sent: list[int] = []

    async def request(number: int) -> None:
        if number == 3:
            with pytest.raises(CredentialsRefused):
                await service.request("repository:3:pull")
        else:
            await service.request(f"repository:{number}:pull")
            sent.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(request, number)

    assert sorted(sent) == [0, 1, 2, 4, 5, 6, 7]


async def test_a_failed_request_for_a_token_takes_no_scope_from_those_that_wait_for_the_same_one() -> None:
    """A token without scopes would be refused, and a repository called private that is not."""
    service = Service()
    service.outages = 1
    sent: list[str] = []

    async def request() -> None:
        try:
            sent.append(await service.request("repository:b:pull"))
        except Unavailable:
            sent.append("")

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(request)

    assert service.asked == [["repository:b:pull"]] * 2
    assert sorted(sent) == ["", *["Bearer token-2"] * 3]
