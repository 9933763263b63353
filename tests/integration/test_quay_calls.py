"""The calls of Quay's API that a run needs: one page for several tags, and the token only where it counts."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from organizations import small_image

import quaymirror
from quaymirror import Credentials, Options, Secret, Selection, Status
from quaymirror.errors import ExitCode
from quaymirror.testing import QuayServer, Registry


def content(count: int, *tags: str) -> Registry:
    registry = Registry()
    kolla = registry.organization("kolla")
    for number in range(count):
        for tag in tags:
            kolla.repository(f"image-{number}").push(tag, small_image(f"{number}-{tag}"))

    return registry


async def test_several_tags_of_a_repository_are_one_call(tmp_path: Path) -> None:
    registry = content(4, "a", "b", "c")
    async with QuayServer(registry) as server:
        report = await quaymirror.sync(
            Selection("kolla", tags="a,b,missing"), tmp_path / "mirror", Options.of(server=server.url)
        )
        assert (report.counts[Status.MIRRORED], report.exit_code) == (8, ExitCode.PARTIAL)  # `missing` is unmatched
        calls = [request.query for request in server.requests if request.path.endswith("/tag/")]
        assert len([query for query in calls if "limit=100&page=1" in query]) >= 4
        assert not any("specificTag" in query for query in calls)


async def test_tags_that_a_page_does_not_have_are_looked_up(tmp_path: Path) -> None:
    registry = content(1, "old", *(f"new-{number}" for number in range(120)))
    async with QuayServer(registry) as server:
        selection = Selection("kolla", tags="new-119,old,missing")
        options = Options.of(server=server.url, allow_unmatched=True)
        report = await quaymirror.sync(selection, tmp_path / "mirror", options)
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)


async def test_the_api_token_is_sent_for_the_list_and_for_private_repositories_only(tmp_path: Path) -> None:
    registry = content(3, "1")
    kolla = registry.organization("kolla")
    kolla.repository("secret", public=False).push("1", small_image("secret"))
    kolla.grant("owner")
    token = registry.oauth_token("owner")
    async with QuayServer(registry) as server:
        options = Options.of(server=server.url, api_token=Secret(token))
        report = await quaymirror.sync(Selection("kolla", tags="1"), tmp_path / "mirror", options)
        assert (report.counts[Status.MIRRORED], report.exit_code) == (4, ExitCode.OK)
        sent = {
            request.path for request in server.requests if request.path.startswith("/api/") and _has(request, token)
        }
        assert sent == {"/api/v1/repository", "/api/v1/repository/kolla/secret/tag/"}


async def test_a_repository_that_became_private_is_asked_for_with_the_token(tmp_path: Path) -> None:
    registry = content(2, "1")
    kolla = registry.organization("kolla")
    kolla.grant("owner")
    token = registry.oauth_token("owner")
    hidden = kolla.repository("image-0")

    async with QuayServer(registry) as server:

        def hide(request: object) -> None:
            hidden.is_public = hidden.is_public and "/tag/" not in getattr(request, "path", "")

        server.on_request = hide
        options = Options.of(server=server.url, api_token=Secret(token))
        report = await quaymirror.sync(Selection("kolla", tags="1"), tmp_path / "mirror", options)
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)


async def test_a_robot_account_alone_mirrors_the_private_repositories_that_it_may_read(tmp_path: Path) -> None:
    registry = content(2, "1", "2")
    kolla = registry.organization("kolla")
    for name in ("hidden", "secret"):
        kolla.repository(name, public=False).push("1", small_image(name))

    kolla.repository("secret").grant("kolla+mirror")
    robot = Credentials("kolla+mirror", Secret(registry.robot("kolla+mirror").token))
    async with QuayServer(registry) as server:
        options = Options.of(server=server.url, credentials=robot)
        for tags, names in (("1", 3), ("[1-9]", 5)):
            report = await quaymirror.sync(Selection("kolla", tags=tags), tmp_path / f"mirror-{len(tags)}", options)
            assert (report.counts[Status.MIRRORED], report.exit_code) == (names, ExitCode.OK)

        assert not any("scope" in request.query for request in server.requests if request.path == "/v2/_catalog")
        wrong = options.replace(credentials=Credentials("kolla+mirror", Secret("wrong")))
        refused = await quaymirror.sync(Selection("kolla", tags="1"), tmp_path / "refused", wrong)
        assert refused.exit_code is ExitCode.CREDENTIALS


@pytest.mark.parametrize("user", ["kolla+mirror", "other+mirror"])
async def test_a_stored_robot_account_lists_the_private_repositories_of_its_own_organization(
    user: str, tmp_path: Path
) -> None:
    registry = content(2, "1")
    hidden = registry.organization("kolla").repository("hidden", public=False)
    hidden.push("1", small_image("hidden"))
    hidden.grant(user)
    pair = base64.b64encode(f"{user}:{registry.robot(user).token}".encode()).decode()
    async with QuayServer(registry) as server:
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {server.host: {"auth": pair}}}))
        notices: list[str] = []
        options = Options.of(server=server.url, authfile=tmp_path / "auth.json", prune=True)
        report = await quaymirror.sync(
            Selection("kolla", tags="1"),
            tmp_path / "mirror",
            options,
            observer=lambda event: notices.append(str(event)),
        )
        is_own = user.startswith("kolla+")
        assert (report.counts[Status.MIRRORED], report.exit_code) == (3 if is_own else 2, ExitCode.OK)
        assert any("the account may not see all repositories" in notice for notice in notices) is is_own
        assert any("the listing of kolla is anonymous" in notice for notice in notices) is not is_own


async def test_stored_credentials_that_cannot_be_read_are_reported_and_public_repositories_mirrored(
    tmp_path: Path,
) -> None:
    notices: list[str] = []
    async with QuayServer(content(2, "1")) as server:
        (tmp_path / "auth.json").write_text(json.dumps({"credsStore": "no-such-helper"}))
        report = await quaymirror.sync(
            Selection("kolla", tags="1"),
            tmp_path / "mirror",
            Options.of(server=server.url, authfile=tmp_path / "auth.json"),
            observer=lambda event: notices.append(str(event)),
        )
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
        assert any("the listing of kolla has no private repositories: " in notice for notice in notices)


async def test_an_organization_without_public_repositories_is_mirrored_by_a_robot_and_never_pruned(
    tmp_path: Path,
) -> None:
    registry = Registry()
    kolla = registry.organization("kolla")
    for name in ("a", "b"):
        kolla.repository(name, public=False).push("1", small_image(name))
        kolla.repository(name).grant("kolla+mirror")

    robot = Credentials("kolla+mirror", Secret(registry.robot("kolla+mirror").token))
    notices: list[str] = []
    async with QuayServer(registry) as server:
        options = Options.of(server=server.url, credentials=robot, prune=True, grace=0.0)
        report = await quaymirror.sync(Selection("kolla", tags="1"), tmp_path / "mirror", options)
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
        kolla.repository("a").readers.clear()
        for login in (robot, None):
            report = await quaymirror.sync(
                Selection("kolla", tags="1"),
                tmp_path / "mirror",
                options.replace(credentials=login, allow_empty=True),
                observer=lambda event: notices.append(str(event)),
            )

        assert any("the account may not see all repositories" in notice for notice in notices)
        index = (tmp_path / "mirror" / "index.json").read_text()
        assert "kolla/a:1" in index
        assert "kolla/b:1" in index


def _has(request: object, token: str) -> bool:
    return token in getattr(request, "headers", {}).get("authorization", "")
