"""APIs of registries that answer nonsense: each is one line, and nothing is followed to another host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from organizations import small_image

import quaymirror
from quaymirror import Credentials, Options, Secret, Selection, Status
from quaymirror.errors import ExitCode
from quaymirror.testing import ForeignServer, GitHubServer, GitLabServer, HarborServer, HubServer, Registry

TOKEN = "personal-token"
URLS = "api=http://{}&registry=http://{}"
KINDS: dict[str, tuple[Any, str, str]] = {
    "harbor": (HarborServer, "harbor://{}/kolla/*:TAG?insecure=true", r"/projects/kolla/repositories$"),
    "hub": (HubServer, f"hub://kolla/*:TAG?{URLS}", r"/kolla/repositories$"),
    "ghcr": (GitHubServer, f"ghcr://kolla/*:TAG?{URLS}", r"/packages$"),
    "gitlab": (GitLabServer, f"gitlab://{{}}/kolla/*:TAG?insecure=true&{URLS}", r"/registry/repositories$"),
}


def make(kind: str, count: int = 2) -> ForeignServer:
    registry = Registry()
    kolla = registry.organization("kolla")
    for number in range(count):
        kolla.repository(f"image-{number}").push("1", small_image(str(number)))

    server: ForeignServer = KINDS[kind][0](registry, accounts={"mirror": TOKEN})
    return server


def answering(path: str, body: bytes, status: int = 200, **headers: str) -> Any:
    """Return an override that answers requests for `path` with `body`."""

    def override(request: web.BaseRequest) -> web.Response | None:
        if re.search(path, request.raw_path.partition("?")[0]):
            fields = {"Content-Type": "application/json"} | {key.replace("_", "-"): headers[key] for key in headers}
            return web.Response(body=body, status=status, headers=fields)

        return None

    return override


async def sync(server: ForeignServer, kind: str, target: Path, tag: str = "1") -> quaymirror.Report:
    selection = Selection.parse_uri(KINDS[kind][1].replace("{}", server.host).replace("TAG", tag))
    login = Credentials("mirror", Secret(TOKEN))
    return await quaymirror.sync(selection, target, Options.of(credentials=login, retries=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body", [b"<html>", b'{"a": ', b'"text"', b"[" * 100_000, b'{"results": 5}', b'\xff\xfe"', b"7"]
)
async def test_a_list_that_is_none_ends_the_run_with_one_line(kind: str, body: bytes, tmp_path: Path) -> None:
    async with make(kind) as server:
        server.overrides.append(answering(KINDS[kind][2], body))
        report = await sync(server, kind, tmp_path / "mirror")
        assert report.exit_code is ExitCode.UNAVAILABLE
        assert report.fatal is not None
        assert "\n" not in report.fatal.message
        assert TOKEN not in report.fatal.message


BAD_NAMES: list[Any] = ["../../etc", "UPPER", "a//b", "\x1b[31m", "x" * 300, None, 7, {}]


@pytest.mark.parametrize("kind", KINDS)
async def test_names_that_break_the_grammar_are_left_out_and_reported(kind: str, tmp_path: Path) -> None:
    prefix = "" if kind in ("hub", "ghcr") else "kolla/"
    key = "path" if kind == "gitlab" else "name"
    bad: list[Any] = [{key: f"{prefix}{name}" if isinstance(name, str) else name} for name in BAD_NAMES] + [
        None,
        [],
        "text",
    ]
    good = {key: f"{prefix}image-0", "update_time": "2025-01-01T00:00:00Z"}
    entries = [*bad, good]
    if kind == "gitlab":
        entries = [
            entry for entry in entries if entry != {key: f"{prefix}UPPER"}
        ]  # GitLab's projects may have capitals

    document = {"count": len(entries), "next": None, "results": entries} if kind == "hub" else entries
    async with make(kind) as server:
        server.overrides.append(answering(KINDS[kind][2], json.dumps(document).encode()))
        report = await sync(server, kind, tmp_path / "mirror")
        assert report.exit_code is ExitCode.PARTIAL
        assert [outcome.reference.name for outcome in report.outcomes] == ["kolla/image-0:1"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_next_page_at_another_host_is_not_followed(kind: str, tmp_path: Path) -> None:
    there = "http://localhost:9/v2/next?page=2"
    async with make(kind) as server:
        entry = {"name": "image-0", "path": "kolla/image-0"}
        document = {"count": 200, "next": there, "results": [entry]} if kind == "hub" else [entry]
        body = json.dumps(document).encode()
        server.overrides.append(answering(KINDS[kind][2], body, Link=f'<{there}>; rel="next"'))
        report = await sync(server, kind, tmp_path / "mirror")
        assert report.exit_code is ExitCode.UNAVAILABLE
        assert report.fatal is not None
        assert "the next page is at another host, localhost:9: not followed" in report.fatal.message


@pytest.mark.parametrize("kind", ["harbor", "hub", "ghcr"])
@pytest.mark.parametrize("tags", [None, [], [{"name": "../../x"}], [{"name": None}], [7], 7, 1.5, "x", {"a": 1}])
async def test_tags_that_are_none_or_nonsense_select_nothing(kind: str, tags: Any, tmp_path: Path) -> None:
    digest = small_image("0").digest
    documents: dict[str, Any] = {
        "harbor": [{"digest": digest, "tags": tags}],
        "hub": {"count": 1, "next": None, "results": tags},
        "ghcr": [{"name": digest, "metadata": {"container": {"tags": tags}}}],
    }
    async with make(kind, 1) as server:
        server.overrides.append(answering(r"(artifacts|/tags|versions)$", json.dumps(documents[kind]).encode()))
        report = await sync(server, kind, tmp_path / "mirror", "[0-9]")
        assert report.exit_code in (ExitCode.PARTIAL, ExitCode.EMPTY)
        assert not report.counts[Status.MIRRORED]


@pytest.mark.parametrize("kind", ["harbor", "hub", "ghcr"])
async def test_an_image_without_a_digest_fails_its_check(kind: str, tmp_path: Path) -> None:
    documents: dict[str, Any] = {
        "harbor": [{"digest": "sha256:xyz", "tags": [{"name": "1"}]}],
        "hub": {"count": 1, "next": None, "results": [{"name": "1", "digest": "nonsense"}]},
        "ghcr": [{"name": None, "metadata": {"container": {"tags": ["1"]}}}],
    }
    async with make(kind, 1) as server:
        server.overrides.append(answering(r"(artifacts|/tags|versions)$", json.dumps(documents[kind]).encode()))
        report = await sync(server, kind, tmp_path / "mirror", "[0-9]")
        assert report.exit_code is not ExitCode.OK
        assert report.failed_checks


@pytest.mark.parametrize("kind", KINDS)
async def test_a_page_of_a_proxy_is_never_read_as_an_empty_project(kind: str, tmp_path: Path) -> None:
    async with make(kind) as server:
        page = b"<html><h1>502 Bad Gateway</h1></html>"
        server.overrides.append(answering("^/(api|v2/namespaces|orgs|users)", page, 404, Content_Type="text/html"))
        report = await sync(server, kind, tmp_path / "mirror")
        assert report.exit_code is ExitCode.UNAVAILABLE


async def test_a_limit_of_github_that_is_used_up_is_no_refusal_of_the_token(tmp_path: Path) -> None:
    async with make("ghcr") as server:
        reset = str(int(server.registry.now()) + 3000)
        body = b'{"message": "API rate limit exceeded"}'
        headers = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": reset}
        server.overrides.append(answering("/packages$", body, 403, **headers))
        report = await sync(server, "ghcr", tmp_path / "mirror")
        assert report.exit_code is ExitCode.UNAVAILABLE
        assert report.fatal is not None
        assert re.search(r"come back in (2,?9[0-9]{2}|3,?000) s", report.fatal.message)


def without_links(server: ForeignServer) -> None:
    """Let `server` answer without the links to next pages, as behind a proxy that drops them."""
    route = server._route

    def answer(request: web.BaseRequest, path: str, body: bytes) -> web.Response:
        response = route(request, path, body)
        response.headers.pop("Link", None)
        return response

    server._route = answer  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["harbor", "gitlab"])
async def test_a_list_whose_links_are_lost_is_read_to_the_number_of_entries_that_it_states(
    kind: str, tmp_path: Path
) -> None:
    async with make(kind, 120) as server:
        without_links(server)
        selection = Selection.parse_uri(KINDS[kind][1].replace("{}", server.host).replace("TAG", "1"))
        options = Options.of(credentials=Credentials("mirror", Secret(TOKEN)), retries=0)
        assert len([image async for image in quaymirror.discover(selection, options)]) == 120


async def test_tags_of_harbor_whose_links_are_lost_are_read_to_the_stated_number(tmp_path: Path) -> None:
    async with make("harbor", 1) as server:
        repository = server.registry.organization("kolla").repository("image-0")
        for number in range(120):
            repository.push(f"build-{number}", small_image(str(number)))

        without_links(server)
        report = await sync(server, "harbor", tmp_path / "mirror", "build-*")
        assert report.counts[Status.MIRRORED] == 120
