"""Small exchanges with hosts by their real names, answered without a network, as the documents print them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import aiohttp
from aioresponses import aioresponses

from quaymirror import Credentials, Options, Secret, Selection
from quaymirror.catalog.base import Catalog
from quaymirror.events import ignore
from quaymirror.oci import Repository
from quaymirror.run.wiring import connect

DIGEST = f"sha256:{'a' * 64}"


class Answer(aiohttp.ClientResponse):
    """A response of aiohttp 3.14, which needs more than aioresponses passes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("stream_writer", Mock())
        super().__init__(*args, **options)


@asynccontextmanager
async def catalog(address: str) -> AsyncGenerator[Catalog]:
    options = Options.of(credentials=Credentials("mirror", Secret("token")), retries=0)
    async with connect(options, ignore) as sources:
        yield (await sources.open(Selection.parse_uri(address).source)).catalog


async def names(found: Catalog, organization: str) -> list[str]:
    return [entry.name async for page in found.pages(organization) for entry in page.repositories]


def exactly(url: str) -> re.Pattern[str]:
    """Return a pattern of `url`: a text would be compared as yarl parses it, and paths are sent as they are."""
    return re.compile(re.escape(url) + r"\Z")


def calls(mocked: aioresponses) -> dict[str, list[str]]:
    """Return the value of `Authorization` of each request by its URL."""
    return {
        str(url): [call.kwargs["headers"].get("Authorization", "") for call in made]
        for (_, url), made in mocked.requests.items()
    }


async def test_docker_hub_logs_in_and_lists_a_namespace() -> None:
    listing = "https://hub.docker.com/v2/namespaces/library/repositories?page=1&page_size=100&ordering=name"
    entry = {"name": "nginx", "namespace": "library", "last_updated": "2026-11-20T10:11:12.123456Z"}
    tag = {"name": "1.27", "digest": DIGEST, "tag_last_pushed": "2026-11-20T10:11:12.123456Z", "full_size": 7}
    with aioresponses() as mocked:
        mocked.post("https://hub.docker.com/v2/auth/token", payload={"access_token": "jwt"}, response_class=Answer)
        page = {"count": 1, "next": None, "previous": None, "results": [entry]}
        mocked.get(exactly(listing), payload=page, response_class=Answer)
        one = "https://hub.docker.com/v2/namespaces/library/repositories/nginx/tags/1.27"
        mocked.get(exactly(one), payload=tag, response_class=Answer)
        async with catalog("hub://library/*:1.27") as found:
            assert await names(found, "library") == ["nginx"]
            answer = await found.tag(Repository("registry-1.docker.io", "library/nginx"), "1.27", dated=True)

        assert answer.tag is not None
        assert (str(answer.tag.digest), answer.tag.start, answer.tag.size) == (DIGEST, 1_795_169_472, 7)
        sent = calls(mocked)
        assert sent[listing] == sent[one] == ["Bearer jwt"]
        assert sent["https://hub.docker.com/v2/auth/token"] == [""]


async def test_github_lists_the_packages_of_a_user_after_an_organization_is_not_found() -> None:
    query = "package_type=container&per_page=100&page=1"
    missing = {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}
    package = {"id": 197, "name": "app/web", "package_type": "container", "updated_at": "2026-05-19T22:19:11Z"}
    with aioresponses() as mocked:
        mocked.get(
            exactly(f"https://api.github.com/orgs/octocat/packages?{query}"),
            status=404,
            payload=missing,
            response_class=Answer,
        )
        users = f"https://api.github.com/users/octocat/packages?{query}"
        mocked.get(exactly(users), payload=[package], response_class=Answer)
        async with catalog("ghcr://octocat/*:1") as found:
            assert await names(found, "octocat") == ["app/web"]

        assert calls(mocked)[users] == ["Bearer token"]


async def test_gitlab_lists_the_repositories_of_a_group_and_its_projects() -> None:
    listing = "https://gitlab.com/api/v4/groups/group/registry/repositories?page=1&per_page=100"
    common = {"project_id": 9, "created_at": "2019-01-10T13:38:57.391Z"}
    entries = [
        common | {"id": 1, "name": "", "path": "group/Project", "location": "registry.gitlab.com/group/project"},
        common
        | {"id": 2, "name": "releases", "path": "group/sub/project/releases", "location": "registry.gitlab.com/x"},
    ]
    with aioresponses() as mocked:
        mocked.get(exactly(listing), payload=entries, headers={"X-Total": "2"}, response_class=Answer)
        async with catalog("gitlab://gitlab.com/Group/*:1") as found:
            assert await names(found, "group") == ["project", "sub/project/releases"]


async def test_harbor_reads_artifacts_of_a_nested_repository_with_a_slash_that_is_escaped_twice() -> None:
    path = "https://harbor.example/api/v2.0/projects/team/repositories/a%252Fb/artifacts/1?with_tag=true"
    artifact = {"digest": DIGEST, "size": 5, "tags": [{"name": "1", "push_time": "2026-05-19T22:19:11.000Z"}]}
    with aioresponses() as mocked:
        mocked.get(exactly(path), payload=artifact, response_class=Answer)
        async with catalog("harbor://harbor.example/team/*:1") as found:
            answer = await found.tag(Repository("harbor.example", "team/a/b"), "1")

        assert answer.tag is not None
        assert str(answer.tag.digest) == DIGEST
        (sent,) = calls(mocked).values()
        assert sent[0].startswith("Basic ")
