"""Answers that say less than they seem to: their consequences in a run, and the messages about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import pytest
from aiohttp import web
from commands import run
from organizations import TAG, small_image
from pushing import organization
from receiver import Receiver
from trouble import GLANCE, NOVA, two_images

from quaymirror.testing import (
    Call,
    ExtraHeaders,
    Fault,
    QuayServer,
    Redirect,
    Registry,
    ReplaceBody,
    Status,
    make_image,
    make_index,
    make_layer,
    too_many_requests,
)

LISTING = "^/api/v1/repository$"
JSON = {"Content-Type": "application/json"}


def words(server: QuayServer, *more: str, tag: str = TAG) -> list[str]:
    return ["sync", "kolla", "*", tag, "--server", server.url, "--to", "mirror", "--report", "report.json", *more]


def report(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "report.json").read_text())
    return document


# Listings


def _without_tags(_: object) -> web.Response:
    entries = [{"name": name, "namespace": "kolla", "last_modified": None} for name in ("nova", "glance", "empty")]
    return web.json_response({"repositories": entries})


async def test_no_date_of_a_repository_that_had_tags_is_checked_again(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        prune = ("--prune", "--grace", "0s", "--ignore-max-delete")
        await run(*words(server, *prune), cwd=tmp_path, check=0)
        server.faults.append(Fault(LISTING, Call(_without_tags)))
        before = len(server.requests)
        await run(*words(server, *prune, "--full-check"), cwd=tmp_path, check=0)
        asked = {request.path.split("/")[5] for request in server.requests[before:] if "/tag/" in request.path}

    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}
    assert asked == {"nova", "glance"}  # no request for a repository that never had tags


async def test_tags_with_impossible_names_make_a_run_partial(tmp_path: Path) -> None:
    body = {"tags": [{"name": "-bad", "manifest_digest": "sha256:" + "0" * 64}], "has_additional": False}
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/api/v1/repository/kolla/nova/tag/", ReplaceBody(json.dumps(body).encode())))
        await run(*words(server, tag="2025*"), cwd=tmp_path, check=3)

    assert report(tmp_path)["repositories"]["rejected"] == 1


# Accepted failures

BROKEN = Fault(
    "^/v2/kolla/nova/", Status(404, JSON, b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "it was lost"}]}')
)


async def test_accepted_failures_are_no_failures_and_their_end_is_reported(tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.txt"
    accepted.write_text("# known to be broken\nkolla/no*:2025.1-*  # a glob\n")
    async with QuayServer(two_images()) as server:
        server.faults.append(BROKEN)
        await run(*words(server), cwd=tmp_path, check=3)
        done = await run(*words(server, "--accept-failed", str(accepted)), cwd=tmp_path, check=0)
        assert "1 failure accepted" in done.stderr
        assert "it was lost" in done.stderr
        assert [outcome.get("accepted") for outcome in report(tmp_path)["outcomes"]] == [None, True]
        server.faults.clear()
        done = await run(*words(server, "--accept-failed", str(accepted)), cwd=tmp_path, check=0)

    assert f"no failure any more: {NOVA}; remove from {accepted}" in done.stderr


@pytest.mark.parametrize("line", ["kolla nova", "kolla/nova", "kolla/nova\x1b[2J:x"])
async def test_a_line_that_is_no_reference_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "accepted.txt").write_text(line)
    done = await run("sync", "kolla", "*", TAG, "--accept-failed", "accepted.txt", cwd=tmp_path, check=2)
    assert "accepted.txt, line 1" in done.stderr


# Credentials


async def test_an_anonymous_listing_is_reported_and_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text("{}")
    async with QuayServer(two_images()) as server:
        done = await run(*words(server, "--authfile", "auth.json"), cwd=tmp_path, check=0)
        assert "the listing of kolla is anonymous" in done.stderr.partition("notes:")[2]
        requests = len(server.requests)
        done = await run(*words(server, "--require-private"), cwd=tmp_path, check=4)
        assert len(server.requests) == requests

    assert "--token-file" in done.stderr


async def test_a_token_without_its_scope_has_the_same_end_in_list_and_sync(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("kolla").repository("secret", public=False).push(TAG, small_image("secret"))
    registry.organization("kolla").admins.add("me")
    registry.oauth_token("me", value="canary-of-a-token", scopes=("user:read",))
    (tmp_path / "token").write_text("canary-of-a-token")
    async with QuayServer(registry) as server:
        for command in (words(server), ["list", "kolla", "*", TAG, "--server", server.url]):
            done = await run(*command, "--token-file", "token", cwd=tmp_path, check=4)
            assert "repo:read" in done.stderr


async def test_a_token_that_suddenly_sees_one_of_160_repositories_is_a_line_of_the_summary(tmp_path: Path) -> None:
    registry = Registry()
    for number in range(160):
        registry.organization("kolla").repository(f"image-{number:03}", public=number == 0).push(
            TAG, small_image("same")
        )

    registry.organization("kolla").admins.add("me")
    registry.oauth_token("me", value="a-good-token", scopes=("repo:read",))
    registry.oauth_token("stranger", value="a-poor-token", scopes=("repo:read",))
    (tmp_path / "token").write_text("a-good-token")
    async with QuayServer(registry) as server:
        await run(*words(server, "--token-file", "token"), cwd=tmp_path, check=0)
        (tmp_path / "token").write_text("a-poor-token")
        done = await run(*words(server, "--token-file", "token"), cwd=tmp_path, check=0)
        assert "-159 missing at source" in done.stderr
        assert "unchanged        1" in done.stderr


# Servers that are something else


async def test_a_server_without_the_api_is_recognised(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/api/", Status(404, {"Content-Type": "text/plain"}, b"404 page not found\n")))
        done = await run(*words(server), cwd=tmp_path, check=5)

    assert f"registry://{server.host}/kolla/REPO:TAG?insecure=true" in done.stderr
    assert sum(request.path.startswith("/api/") for request in server.requests) == 1


async def test_a_server_that_redirects_to_https_is_named(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("", Redirect(f"https://{server.host}/")))
        done = await run(*words(server), cwd=tmp_path, check=5)

    assert "redirects plain HTTP to HTTPS: write https://" in done.stderr
    assert len(server.requests) == 1


async def test_tls_and_plain_http_that_are_taken_for_each_other_are_named(tmp_path: Path) -> None:
    page = b"<html>400 The plain HTTP request was sent to HTTPS port</html>"
    async with QuayServer(two_images()) as server:
        done = await run("list", "kolla", "*", TAG, "--server", f"https://{server.host}", cwd=tmp_path, check=5)
        assert "does not speak TLS" in done.stderr
        assert "http://" in done.stderr
        server.faults.append(Fault("", Status(400, {"Content-Type": "text/html"}, page)))
        done = await run("list", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=5)

    assert "speaks TLS, not plain HTTP" in done.stderr
    assert len(server.requests) == 1


async def test_a_name_that_does_not_exist_is_not_tried_again(tmp_path: Path) -> None:
    done = await run("list", "kolla", "*", TAG, "--server", "quay.invalid", cwd=tmp_path, check=5)
    assert "cannot resolve the host name" in done.stderr


@pytest.mark.parametrize("path", ["^/api/v1/repository$", "^/v2/kolla/nova/manifests/"])
async def test_a_proxy_that_changes_answers_is_named(path: str, tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        compressed = ReplaceBody(b"\x1f\x8b compressed")
        server.faults.append(Fault(path, compressed))
        server.faults.append(Fault(path, ExtraHeaders({"Content-Encoding": "gzip"})))
        done = await run(*words(server, "--retries", "0"), cwd=tmp_path)
        assert "a proxy has changed the answer (Content-Encoding: gzip)" in done.stderr
        server.faults[:] = [Fault(path, ReplaceBody(b"<html>Log in</html>", "text/html"))]
        done = await run(*words(server, "--retries", "0"), cwd=tmp_path)

    assert "a page in HTML, of a proxy or for a login" in done.stderr


@pytest.mark.parametrize(("length", "size"), [("the same", 2048), ("the same", 200_000), ("another", 2048)])
async def test_a_blob_that_a_proxy_has_changed_is_named_as_such(length: str, size: int, tmp_path: Path) -> None:
    image = small_image("nova", size)
    layer = json.loads(image.raw)["layers"][0]
    page = b"<html>Log in</html>".ljust(layer["size"] + (length != "the same"))
    async with QuayServer(organization(image)) as server:
        fault = Fault(layer["digest"].partition(":")[2], ReplaceBody(page, "text/html"))
        server.faults.append(fault)
        done = await run(*words(server, "--retries", "0"), cwd=tmp_path, check=3)
        assert "200 with a page in HTML, of a proxy or for a login" in done.stderr
        squeezed = ReplaceBody(page.replace(b"<html>", b"\x1f\x8b abc"))
        encoded = Fault(fault.path, ExtraHeaders({"Content-Encoding": "gzip"}))
        server.faults[:] = [Fault(fault.path, squeezed), encoded]
        done = await run(*words(server, "--retries", "0"), cwd=tmp_path, check=3)
        assert "a proxy has changed the answer (Content-Encoding: gzip)" in done.stderr
        # Storage may label a layer like that whose bytes are right.
        server.faults[:] = [encoded]
        await run(*words(server, "--retries", "0"), cwd=tmp_path, check=0)


async def test_list_reports_that_it_waits(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(LISTING, too_many_requests("1"), times=1))
        done = await run("list", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)

    assert "paused" in done.stderr
    assert "answered 429" in done.stderr


# Indexes

CHILDREN = [make_image([make_layer(name, 500)], labels={"arch": name}) for name in ("amd64", "arm64")]
INDEX = make_index([(CHILDREN[0], "linux/amd64"), (CHILDREN[1], "linux/arm64")])


def indexed() -> Registry:
    registry = Registry()
    registry.organization("kolla").repository("multi").push(TAG, INDEX)
    registry.organization("kolla").repository("single").push(TAG, small_image("single"))
    return registry


async def test_with_one_platform_the_digest_of_the_mirror_is_reported(tmp_path: Path) -> None:
    async with QuayServer(indexed()) as server:
        for _ in range(2):
            more = ("--platform", "linux/arm64", "--lock-file", "lock.json")
            await run(*words(server, *more), cwd=tmp_path, check=0)
            mirrored = layouts.names(tmp_path / "mirror")
            assert mirrored[f"kolla/multi:{TAG}"] == CHILDREN[1].digest
            digests = {
                outcome["reference"].partition("/")[2]: outcome["digest"] for outcome in report(tmp_path)["outcomes"]
            }
            assert digests == mirrored
            lock = json.loads((tmp_path / "lock.json").read_text())
            assert {f"{image['repository']}:{image['tag']}": image["digest"] for image in lock["images"]} == mirrored
            assert lock["platforms"] == ["linux/arm64"]

        again = [
            "sync",
            "--from-lock",
            "lock.json",
            "--server",
            server.url,
            "--to",
            "mirror",
            "--report",
            "report.json",
        ]
        await run(*again, cwd=tmp_path, check=0)

    assert [outcome["status"] for outcome in report(tmp_path)["outcomes"]] == ["unchanged"] * 2


async def test_an_index_that_is_declared_sparse_is_mirrored_with_what_exists(tmp_path: Path) -> None:
    registry = indexed()
    registry.organization("kolla").repositories["multi"].lose(CHILDREN[1].digest)
    async with QuayServer(registry) as server:
        for discovery in ("registry", "api"):
            done = await run(*words(server, "--discovery", discovery), cwd=tmp_path, check=0)
            reasons = {outcome["reason"] for outcome in report(tmp_path)["outcomes"]}
            assert ("sparse: the source lacks linux/arm64" in reasons) == (discovery == "registry"), done.stderr

        await run("verify", "mirror", cwd=tmp_path, check=0)
        answer = web.json_response({}, headers={"X-Sparse-Manifest-Support": "false"})
        async with Receiver() as target:
            target.ping = lambda: answer
            state = str(tmp_path / "state")
            command = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", target.address, "--state", state]
            done = await run(*command, cwd=tmp_path, check=3)
            assert not any(request.method == "PUT" and "multi" in request.path for request in target.requests)

    assert "takes no index without all of its children" in done.stderr


async def test_a_missing_child_of_an_index_is_named(tmp_path: Path) -> None:
    async with QuayServer(indexed()) as server:
        body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        server.faults.append(Fault(f"/manifests/{CHILDREN[1].digest}", Status(404, JSON, body)))
        done = await run(*words(server), cwd=tmp_path, check=3)

    assert "the source lacks linux/arm64 of the index; --platform mirrors the others" in done.stderr


async def test_reasons_to_skip_images_are_grouped_and_only_indexes_are_multi_arch(tmp_path: Path) -> None:
    registry = indexed()
    registry.organization("kolla").repository("other").push(TAG, INDEX)
    async with QuayServer(registry) as server:
        done = await run(*words(server, "--platform", "linux/s390x"), cwd=tmp_path, check=0)
        assert "not available for linux/s390x: 2" in done.stderr
        body = json.dumps({"tags": [{"name": TAG, "manifest_digest": INDEX.digest, "size": None}]}).encode()
        server.faults.append(Fault("^/api/v1/repository/kolla/other/tag/", ReplaceBody(body)))
        listed = await run("list", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)

    multi = [line.split(":")[0] for line in listed.stdout.splitlines() if "multi-arch" in line]
    assert multi == ["kolla/multi"]


async def test_the_reason_of_a_server_is_shown_once_for_all_images(tmp_path: Path) -> None:
    images = [small_image("same")] * 186
    body = b'{"errors": [{"code": "DENIED", "message": "Quota has been exceeded\\u001b[2J", "detail": {}}]}'
    async with QuayServer(organization(*images)) as server:
        server.faults.append(Fault("^/v2/.*/manifests/", Status(403, JSON, body)))
        done = await run(*words(server), cwd=tmp_path, check=4)

    summary = done.stderr.partition("failed (186):")[2]
    assert summary.count(r"403 Forbidden: Quota has been exceeded\x1b[2J") == 1
