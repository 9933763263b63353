"""Registries with an API of their own, end to end: a mirror, what the second night costs, and the limits of pulls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from organizations import small_image

import quaymirror
from quaymirror import Credentials, Options, ReferrerMode, Secret, Selection, Status
from quaymirror.errors import ConfigError, ExitCode
from quaymirror.testing import (
    ForeignServer,
    GitHubServer,
    GitLabServer,
    HarborServer,
    HubServer,
    Registry,
    make_index,
)

TOKEN = "personal-token"
URLS = "api=http://{}&registry=http://{}"
ADDRESSES = {
    "harbor": "harbor://{}/kolla/GLOB?insecure=true",
    "hub": f"hub://kolla/GLOB?{URLS}",
    "ghcr": f"ghcr://kolla/GLOB?{URLS}",
    "gitlab": f"gitlab://{{}}/kolla/GLOB?insecure=true&{URLS}",
}
KINDS: dict[str, Callable[..., ForeignServer]] = {
    "harbor": HarborServer,
    "hub": HubServer,
    "ghcr": GitHubServer,
    "gitlab": GitLabServer,
}


class Clock:
    """The time of a server and of its clients."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def content(clock: Clock, count: int = 3, *, tags: tuple[str, ...] = ("1",)) -> Registry:
    """Return a registry with `count` images for each of `tags`, one of them in a nested repository."""
    registry = Registry(now=clock)
    kolla = registry.organization("kolla")
    for number in range(count):
        for tag in tags:
            kolla.repository(f"image-{number}" if number else "deep/image").push(tag, small_image(f"{number}-{tag}"))

    clock.now += 3600
    return registry


def at(server: ForeignServer, kind: str, names: str) -> Selection:
    return Selection.parse_uri(ADDRESSES[kind].replace("{}", server.host).replace("GLOB", names))


def options(tmp_path: Path, **more: object) -> Options:
    more = {"referrers": ReferrerMode.NONE, **more}  # requests are counted
    return Options.of(credentials=Credentials("mirror", Secret(TOKEN)), state=tmp_path / "state", **more)


# The requests of the second night: the list, and what the kind needs for each of 3 tags. Tokens are not counted.
SECOND = {
    # The pulls of the first night moved the time of each repository; the third night asks for the list only.
    "harbor": {"GET /api/v2.0/systeminfo": 1, "GET /api/v2.0/projects/kolla/repositories": 1, "GET artifacts": 3},
    "hub": {"GET /v2/namespaces/kolla/repositories": 1},
    "ghcr": {"GET /orgs/kolla/packages": 1},
    "gitlab": {"GET /api/v4/groups/kolla/registry/repositories": 1, "HEAD manifests": 3},
}


def asked(server: ForeignServer, since: int) -> Counter[str]:
    """Return the answered requests, without those for tokens, by method and path or what is at the end of it."""
    found: Counter[str] = Counter()
    for request in server.requests[since:]:
        if request.status == 200 and request.path not in (server.token_path, "/v2/auth/token"):
            part = next((part for part in ("manifests", "artifacts") if f"/{part}/" in request.path), request.path)
            found[f"{request.method} {part}"] += 1

    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_a_project_is_mirrored_and_the_second_night_costs_what_the_docs_say(kind: str, tmp_path: Path) -> None:
    clock = Clock()
    registry = content(clock)
    async with KINDS[kind](registry, accounts={"mirror": TOKEN}) as server:
        selection = at(server, kind, "*:1")
        report = await quaymirror.sync(selection, tmp_path / "mirror", options(tmp_path))
        assert {outcome.reference.name for outcome in report.outcomes} == {
            "kolla/deep/image:1",
            "kolla/image-1:1",
            "kolla/image-2:1",
        }
        assert (report.counts[Status.MIRRORED], report.exit_code) == (3, ExitCode.OK)

        clock.now += 86_400
        before = len(server.requests)
        report = await quaymirror.sync(selection, tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.UNCHANGED], report.exit_code) == (3, ExitCode.OK)
        assert asked(server, before) == SECOND[kind]

        clock.now += 86_400
        before = len(server.requests)
        registry.organization("kolla").repository("image-1").push("1", small_image("new"))
        clock.now += 60
        report = await quaymirror.sync(selection, tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.MIRRORED], report.counts[Status.UNCHANGED]) == (1, 2)
        if kind == "harbor":
            # The moved one, and again at the end: its pull moved the time of its repository.
            assert asked(server, before)["GET artifacts"] == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_globs_for_tags_and_private_repositories_are_mirrored_with_a_token(kind: str, tmp_path: Path) -> None:
    clock = Clock()
    registry = content(clock, 2, tags=("1.0", "1.1", "2.0"))
    registry.organization("kolla").repository("secret", public=False).push("1.2", small_image("secret"))
    async with KINDS[kind](registry, accounts={"mirror": TOKEN}) as server:
        report = await quaymirror.sync(at(server, kind, "*:1.*"), tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.MIRRORED], report.exit_code) == (5, ExitCode.OK)
        wrong = Options.of(credentials=Credentials("mirror", Secret("wrong")), state=tmp_path / "state")
        refused = await quaymirror.sync(at(server, kind, "*:1.*"), tmp_path / "other", wrong)
        assert refused.exit_code is ExitCode.CREDENTIALS
        assert refused.fatal is not None
        assert "wrong" not in refused.fatal.message


