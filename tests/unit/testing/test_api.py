from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from quaymirror.testing import QuayServer, Registry, make_image, make_index, make_layer

LIST = "/api/v1/repository?namespace=kolla"
PUBLIC = f"{LIST}&public=true"
ENTRY_FIELDS = {"namespace", "name", "description", "is_public", "kind", "state"}


class Clock:
    """A clock that tests set."""

    now = 1_795_469_801.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A session bound to a server."""

    def __init__(self, session: aiohttp.ClientSession, server: QuayServer, registry: Registry) -> None:
        self.session = session
        self.server = server
        self.registry = registry
        self.kolla = registry.organization("kolla")

    async def get(self, path: str, token: str | None = None, **headers: str) -> tuple[int, Any]:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.get(self.server.url + path, headers=headers, allow_redirects=False) as response:
            try:
                return response.status, await response.json(content_type=None)
            except ValueError:
                return response.status, await response.text()

    async def names(self, path: str, token: str | None = None) -> list[str]:
        _, page = await self.get(path, token)
        return [entry["name"] for entry in page["repositories"]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(clock: Clock) -> AsyncIterator[Client]:
    registry = Registry(now=clock)
    async with QuayServer(registry) as server, aiohttp.ClientSession() as session:
        yield Client(session, server, registry)


async def test_the_list_has_quays_fields_and_the_optional_ones_only_when_asked(client: Client) -> None:
    client.kolla.repository("nova-api").push("t", make_image([make_layer(1, 500)]))
    _, plain = await client.get(PUBLIC)
    _, full = await client.get(f"{PUBLIC}&last_modified=true&popularity=1")

    assert set(plain) == {"repositories"}
    assert set(plain["repositories"][0]) == ENTRY_FIELDS
    assert full["repositories"] == [
        {
            "namespace": "kolla",
            "name": "nova-api",
            "description": None,
            "is_public": True,
            "kind": "image",
            "state": "NORMAL",
            "last_modified": 1_795_469_801,
            "popularity": 0.0,
        }
    ]


async def test_the_list_comes_in_pages_of_100_in_creation_order(client: Client) -> None:
    names = [f"svc-{number:04d}" for number in range(250, 0, -1)]
    for name in names:
        client.kolla.repository(name)
    found: list[str] = []
    tokens = []
    path = PUBLIC
    for _ in range(3):
        _, page = await client.get(path)
        found += [entry["name"] for entry in page["repositories"]]
        tokens.append(page.get("next_page"))
        path = f"{PUBLIC}&next_page={tokens[-1]}"

    assert found == names
    assert tokens[2] is None
    assert tokens[0].startswith("gAAAAA")
    assert 150 < len(tokens[0]) < 230


async def test_page_tokens_differ_each_time_and_a_bad_or_old_one_is_the_first_page(
    client: Client, clock: Clock
) -> None:
    for number in range(150):
        client.kolla.repository(f"svc-{number}")
    (_, one), (_, two) = await client.get(PUBLIC), await client.get(PUBLIC)
    assert one["next_page"] != two["next_page"]
    assert (await client.names(f"{PUBLIC}&next_page={one['next_page']}"))[0] == "svc-100"

    for bad in ("garbage", one["next_page"][:-8] + "AAAAAAA=", "%F0"):
        assert (await client.names(f"{PUBLIC}&next_page={bad}"))[0] == "svc-0"
    clock.now += 2 * 24 * 3600 + 1
    assert (await client.names(f"{PUBLIC}&next_page={one['next_page']}"))[0] == "svc-0"


async def test_a_repository_deleted_between_pages_shifts_nothing(client: Client) -> None:
    for number in range(150):
        client.kolla.repository(f"svc-{number:03d}")
    _, first = await client.get(PUBLIC)
    client.kolla.delete_repository("svc-050")
    second = await client.names(f"{PUBLIC}&next_page={first['next_page']}")
    assert second == [f"svc-{number:03d}" for number in range(100, 150)]


async def test_the_list_depends_on_access_rights(client: Client) -> None:
    client.kolla.repository("open")
    client.kolla.repository("secret", public=False)
    client.kolla.grant("admin")
    admin, bob = client.registry.oauth_token("admin"), client.registry.oauth_token("bob")
    robot = client.registry.robot("kolla+reader")

    assert await client.names(LIST) == []
    assert await client.names(PUBLIC) == ["open"]
    assert await client.names(LIST, admin) == ["open", "secret"]
    assert await client.names(LIST, bob) == []
    assert await client.names(PUBLIC, bob) == ["open"]
    assert await client.names(LIST, robot.token) == []
    assert await client.names("/api/v1/repository?namespace=Kolla&public=true") == []
    assert await client.names("/api/v1/repository?public=true") == ["open"]


async def test_is_starred_shows_that_a_token_was_accepted(client: Client, clock: Clock) -> None:
    client.kolla.repository("open")
    token = client.registry.oauth_token("bob", expires_at=clock.now + 10)
    _, good = await client.get(PUBLIC, token)
    clock.now += 10
    status, expired = await client.get(PUBLIC, token)

    assert good["repositories"][0]["is_starred"] is False
    assert status == 200
    assert "is_starred" not in expired["repositories"][0]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/api/v1/repository", 400, {"error_type": "invalid_request", "status": 400}),
        ("/api/v1/repository?namespace=kolla&repo_kind=application", 400, {"message": "Unknown repository kind"}),
        ("/api/v1/repository?namespace=nosuch&public=true", 200, {"repositories": []}),
        ("/api/v1/repository?namespace=kolla&public=yes&limit=5&state=READ_ONLY", 200, {}),
        ("/api/v1/organization/nosuch", 404, {"error_type": "not_found", "detail": "Not Found"}),
        ("/api/v1/organization/bob", 404, {"error_type": "not_found"}),
        ("/api/v1/organization/kolla", 200, {"name": "kolla", "email": "", "is_admin": False, "is_member": False}),
        ("/api/v1/users/bob", 200, {"anonymous": False, "username": "bob"}),
        ("/api/v1/user/", 401, {"session_required": False, "error_type": "invalid_token"}),
        ("/api/v1/repository?starred=true", 400, {}),
    ],
)
async def test_small_answers_are_quays(client: Client, path: str, status: int, body: dict[str, Any]) -> None:
    client.registry.user("bob")
    found, document = await client.get(path)
    assert found == status
    assert {key: document[key] for key in body} == body


async def test_the_user_call_needs_a_token_with_its_scope(client: Client) -> None:
    client.kolla.grant("admin")
    reader, user = client.registry.oauth_token("admin"), client.registry.oauth_token("admin", scopes=["user:read"])
    assert (await client.get("/api/v1/user/", reader))[0] == 401
    status, document = await client.get("/api/v1/user/", user)
    assert status == 200
    assert document["username"] == "admin"
    assert [entry["name"] for entry in document["organizations"]] == ["kolla"]


async def test_slashes_matter(client: Client) -> None:
    client.kolla.repository("nova-api")
    status, page = await client.get("/api/v1/repository/?namespace=kolla&public=true")
    assert status == 404
    assert page.startswith("<!DOCTYPE html>")

    path = "/api/v1/repository/kolla/nova-api/tag?onlyActiveTags=true"
    async with client.session.get(client.server.url + path, allow_redirects=False) as response:
        assert response.status == 308
        assert (
            response.headers["Location"]
            == f"{client.server.url}/api/v1/repository/kolla/nova-api/tag/?onlyActiveTags=true"
        )


async def test_a_browser_is_turned_away(client: Client) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36"
    status, document = await client.get(PUBLIC, **{"User-Agent": agent})
    assert status == 400
    assert document["error"].startswith("API calls must be invoked with an X-Requested-With header")
    assert (await client.get(PUBLIC, **{"User-Agent": agent, "X-Requested-With": "XMLHttpRequest"}))[0] == 200


@pytest.mark.parametrize("suffix", ["", "/tag/"])
async def test_the_table_of_refusals(client: Client, suffix: str) -> None:
    client.kolla.repository("secret", public=False)
    client.kolla.grant("admin")
    admin, bob = client.registry.oauth_token("admin"), client.registry.oauth_token("bob")
    narrow = client.registry.oauth_token("admin", scopes=["user:read"])
    secret, missing = f"/api/v1/repository/kolla/secret{suffix}", f"/api/v1/repository/kolla/nope{suffix}"

    async def refusal(path: str, token: str | None) -> tuple[int, str | None]:
        status, document = await client.get(path, token)
        return status, document.get("error_type")

    for path in (secret, missing):
        assert await refusal(path, None) == (401, "invalid_token")
        assert await refusal(path, "X" * 40) == (401, "invalid_token")
        assert await refusal(path, bob) == (403, "insufficient_scope")
        assert await refusal(path, narrow) == (403, "insufficient_scope")
    assert await refusal(secret, admin) == (200, None)
    assert await refusal(missing, admin) == (404, "not_found")


async def test_a_repository_shows_its_tags_as_an_object(client: Client) -> None:
    image = make_image([make_layer(1, 500)])
    client.kolla.repository("nova-api").push("2025.1-debian", image)
    _, document = await client.get("/api/v1/repository/kolla/nova-api?includeStats=true")
    _, bare = await client.get("/api/v1/repository/kolla/nova-api?includeTags=false")

    assert document["tags"] == {
        "2025.1-debian": {
            "name": "2025.1-debian",
            "size": image.layers_size,
            "last_modified": "Mon, 23 Nov 2026 21:36:41 -0000",
            "manifest_digest": image.digest,
        }
    }
    assert document["tag_expiration_s"] == 1_209_600
    assert document["is_organization"] is True
    assert document["status_token"] == ""
    assert len(document["stats"]) == 91
    assert "tags" not in bare
    assert "stats" not in bare


async def test_nested_names_work_plain_and_quoted(client: Client) -> None:
    client.kolla.repository("nested/a/b").push("t", make_image([make_layer(1, 500)]))
    client.kolla.repository("x" * 240)
    for path in ("nested/a/b", "nested%2Fa%2Fb"):
        assert (await client.get(f"/api/v1/repository/kolla/{path}"))[1]["name"] == "nested/a/b"
        assert len((await client.get(f"/api/v1/repository/kolla/{path}/tag/"))[1]["tags"]) == 1
    assert (await client.get(f"/api/v1/repository/kolla/{'x' * 240}"))[0] == 200


async def test_a_tag_row_has_quays_fields_and_an_index_has_four_more(client: Client, clock: Clock) -> None:
    image = make_image([make_layer(1, 500)])
    index = make_index([(image, "linux/amd64")])
    repo = client.kolla.repository("multi")
    repo.push("single", image)
    clock.now += 5
    repo.push("multi", index)
    repo.set_expiry("single", clock.now + 3600)
    _, document = await client.get("/api/v1/repository/kolla/multi/tag/")

    assert document == {
        "tags": [
            {
                "name": "multi",
                "reversion": False,
                "immutable": False,
                "start_ts": 1_795_469_806,
                "manifest_digest": index.digest,
                "is_manifest_list": True,
                "size": None,
                "last_modified": "Mon, 23 Nov 2026 21:36:46 -0000",
                "is_sparse": False,
                "child_manifest_count": 1,
                "present_child_count": 1,
                "child_manifests_presence": {image.digest: True},
            },
            {
                "name": "single",
                "reversion": False,
                "immutable": False,
                "start_ts": 1_795_469_801,
                "manifest_digest": image.digest,
                "is_manifest_list": False,
                "size": image.layers_size,
                "last_modified": "Mon, 23 Nov 2026 21:36:41 -0000",
                "end_ts": 1_795_473_406,
                "expiration": "Mon, 23 Nov 2026 22:36:46 -0000",
            },
        ],
        "page": 1,
        "has_additional": False,
    }


async def test_a_sparse_index_says_so(client: Client) -> None:
    one, two = make_image([make_layer(1, 500)]), make_image([make_layer(2, 500)])
    repo = client.kolla.repository("multi")
    repo.push("t", make_index([(one, "linux/amd64"), (two, "linux/arm64")]))
    repo.lose(two.digest)
    row = (await client.get("/api/v1/repository/kolla/multi/tag/"))[1]["tags"][0]
    assert (row["is_sparse"], row["child_manifest_count"], row["present_child_count"]) == (True, 2, 1)
    assert row["child_manifests_presence"] == {one.digest: True, two.digest: False}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("specificTag=t1", ["t1"]),
        ("specificTag=nope", []),
        ("filter_tag_name=eq:T1", []),
        ("filter_tag_name=like:T", ["t2", "t1"]),
        ("filter_tag_name=like:%25", ["t2", "t1", "zz"]),
        ("filter_tag_name=like:t_", ["t2", "t1"]),
        ("filter_tag_name=re:t1", ["t2", "t1", "zz"]),
        ("limit=1", ["t2"]),
        ("limit=0", ["t2"]),
        ("limit=2&page=2", ["zz"]),
        ("page=99", []),
        ("page=0&limit=1000", ["t2", "t1", "zz"]),
    ],
)
async def test_tag_filters(client: Client, clock: Clock, query: str, names: list[str]) -> None:
    repo = client.kolla.repository("r")
    for name in ("zz", "t1", "t2"):
        repo.push(name, make_image([]))
        clock.now += 1
    _, document = await client.get(f"/api/v1/repository/kolla/r/tag/?onlyActiveTags=true&{query}")
    assert [row["name"] for row in document["tags"]] == names


async def test_tag_pages_say_whether_there_is_more(client: Client) -> None:
    repo = client.kolla.repository("r")
    for number in range(120):
        repo.push(f"t{number:03d}", make_image([]))
    path = "/api/v1/repository/kolla/r/tag/"
    _, default = await client.get(path)
    _, largest = await client.get(f"{path}?limit=100")
    _, last = await client.get(f"{path}?limit=100&page=2")
    assert (len(default["tags"]), default["has_additional"]) == (50, True)
    assert (len(largest["tags"]), largest["has_additional"]) == (100, True)
    assert (len(last["tags"]), last["has_additional"], last["page"]) == (20, False, 2)
    assert largest["tags"][0]["name"] == "t000"


@pytest.mark.parametrize("query", ["limit=abc", "filter_tag_name=2025"])
async def test_bad_tag_parameters_get_a_bare_message(client: Client, query: str) -> None:
    client.kolla.repository("r")
    status, document = await client.get(f"/api/v1/repository/kolla/r/tag/?{query}")
    assert status == 400
    assert set(document) == {"message"}


async def test_dead_rows_come_unless_only_active_ones_are_asked_for(client: Client) -> None:
    repo = client.kolla.repository("r")
    repo.push("t", make_image([]))
    repo.push("t", make_image([]))
    repo.delete_tag("t")
    assert len((await client.get("/api/v1/repository/kolla/r/tag/"))[1]["tags"]) == 2
    assert (await client.get("/api/v1/repository/kolla/r/tag/?onlyActiveTags=true"))[1]["tags"] == []


async def test_answers_close_the_connection_and_carry_the_registrys_time(client: Client) -> None:
    client.kolla.repository("r")
    async with client.session.get(client.server.url + PUBLIC) as response:
        headers = response.headers
    assert headers["Connection"] == "close"
    assert headers["Date"] == "Mon, 23 Nov 2026 21:36:41 GMT"
    assert headers["Access-Control-Allow-Headers"] == "AUTHORIZATION, CONTENT-TYPE, X-REQUESTED-WITH"
    assert headers["Vary"] == "Cookie"


async def test_writing_is_not_allowed(client: Client) -> None:
    async with client.session.post(client.server.url + "/api/v1/repository", data=b"{}") as response:
        assert response.status == 405
