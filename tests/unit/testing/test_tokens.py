from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from quaymirror.testing import QuayServer, Registry, make_image


class Clock:
    """A clock that tests set."""

    now = 1_795_469_801.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A session bound to a server with one public and one private repository."""

    def __init__(self, session: aiohttp.ClientSession, server: QuayServer, registry: Registry, clock: Clock) -> None:
        self.session = session
        self.server = server
        self.registry = registry
        self.clock = clock
        self.kolla = registry.organization("kolla")
        self.kolla.repository("open").push("t", make_image([]))
        self.kolla.repository("secret", public=False).push("t", make_image([]))

    async def ask(
        self, *scopes: str, basic: str = "", service: str | None = ""
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        query = [("scope", scope) for scope in scopes]
        if service is not None:
            query.append(("service", service or self.server.host))
        headers = {"Authorization": f"Basic {base64.b64encode(basic.encode()).decode()}"} if basic else {}
        url = f"{self.server.url}/v2/auth"
        async with self.session.get(url, params=query, headers=headers) as response:
            return response.status, await response.json(), dict(response.headers)

    async def token(self, *scopes: str, basic: str = "") -> str:
        status, document, _ = await self.ask(*scopes, basic=basic)
        assert status == 200
        return str(document["token"])

    async def pull(self, repository: str, authorization: str = "") -> tuple[int, str, dict[str, str]]:
        headers = {"Authorization": authorization} if authorization else {}
        url = f"{self.server.url}/v2/kolla/{repository}/manifests/t"
        async with self.session.get(url, headers=headers) as response:
            return response.status, await response.text(), dict(response.headers)


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    parsed: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return parsed


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    clock = Clock()
    registry = Registry(now=clock)
    async with QuayServer(registry) as server, aiohttp.ClientSession() as session:
        yield Client(session, server, registry, clock)


async def test_the_answer_is_a_token_and_nothing_else(client: Client) -> None:
    status, document, headers = await client.ask("repository:kolla/open:pull")
    assert status == 200
    assert set(document) == {"token"}
    assert headers["Connection"] == "close"
    assert headers["Cache-Control"] == "no-cache, no-store, must-revalidate"


async def test_a_token_says_when_it_expires_and_what_it_allows(client: Client) -> None:
    asked = [f"repository:kolla/{name}:pull" for name in ("open", "secret", "nope")]
    found = claims(await client.token(*asked))
    assert found["exp"] - found["iat"] == 3600
    assert found["aud"] == client.server.host
    assert found["sub"] == "(anonymous)"
    assert found["access"] == [
        {"type": "repository", "name": "kolla/open", "actions": ["pull"]},
        {"type": "repository", "name": "kolla/secret", "actions": []},
        {"type": "repository", "name": "kolla/nope", "actions": []},
    ]


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        ("repository:kolla/open:pull repository:kolla/secret:pull", "INVALID_REQUEST"),
        ("registry:catalog:*", "INVALID_REQUEST"),
        ("repository:kolla/UPPER:pull", "NAME_INVALID"),
    ],
)
async def test_one_bad_scope_fails_the_whole_request(client: Client, scope: str, code: str) -> None:
    status, document, _ = await client.ask("repository:kolla/open:pull", scope)
    assert status == 400
    assert document["errors"][0]["code"] == code


async def test_anonymous_without_a_scope_is_unauthorized(client: Client) -> None:
    status, document, headers = await client.ask()
    assert status == 401
    assert document == {
        "errors": [
            {"code": "UNAUTHORIZED", "detail": {}, "message": "access to the requested resource is not authorized"}
        ]
    }
    url = client.server.url
    assert headers["WWW-Authenticate"] == f'Bearer realm="{url}/v2/auth",service="{client.server.host}"'


async def test_robots_users_and_api_tokens_can_log_in(client: Client) -> None:
    robot = client.registry.robot("kolla+reader")
    admin = client.registry.user("admin", password="pass word")
    api_token = client.registry.oauth_token("admin")
    for principal in (robot.name, admin.name):
        client.kolla.grant(principal)

    for basic in (f"kolla+reader:{robot.token}", "admin:pass word", f"$oauthtoken:{api_token}"):
        assert (await client.ask(basic=basic))[0] == 200
        token = await client.token("repository:kolla/secret:pull", basic=basic)
        assert (await client.pull("secret", f"Bearer {token}"))[0] == 200


@pytest.mark.parametrize(
    ("basic", "message"),
    [
        ("kolla+reader:wrong", "Could not find robot with username: kolla+reader and supplied password."),
        ("nobody:wrong", "Invalid Username or Password"),
        ("$oauthtoken:wrong", "OAuth access token could not be validated"),
    ],
)
async def test_wrong_credentials_are_refused_in_words(client: Client, basic: str, message: str) -> None:
    client.registry.robot("kolla+reader")
    status, document, headers = await client.ask("repository:kolla/open:pull", basic=basic)
    assert status == 401
    assert document["errors"][0]["message"] == message
    assert "WWW-Authenticate" in headers


async def test_undecodable_credentials_are_refused(client: Client) -> None:
    url = f"{client.server.url}/v2/auth"
    async with client.session.get(url, headers={"Authorization": "Basic %%%"}) as response:
        assert response.status == 401


async def test_only_get_is_allowed(client: Client) -> None:
    async with client.session.post(f"{client.server.url}/v2/auth", data={"grant_type": "password"}) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "OPTIONS, HEAD, GET"


async def test_push_is_never_granted(client: Client) -> None:
    robot = client.registry.robot("kolla+reader")
    client.kolla.grant(robot.name)
    token = await client.token("repository:kolla/open:pull,push", basic=f"{robot.name}:{robot.token}")
    assert claims(token)["access"][0]["actions"] == ["pull"]


async def test_a_token_for_one_repository_also_reads_a_public_other(client: Client) -> None:
    client.kolla.repository("other").push("t", make_image([]))
    token = await client.token("repository:kolla/open:pull")
    assert (await client.pull("other", f"Bearer {token}"))[0] == 200
    assert (await client.pull("secret", f"Bearer {token}"))[0] == 401


async def test_a_token_expires_half_a_minute_late(client: Client) -> None:
    token = await client.token("repository:kolla/open:pull")
    client.clock.now += 3630
    assert (await client.pull("open", f"Bearer {token}"))[0] == 200
    client.clock.now += 1
    status, body, _ = await client.pull("open", f"Bearer {token}")
    assert (status, json.loads(body)) == (401, {"error": "Signature has expired"})


async def test_a_token_asked_for_without_a_service_is_refused_later(client: Client) -> None:
    _, document, _ = await client.ask("repository:kolla/open:pull", service=None)
    status, body, _ = await client.pull("open", f"Bearer {document['token']}")
    assert (status, json.loads(body)) == (401, {"error": 'Token is missing the "aud" claim'})

    _, document, _ = await client.ask("repository:kolla/open:pull", service="elsewhere")
    assert (await client.pull("open", f"Bearer {document['token']}"))[0] == 401


@pytest.mark.parametrize("authorization", ["Bearer garbage", "Bearer a.b.c", "Basic a29sbGE6eA==", "Bearer two words"])
async def test_a_bad_authorization_is_refused_even_for_public_repositories(client: Client, authorization: str) -> None:
    status, body, headers = await client.pull("open", authorization)
    assert status == 401
    assert set(json.loads(body)) == {"error"}
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["WWW-Authenticate"].endswith(',scope="repository:kolla/open:pull"')


async def test_many_scopes_make_one_long_token(client: Client) -> None:
    scopes = [f"repository:kolla/service-number-{number:03d}:pull" for number in range(30)]
    token = await client.token(*scopes)
    assert len(claims(token)["access"]) == 30
    assert len(token) < 8000