@pytest.mark.parametrize("kind", ["harbor", "hub", "gitlab"])
async def test_public_images_need_no_account(kind: str, tmp_path: Path) -> None:
    clock = Clock()
    async with KINDS[kind](content(clock)) as server:
        report = await quaymirror.sync(at(server, kind, "*:1"), tmp_path / "mirror")
        assert (report.counts[Status.MIRRORED], report.exit_code) == (3, ExitCode.OK)


async def test_github_lists_to_tokens_only_but_named_packages_need_none(tmp_path: Path) -> None:
    async with GitHubServer(content(Clock())) as server:
        refused = await quaymirror.sync(at(server, "ghcr", "*:1"), tmp_path / "mirror")
        assert refused.exit_code is ExitCode.CREDENTIALS
        assert refused.fatal is not None
        assert "read:packages" in refused.fatal.message
        report = await quaymirror.sync(at(server, "ghcr", "image-1,deep/image:1"), tmp_path / "mirror")
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
        assert server.count("packages") == 0


@pytest.mark.parametrize("kind", ["hub", "ghcr", "gitlab"])
async def test_nothing_is_pruned_by_a_list_that_may_hide_repositories(kind: str, tmp_path: Path) -> None:
    async with KINDS[kind](content(Clock()), accounts={"mirror": TOKEN}) as server:
        with pytest.raises(ConfigError, match="does not prove that an image was deleted"):
            await quaymirror.sync(at(server, kind, "*:1"), tmp_path / "mirror", options(tmp_path, prune=True))

        assert server.requests == []


async def test_harbor_shows_absence_and_hidden_projects_are_refused(tmp_path: Path) -> None:
    clock = Clock()
    registry = content(clock)
    async with HarborServer(registry, accounts={"mirror": TOKEN}) as server:
        selection = at(server, "harbor", "*:1")
        await quaymirror.sync(selection, tmp_path / "mirror", options(tmp_path, prune=True))
        registry.organization("kolla").repository("image-1", public=False).is_public = False
        hidden = await quaymirror.sync(selection, tmp_path / "mirror", Options.of(state=tmp_path / "state", prune=True))
        assert hidden.exit_code is ExitCode.CREDENTIALS
        unknown = Selection.parse_uri(str(selection).replace("kolla/", "unheard-of/"))
        empty = await quaymirror.sync(unknown, tmp_path / "mirror", options(tmp_path))
        assert empty.exit_code is ExitCode.EMPTY


async def test_an_older_harbor_is_asked_for_every_tag(tmp_path: Path) -> None:
    clock = Clock()
    async with HarborServer(content(clock), accounts={"mirror": TOKEN}, version="v2.11.1-x") as server:
        for _ in range(3):
            before = len(server.requests)
            await quaymirror.sync(at(server, "harbor", "*:1"), tmp_path / "mirror", options(tmp_path))
            clock.now += 86_400

        assert asked(server, before)["GET artifacts"] == 3


async def test_hub_stops_within_its_limit_and_the_next_windows_lose_nothing(tmp_path: Path) -> None:
    clock, limited = Clock(), Options.of(state=tmp_path / "state", referrers=ReferrerMode.NONE)
    registry = content(clock, 12)
    index = make_index([(small_image("amd64"), "linux/amd64"), (small_image("arm64"), "linux/arm64")])
    registry.organization("kolla").repository("multi").push("1", index)
    clock.now += 3600
    async with HubServer(registry, pulls=6) as server:
        selection, mirrored = at(server, "hub", "*:1"), 0
        for window in range(1, 6):  # noqa: B007 - the last one is of interest
            report = await quaymirror.sync(selection, tmp_path / "mirror", limited)
            mirrored += report.counts[Status.MIRRORED]
            if report.exit_code is ExitCode.OK:
                break

            assert report.exit_code is ExitCode.PARTIAL
            failed = next(outcome for outcome in report.outcomes if outcome.status is Status.FAILED)
            assert failed.error is not None
            assert "the limit of 6 pulls in 6 h is reached; pulls resume by" in failed.error.message
            assert "docker login" in failed.error.message
            clock.now += 86_400

        assert (mirrored, window) == (13, 3)  # 15 manifests
        assert not any(request.status == 429 for request in server.requests)
        before = len(server.requests)
        report = await quaymirror.sync(selection, tmp_path / "mirror", limited)
        assert report.counts[Status.UNCHANGED] == 13
        assert asked(server, before) == SECOND["hub"]


