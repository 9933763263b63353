"""Whom to ask which digest a tag has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.catalog.quay.lookup import Answer, CheapestLookup, RegistryLookup
from quaymirror.catalog.quay.mode import Discovery
from quaymirror.catalog.quay.schema import Tag
from quaymirror.discovery.pipeline import Image
from quaymirror.errors import AccessDenied, ConfigError, RateLimited, Scope, UnsupportedContent
from quaymirror.oci import Digest, Repository
from quaymirror.testing import QUAY_NGINX_HTTP1, QuayServer, Registry

SELECTION = Selection("kolla", "*", TAG)
NOVA = Repository("quay.io", "kolla/nova")
DIGEST = Digest.of(b"nova")
FOUND = (Tag(TAG, DIGEST, 5, 7), 1234)


class Scripted:
    """A lookup or registry that answers as it is told."""

    def __init__(self, answer: Answer | tuple[Digest | None, int | None] | Exception) -> None:
        self.answer = answer
        self.asked = 0

    async def _tell(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer

        return self.answer

    async def tag(self, repository: Repository, name: str, *, beside: Sequence[Repository] = ()) -> Answer:
        return cast(Answer, await self._tell())

    async def resolve(
        self, repository: Repository, tag: str, *, beside: Sequence[Repository] = ()
    ) -> tuple[Digest | None, int | None]:
        return cast("tuple[Digest | None, int | None]", await self._tell())


async def test_the_registry_is_not_asked_as_long_as_the_api_answers() -> None:
    api, registry = Scripted(FOUND), Scripted(FOUND)
    assert await CheapestLookup(api, registry).tag(NOVA, TAG) == FOUND
    assert registry.asked == 0


async def test_the_registry_is_asked_when_the_api_has_enough() -> None:
    api, registry = Scripted(RateLimited("429", scope=Scope.IMAGE)), Scripted(FOUND)
    assert await CheapestLookup(api, registry).tag(NOVA, TAG) == FOUND


async def test_a_server_that_is_closed_is_asked_nowhere_else() -> None:
    api, registry = Scripted(RateLimited("429", retry_after=3600, scope=Scope.RUN)), Scripted(FOUND)
    with pytest.raises(RateLimited):
        await CheapestLookup(api, registry).tag(NOVA, TAG)

    assert registry.asked == 0


async def test_no_such_tag_at_the_registry_is_no_error() -> None:
    assert await RegistryLookup(Scripted((None, None)), Scripted(FOUND)).tag(NOVA, TAG) == (None, None)


@pytest.mark.parametrize("error", [AccessDenied("401", status=401), UnsupportedContent("no digest")], ids=str)
async def test_where_the_registry_does_not_tell_the_api_does(error: Exception) -> None:
    assert await RegistryLookup(Scripted(error), Scripted(FOUND)).tag(NOVA, TAG) == FOUND


def organization(count: int) -> Registry:
    registry = Registry()
    image = small_image("one for all")
    for number in range(count):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    return registry


async def find(server: QuayServer, discovery: Discovery, selection: Selection = SELECTION) -> list[Image]:
    settings = Options.of(server=server.url, discovery=discovery)
    return [image async for image in quaymirror.discover(selection, settings)]


@pytest.mark.parametrize("require_token", [True, False])
async def test_the_registry_alone_finds_the_same_as_the_api(require_token: bool) -> None:
    async with QuayServer(organization(65), require_token=require_token) as server:
        by_api = await find(server, Discovery.API)
        assert server.count("^/v2/") == 0
        server.reset_records()
        by_registry = await find(server, Discovery.REGISTRY)
        assert server.count("/tag/$") == 0
        assert server.count("^/v2/auth") == (3 if require_token else 0)

    assert [image.reference for image in by_api] == [image.reference for image in by_registry]


async def test_a_quay_without_limits_logs_no_pull_for_discovery() -> None:
    async with QuayServer(organization(150)) as server:
        assert len(await find(server, Discovery.AUTO)) == 150
        assert server.count("^/v2/") == 0


async def test_a_quay_with_limits_refuses_one_or_two_calls_before_its_registry_is_asked() -> None:
    async with QuayServer(organization(60), limits=QUAY_NGINX_HTTP1) as server:
        assert len(await find(server, Discovery.AUTO)) == 60
        statuses = [request.status for request in server.requests]
        assert server.count("^/v2/", method="HEAD") >= 30

    assert statuses.count(429) <= 5


async def test_the_time_of_a_tag_is_nothing_the_registry_knows(tmp_path: Path) -> None:
    selection = Selection("kolla", "*", TAG, since=datetime(2025, 1, 1, tzinfo=UTC))
    async with QuayServer(organization(2)) as server:
        with pytest.raises(ConfigError, match="--discovery registry can't tell"):
            await find(server, Discovery.REGISTRY, selection)

        settings = Options.of(server=server.url, discovery=Discovery.REGISTRY)
        with pytest.raises(ConfigError, match="--discovery registry can't tell"):
            await quaymirror.sync(selection, tmp_path / "mirror", settings)

        assert server.requests == []
