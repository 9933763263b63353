"""The contract of an authorizer, checked for every implementation."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from quaymirror.auth.namespaces import ByNamespace
from quaymirror.auth.tokens import TokenAuth
from quaymirror.errors import AccessDenied, CredentialsRefused
from quaymirror.http.authorizer import Authorizer, Fixed
from quaymirror.http.origin import Origin
from quaymirror.secret import Credentials, Secret

SCOPE, OTHER = "repository:kolla/nova:pull", "repository:other/nova:pull"
BEARER = 'Bearer realm="https://quay.io/v2/auth",service="quay.io"'


class ToyAuthorizer:
    """Renews a number at each challenge: the smallest authorizer with a state."""

    def __init__(self) -> None:
        self._number = 0

    async def header(self, scope: str | None) -> Secret | None:
        return Secret(f"Toy {self._number}") if self._number else None

    async def challenged(self, fields: Iterable[str], scope: str | None, refused: Secret | None) -> bool:
        if not any(value.startswith("Bearer") for value in fields):
            return False

        if await self.header(scope) == refused:
            self._number += 1

        return True

    def allows(self, scope: str | None) -> bool:
        return False

    def denial(self, scope: str | None) -> str:
        return ""


@dataclass
class Service:
    """A token service that issues a new token per request."""

    asked: int = 0
    refuses: bool = False
    credentials: Credentials | None = None
    made: list[TokenAuth] = field(default_factory=list)

    async def ask(self, url: str, authorization: Secret | None, form: Secret | None) -> bytes:
        self.asked += 1
        await anyio.lowlevel.checkpoint()
        if self.refuses:
            raise AccessDenied("401", status=401)

        return json.dumps({"token": f"token-{self.asked}", "expires_in": 300}).encode()

    async def find(self) -> Credentials | None:
        return self.credentials

    def authorizer(self, namespace: str = "") -> TokenAuth:
        self.made.append(TokenAuth(Origin.of("https://quay.io"), ask=self.ask, find_credentials=self.find))
        return self.made[-1]


KINDS: dict[str, Callable[[Service], Authorizer]] = {
    "anonymous": lambda service: Fixed(),
    "fixed": lambda service: Fixed(Secret("Bearer api-token")),
    "tokens": lambda service: service.authorizer(),
    "tokens by namespace": lambda service: ByNamespace(service.authorizer),
    "toy": lambda service: ToyAuthorizer(),
}
LEARNING = ("tokens", "tokens by namespace", "toy")


@pytest.fixture(params=KINDS)
def authorizer(request: pytest.FixtureRequest) -> Authorizer:
    return KINDS[request.param](Service())


async def send(authorizer: Authorizer, scope: str | None, *, accepts: Callable[[Secret | None], bool]) -> bool:
    """Handle one request as the client does; return True if it was accepted."""
    header = await authorizer.header(scope)
    if accepts(header):
        return True

    if not await authorizer.challenged([BEARER], scope, header):
        return False

    return accepts(await authorizer.header(scope))


async def test_a_header_is_a_secret_that_can_be_sent_or_none(authorizer: Authorizer) -> None:
    for scope in (None, SCOPE, f"{SCOPE} {OTHER}"):
        await authorizer.challenged([BEARER], scope, None)
        header = await authorizer.header(scope)
        if header is not None:
            assert header.header_value().isascii()
            assert header.header_value() not in repr(header) + str(header) + repr(authorizer)
            assert copy.copy(header) == header
            with pytest.raises(TypeError):
                pickle.dumps(header)


async def test_a_header_stays_the_same_as_long_as_it_is_accepted(authorizer: Authorizer) -> None:
    await authorizer.challenged([BEARER], SCOPE, None)
    first = await authorizer.header(SCOPE)
    assert all([await authorizer.header(SCOPE) == first for _ in range(5)])


async def test_another_attempt_is_promised_only_with_another_header(authorizer: Authorizer) -> None:
    for _ in range(3):
        refused = await authorizer.header(SCOPE)
        if await authorizer.challenged([BEARER], SCOPE, refused):
            header = await authorizer.header(SCOPE)
            assert header is not None
            assert header != refused


@pytest.mark.parametrize("fields", [[], [""], ["Negotiate"], ["\x01, ,=,"], ["Bearer"[:3]]])
async def test_a_challenge_that_is_not_understood_promises_nothing(authorizer: Authorizer, fields: list[str]) -> None:
    assert not await authorizer.challenged(fields, SCOPE, await authorizer.header(SCOPE))


async def test_nothing_is_allowed_before_there_is_a_header_that_says_so(authorizer: Authorizer) -> None:
    assert not authorizer.allows(SCOPE)
    assert not authorizer.allows(None)


@pytest.mark.parametrize("kind", LEARNING)
async def test_a_refused_header_is_replaced_and_the_request_passes(kind: str) -> None:
    authorizer = KINDS[kind](Service())
    assert await send(authorizer, SCOPE, accepts=lambda header: header is not None)
    old = await authorizer.header(SCOPE)
    assert await send(authorizer, SCOPE, accepts=lambda header: header != old)


@pytest.mark.parametrize("kind", LEARNING)
async def test_requests_that_are_challenged_at_the_same_time_share_a_new_header(kind: str) -> None:
    service = Service()
    authorizer, headers = KINDS[kind](service), list[Any]()

    async def request() -> None:
        assert await authorizer.challenged([BEARER], SCOPE, None)
        headers.append(await authorizer.header(SCOPE))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(request)

    assert service.asked <= 1
    assert all(header == headers[0] for header in headers)


@pytest.mark.parametrize("kind", ["tokens", "tokens by namespace"])
async def test_wrong_credentials_are_an_error_and_are_not_sent_again(kind: str) -> None:
    service = Service(refuses=True, credentials=Credentials("me", Secret("wrong")))
    authorizer = KINDS[kind](service)
    for _ in range(3):
        with pytest.raises(CredentialsRefused, match="rejects the credentials of 'me'"):
            await authorizer.challenged([BEARER], SCOPE, None)

    assert service.asked == 1


async def test_namespaces_share_neither_tokens_nor_credentials() -> None:
    service = Service()
    authorizer = ByNamespace(service.authorizer)
    await authorizer.challenged([BEARER], SCOPE, None)
    assert await authorizer.header(OTHER) is None
    await authorizer.challenged([BEARER], OTHER, None)
    assert await authorizer.header(SCOPE) != await authorizer.header(OTHER)
    assert len(service.made) == 2
