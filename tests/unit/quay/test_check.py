"""Whom to ask which digest a tag has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from organizations import TAG, small_image

import quaymirror
from quaymirror import Selection, Settings
from quaymirror.errors import AccessDenied, ConfigError, RateLimited, Scope, UnsupportedContent
from quaymirror.events import CandidateSkipped
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.quay.check import Candidate, CheapestChecker, Discovery, Image, RegistryChecker, batched
from quaymirror.testing import QUAY_NGINX_HTTP1, QuayServer, Registry

SELECTION = Selection("kolla", "*", TAG)
NOVA = Candidate(Repository("quay.io", "kolla/nova"))
DIGEST = Digest.of(b"nova")
FOUND = Image(Reference(NOVA.repository, TAG, DIGEST), updated=5, size=7)


class Scripted:
    """A checker or registry that answers as it is told."""

    def __init__(self, answer: Image | Digest | Exception | None) -> None:
        self.answer = answer
        self.asked = 0

    async def check(self, candidate: Candidate, selection: Selection) -> Image | CandidateSkipped:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer

        assert isinstance(self.answer, Image)
        return self.answer

    async def resolve(self, repository: Repository, tag: str, *, beside: Sequence[Repository] = ()) -> Digest | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer

        assert not isinstance(self.answer, Image)
        return self.answer


async def test_the_registry_is_not_asked_as_long_as_the_api_answers() -> None:
    api, registry = Scripted(FOUND), Scripted(FOUND)
    assert await CheapestChecker(api, registry).check(NOVA, SELECTION) == FOUND
    assert registry.asked == 0


async def test_the_registry_is_asked_when_the_api_has_enough() -> None:
    api, registry = Scripted(RateLimited("429", scope=Scope.IMAGE)), Scripted(FOUND)
    assert await CheapestChecker(api, registry).check(NOVA, SELECTION) == FOUND


async def test_a_server_that_is_closed_is_asked_nowhere_else() -> None:
    api, registry = Scripted(RateLimited("429", retry_after=3600, scope=Scope.RUN)), Scripted(FOUND)
    with pytest.raises(RateLimited):
        await CheapestChecker(api, registry).check(NOVA, SELECTION)

    assert registry.asked == 0


async def test_no_such_tag_at_the_registry_is_no_error() -> None:
    found = await RegistryChecker(Scripted(None), Scripted(FOUND)).check(NOVA, SELECTION)
    assert found == CandidateSkipped("kolla/nova", "no such tag")


@pytest.mark.parametrize("error", [AccessDenied("401", status=401), UnsupportedContent("no digest")], ids=str)
async def test_where_the_registry_does_not_tell_the_api_does(error: Exception) -> None:
    assert await RegistryChecker(Scripted(error), Scripted(FOUND)).check(NOVA, SELECTION) == FOUND


def test_thirty_repositories_share_a_token() -> None:
    candidates = [Candidate(Repository("quay.io", f"kolla/image-{number}")) for number in range(70)]
    done = list(batched(candidates))
    assert [candidate.repository for candidate in done] == [candidate.repository for candidate in candidates]
    assert [len(candidate.batch) for candidate in done] == [30] * 60 + [10] * 10
    assert all(candidate.repository in candidate.batch for candidate in done)


def organization(count: int) -> Registry:
    registry = Registry()
    image = small_image("one for all")
    for number in range(count):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    return registry


async def find(server: QuayServer, discovery: Discovery, selection: Selection = SELECTION) -> list[Image]:
    settings = Settings(server=server.url, discovery=discovery)
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

        settings = Settings(server=server.url, discovery=Discovery.REGISTRY)
        with pytest.raises(ConfigError, match="--discovery registry can't tell"):
            await quaymirror.sync(selection, tmp_path / "mirror", settings)

        assert server.requests == []