async def test_a_used_up_limit_of_hub_is_found_out_without_a_pull(tmp_path: Path) -> None:
    async with HubServer(content(Clock()), pulls=0) as server:
        report = await quaymirror.sync(at(server, "hub", "*:1"), tmp_path / "mirror")
        assert report.exit_code is ExitCode.PARTIAL
        assert [
            request.method for request in server.requests if "/manifests/" in request.path if request.status == 200
        ] == ["HEAD"]


async def test_tokens_of_hub_are_renewed_before_they_expire(tmp_path: Path) -> None:
    clock = Clock()
    async with HubServer(content(clock, 2), accounts={"mirror": TOKEN}) as server:
        await quaymirror.sync(at(server, "hub", "*:1"), tmp_path / "mirror", options(tmp_path))
        assert server.count("/v2/auth/token") == 1
        # A token that the server no longer takes is replaced in the middle of the listing.
        seen: list[str] = []

        def expire(request: object) -> None:
            if "/tags/" in getattr(request, "path", "") and not seen:
                seen.append("expired")
                server.forget_tokens()

        server.overrides.append(expire)
        clock.now += 8 * 86_400  # every tag is checked again
        report = await quaymirror.sync(at(server, "hub", "*:1"), tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.UNCHANGED], report.exit_code) == (2, ExitCode.OK)
        assert server.count("/v2/auth/token") == 3


async def test_old_tags_of_hub_without_a_digest_are_resolved_by_the_registry(tmp_path: Path) -> None:
    async with HubServer(content(Clock(), 2)) as server:
        server.without_digest.add("kolla/image-1:1")
        for tags in ("1", "[1-9]"):
            report = await quaymirror.sync(at(server, "hub", f"*:{tags}"), tmp_path / f"mirror-{len(tags)}")
            assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)


async def test_repositories_that_gitlab_is_deleting_are_left_out(tmp_path: Path) -> None:
    async with GitLabServer(content(Clock())) as server:
        server.deleting = frozenset({"kolla/image-1"})
        report = await quaymirror.sync(at(server, "gitlab", "*:1"), tmp_path / "mirror")
        assert (len(report.outcomes), report.exit_code) == (2, ExitCode.OK)


async def test_the_registry_of_a_gitlab_is_named_if_it_is_elsewhere(tmp_path: Path) -> None:
    async with GitLabServer(content(Clock())) as server:
        selection = Selection.parse_uri(f"gitlab://{server.host}/kolla/*:1?insecure=true&registry=http://localhost:1")
        report = await quaymirror.sync(selection, tmp_path / "mirror")
        assert report.exit_code is not ExitCode.OK
        assert report.fatal is not None
        assert f"its images are at '{server.host}', not at localhost:1: add ?registry=" in report.fatal.message


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("harbor://", "not a host"),
        ("harbor://host", "PROJECT is missing"),
        ("harbor://host/p/*:1?api=http://x", "harbor:// has no option 'api'; it has insecure"),
        ("harbor://user:secret@host/p/*:1", "takes no credentials"),
        ("hub://docker.io/library/nginx:1", "hub:// takes no host"),
        ("hub://library/nginx:1?api=ftp://x", "api is not a URL"),
        ("hub://library/nginx:1?registry=https://x/path", "registry has more than a host"),
        ("ghcr://", "OWNER is missing"),
        ("gitlab://host/Group/[:1", "not a valid glob"),
        ("gitlab://host/g/*:1?insecure=maybe", "insecure is true or false"),
    ],
)
def test_addresses_are_checked_before_any_request(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Selection.parse_uri(address)

    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        "harbor://harbor.example:8443/kolla/nova-*,glance:1,2*?insecure=true&since=2025-01-01",
        "hub://library/nginx:1.27",
        "ghcr://owner/app/web:latest?api=https://ghe.example/api/v3&registry=https://containers.ghe.example",
        "gitlab://gitlab.example/group/sub/project/*:latest",
    ],
)
def test_addresses_are_spelt_as_they_are_read(address: str) -> None:
    selection = Selection.parse_uri(address)
    assert Selection.parse_uri(str(selection)) == selection
    assert str(selection) == address


def test_defaults_of_addresses() -> None:
    hub, ghcr, gitlab = (
        Selection.parse_uri(text) for text in ("hub://library", "ghcr://Owner/app", "gitlab://gitlab.com/Group/*:1")
    )
    assert [(each.organization, each.globs, each.tags) for each in (hub, ghcr, gitlab)] == [
        ("library", ("*",), ("latest",)),
        ("owner", ("app",), ("latest",)),
        ("group", ("*",), ("1",)),
    ]
    assert [each.source and (each.source.api_url, str(each.source.origin)) for each in (hub, ghcr, gitlab)] == [
        ("https://hub.docker.com", "https://registry-1.docker.io"),
        ("https://api.github.com", "https://ghcr.io"),
        ("https://gitlab.com", "https://registry.gitlab.com"),
    ]
