"""Lookup of the digest of a tag, in the API or in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from clocks import running_clock
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.catalog.base import Discovery, PinnedImage, Tag, TagAnswer
from quaymirror.catalog.quay.api import QuayAPI
from quaymirror.catalog.quay.catalog import QuayCatalog
from quaymirror.errors import AccessDenied, ConfigError, RateLimited, Scope, UnsupportedContent
from quaymirror.http.retry import RetryPolicy
from quaymirror.oci import Digest, Repository
from quaymirror.testing import QUAY_NGINX_HTTP1, QuayServer, Registry
from quaymirror.testing.delivery import Courier

SELECTION = Selection("kolla", "*", TAG)
NOVA = Repository("quay.io", "kolla/nova")
DIGEST = Digest.of(b"nova")
FOUND = TagAnswer(Tag(TAG, DIGEST, 5, 7), 1234)
RESOLVED = TagAnswer(Tag(TAG, DIGEST), 1234)


class Scripted:
    """An API and a registry that give these answers."""

    def __init__(self, api: TagAnswer | Exception, registry: Digest | Exception | None = DIGEST) -> None:
        self.api, self.registry = api, registry
        self.asked: list[str] = []

    def lookup(self, discovery: Discovery = Discovery.AUTO) -> QuayCatalog:
        return QuayCatalog(cast(QuayAPI, self), self, discovery)

    async def tag(self, repository: str, tag: str, *, patient: bool = True) -> TagAnswer:
        self.asked.append("api")
        if isinstance(self.api, Exception) and not patient:
            raise self.api

        return self.api if isinstance(self.api, TagAnswer) else FOUND

    async def resolve(
        self, repository: Repository, tag: str, *, batch: Sequence[Repository] = ()
    ) -> tuple[Digest | None, int | None]:
        self.asked.append("registry")
        if isinstance(self.registry, Exception):
            raise self.registry

        return self.registry, 1234


async def test_the_registry_is_not_asked_as_long_as_the_api_answers() -> None:
    server = Scripted(FOUND)
    assert await server.lookup().tag(NOVA, TAG) == FOUND
    assert server.asked == ["api"]


async def test_the_registry_is_asked_when_the_api_limits_us() -> None:
    server = Scripted(RateLimited("429", scope=Scope.IMAGE))
    assert await server.lookup().tag(NOVA, TAG) == RESOLVED
    assert server.asked == ["api", "registry"]


async def test_for_the_time_of_a_tag_the_api_is_asked_patiently() -> None:
    server = Scripted(RateLimited("429", scope=Scope.IMAGE))
    assert await server.lookup().tag(NOVA, TAG, dated=True) == FOUND
    assert server.asked == ["api"]


async def test_a_closed_server_is_not_asked_elsewhere() -> None:
    server = Scripted(RateLimited("429", retry_after=3600, scope=Scope.RUN))
    with pytest.raises(RateLimited):
        await server.lookup().tag(NOVA, TAG)

    assert server.asked == ["api"]


async def test_an_unknown_tag_at_the_registry_is_no_error() -> None:
    assert (await Scripted(FOUND, None).lookup(Discovery.REGISTRY).tag(NOVA, TAG)).tag is None


@pytest.mark.parametrize("error", [AccessDenied("401", status=401), UnsupportedContent("no digest")], ids=str)
async def test_the_api_decides_when_the_registry_can_not(error: Exception) -> None:
    server = Scripted(FOUND, error)
    assert await server.lookup(Discovery.REGISTRY).tag(NOVA, TAG) == FOUND
    assert server.asked == ["registry", "api"]


def organization(count: int) -> Registry:
    registry = Registry()
    image = small_image("one for all")
    for number in range(count):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    return registry


async def find(
    server: QuayServer, discovery: Discovery, selection: Selection = SELECTION, **options: Any
) -> list[PinnedImage]:
    settings = Options.of(server=server.url, discovery=discovery, **options)
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


async def test_a_quay_with_limits_refuses_one_or_two_calls_before_its_registry_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Round trips, limits and waits have one clock, so that a busy machine sends no other requests than an idle one.
    async with running_clock() as clock:
        monkeypatch.setattr(Courier, "pause", lambda _, seconds: clock.sleep(seconds))
        async with QuayServer(organization(60), limits=QUAY_NGINX_HTTP1, latency=0.05, monotonic=clock) as server:
            policy = RetryPolicy(clock=clock, sleep=clock.sleep)
            assert len(await find(server, Discovery.AUTO, retry=policy)) == 60
            assert server.count("^/v2/", method="HEAD") >= 30
            refused = [request.path for request in server.requests if request.status == 429]

    assert 1 <= sum(path.startswith("/api/") for path in refused) <= 2
    assert len(refused) <= 4, refused


async def test_the_time_of_a_tag_is_nothing_the_registry_knows(tmp_path: Path) -> None:
    selection = Selection("kolla", "*", TAG, since=datetime(2025, 1, 1, tzinfo=UTC))
    async with QuayServer(organization(2)) as server:
        with pytest.raises(ConfigError, match="--discovery registry can't tell"):
            await find(server, Discovery.REGISTRY, selection)

        settings = Options.of(server=server.url, discovery=Discovery.REGISTRY)
        with pytest.raises(ConfigError, match="--discovery registry can't tell"):
            await quaymirror.sync(selection, tmp_path / "mirror", settings)

        assert server.requests == []
