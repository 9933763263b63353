"""Broken or hostile target registries: no credentials leak, and no tag points to the wrong content."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from organizations import TAG, small_image
from pushing import EVERYTHING, LARGE, UPLOADS, check, error_of, organization
from receiver import Breakage, Reaction, Receiver, Request, refusal, refuse
from trouble import QUICK, Impatient

import quaymirror
from quaymirror import Options
from quaymirror.errors import ConfigError, ExitCode, Side
from quaymirror.run.report import Report
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import QuayServer

PASSWORD = "canary-of-a-password"
SESSION = "/blobs/uploads/session"


async def push(server: QuayServer, target: Receiver, path: Path, **options: object) -> Report:
    retry = Impatient().policy()
    settings = Options.of(server=server.url, state=path, retry=retry, timeouts=QUICK, **options)
    report = await quaymirror.sync(EVERYTHING, target.address, settings)
    assert PASSWORD not in json.dumps(report.to_json()) + repr(report)
    return report


def answer(status: int, **headers: str) -> Reaction:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.Response(status=status, headers=fields)


def reset(request: Request) -> web.Response:
    assert request.source.transport is not None
    request.source.transport.abort()
    return web.Response()


def half_written(request: Request) -> web.Response:
    codes = ("DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN")
    return web.json_response({"errors": [{"code": code, "message": "no"} for code in codes]}, status=400)


PASSING: dict[str, tuple[str, str, Reaction]] = {
    "an upload that is refused for a moment": ("POST", UPLOADS, answer(503)),
    "a connection that breaks before an upload": ("POST", UPLOADS, reset),
    "a connection that breaks at a blob": ("PUT", UPLOADS, reset),
    "a connection that breaks at a manifest": ("PUT", "/manifests/", reset),
    "a gateway that is gone at a blob": ("PUT", UPLOADS, answer(502)),
    "a gateway that is gone at a manifest": ("PUT", "/manifests/", answer(504)),
    "an upload that was forgotten": ("PUT", UPLOADS, refuse(404, "BLOB_UPLOAD_UNKNOWN")),
    "an upload that is not valid any more": ("PUT", UPLOADS, refuse(400, "BLOB_UPLOAD_INVALID")),
    "a range that does not fit": ("PUT", UPLOADS, answer(416)),
    "a blob that was not there after all": ("PUT", "/manifests/", refuse(400, "MANIFEST_BLOB_UNKNOWN")),
    "a digest that got lost on the way": ("PUT", UPLOADS, refuse(400, "DIGEST_INVALID")),
    "a manifest whose digest got lost on the way": ("PUT", "/manifests/", refuse(400, "DIGEST_INVALID")),
    "files that docker-registry reads half written": ("PUT", "/manifests/", half_written),
    "a limit without a hint": ("PUT", "/manifests/", answer(429)),
    "a limit for a moment": ("HEAD", "/blobs/", answer(429, Retry_After="1")),
    "a HEAD that is an error": ("HEAD", "/blobs/", answer(500)),
    "a manifest whose digest is not told": ("PUT", "/manifests/sha256", answer(500)),
}


@pytest.mark.parametrize("name", PASSING)
async def test_transient_failures_cost_another_attempt(name: str, tmp_path: Path) -> None:
    method, path, react = PASSING[name]
    image = small_image("pushed", 20_000)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        target.breakages.append(breakage := Breakage(method, path, react))
        report = await push(server, target, tmp_path)
        assert breakage.seen
        assert report.exit_code is ExitCode.OK, error_of(report)
        check(target, image)


NONSENSE: dict[str, tuple[str, str, Reaction]] = {
    "no Location": ("POST", UPLOADS, answer(202)),
    "a Location of 9 KB": ("POST", UPLOADS, answer(202, Location="/" + "x" * 8_190)),
    "a Location with a password": ("POST", UPLOADS, answer(202, Location="http://me:pw@127.0.0.1/x")),
    "a Location that is none": ("POST", UPLOADS, answer(202, Location="http://[::1")),
    "a Location elsewhere, by name": ("POST", UPLOADS, answer(202, Location="http://evil.example/v2/x")),
    "a redirect elsewhere": ("POST", UPLOADS, answer(307, Location="http://evil.example/v2/x")),
    "a redirect of a manifest": ("PUT", "/manifests/", answer(308, Location="http://evil.example/v2/x")),
    "HTML for an upload": ("POST", UPLOADS, lambda _: web.Response(text="<html>", content_type="text/html")),
    "a teapot": ("PUT", UPLOADS, answer(418)),
    "another digest for a manifest": ("PUT", "/manifests/", answer(201, Docker_Content_Digest="sha256:" + "0" * 64)),
    "no blob that it was sent": ("PUT", "/manifests/", refuse(400, "MANIFEST_BLOB_UNKNOWN")),
    "a quota": ("PUT", UPLOADS, lambda _: refusal(403, "DENIED")),
    "a target that is full": ("PATCH|PUT", UPLOADS, answer(507)),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_permanent_failures_fail_the_image_and_push_no_tag(name: str, tmp_path: Path) -> None:
    method, path, react = NONSENSE[name]
    async with QuayServer(organization(small_image("pushed", 20_000))) as server, Receiver() as target:
        for each in method.split("|"):
            target.breakages.append(Breakage(each, path, react, nth=0))

        report = await push(server, target, tmp_path, retries=2)
        assert TAG not in target.manifests["kolla/image-0"]

    error = error_of(report)
    assert report.exit_code is ExitCode.PARTIAL
    assert error.side is Side.TARGET, error
    assert error.message.isprintable()
    assert "x" * 500 not in error.message


async def test_credentials_go_to_no_token_service_elsewhere(tmp_path: Path) -> None:
    challenge = answer(401, WWW_Authenticate='Bearer realm="https://evil.example/token",service="x"')
    async with QuayServer(organization(small_image("pushed"))) as server, Receiver() as target:
        target.breakages.append(Breakage("GET", "/v2/", challenge, nth=0))
        with pytest.raises(quaymirror.QuaymirrorError, match=r"--allow-realm evil\.example"):
            await push(server, target, tmp_path, dest_credentials=Credentials("me", Secret(PASSWORD)))

        assert not any("Authorization" in request.headers for request in target.requests)
        assert not server.requests, "the source was asked for nothing"


async def test_a_target_that_takes_no_credentials_ends_the_run_with_its_name(tmp_path: Path) -> None:
    async with QuayServer(organization(small_image("pushed"))) as server, Receiver() as target:
        target.breakages.append(Breakage("GET", "/v2/", answer(401, WWW_Authenticate="Basic"), nth=0))
        with pytest.raises(quaymirror.QuaymirrorError, match="rejects the credentials") as caught:
            await push(server, target, tmp_path, dest_credentials=Credentials("me", Secret(PASSWORD)))

    assert PASSWORD not in str(caught.value) + repr(caught.value)
    assert caught.value.side is Side.TARGET


async def test_an_upload_whose_ranges_go_backwards_ends(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver(limit=1024 * 1024) as target:
        target.breakages.append(Breakage("PATCH", UPLOADS, answer(202, Range="0-0"), nth=0))
        report = await push(server, target, tmp_path, retries=2)
        assert TAG not in target.manifests["kolla/image-0"]
        assert target.count("PATCH", UPLOADS) < 500

    assert report.exit_code is ExitCode.PARTIAL


async def test_an_upload_that_has_more_than_it_was_sent_is_begun_again(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver(limit=1024 * 1024) as target:
        lie = answer(202, Range=f"0-{2**60}")
        target.breakages.append(Breakage("PATCH", UPLOADS, lie, nth=2))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK, error_of(report)
        assert target.manifests["kolla/image-0"][TAG] == (image.media_type, image.raw)


@pytest.mark.parametrize("least", ["-1", "99999999999999999999", "abc", "1.5", "0"])
async def test_a_least_size_that_makes_no_sense_breaks_nothing(least: str, tmp_path: Path) -> None:
    image = small_image("large", LARGE)

    def begin(request: Request) -> web.StreamResponse | None:
        begun = target._begin(request, "kolla/image-0")
        begun.headers["OCI-Chunk-Min-Length"] = least
        return begun

    async with QuayServer(organization(image)) as server, Receiver(limit=1024 * 1024) as target:
        target.breakages.append(Breakage("POST", UPLOADS, begin, nth=0))
        report = await push(server, target, tmp_path, retries=2)
        if report.exit_code is ExitCode.OK:
            check(target, image)
        else:
            assert error_of(report).side is Side.TARGET
            assert TAG not in target.manifests["kolla/image-0"]


def immutable(target: Receiver, content: tuple[str, bytes]) -> Callable[[Request], web.StreamResponse | None]:
    def put(_: Request) -> web.StreamResponse | None:
        target.manifests["kolla/image-0"][TAG] = content
        return refusal(409, "TAG_INVALID")

    return put


async def test_an_immutable_tag_with_another_image_is_reported(tmp_path: Path) -> None:
    image, other = small_image("new"), small_image("old")
    async with QuayServer(organization(image)) as server, Receiver() as target:
        content = (other.media_type, other.raw)
        target.breakages.append(Breakage("PUT", f"/manifests/{TAG}", immutable(target, content), nth=0))
        report = await push(server, target, tmp_path)
        assert target.manifests["kolla/image-0"][TAG] == content

    assert report.exit_code is ExitCode.PARTIAL
    assert "immutable" in error_of(report).message


async def test_an_image_that_is_there_under_a_tag_that_may_not_change_is_fine(tmp_path: Path) -> None:
    image = small_image("new")
    async with QuayServer(organization(image)) as server, Receiver() as target:
        target.manifests["kolla/image-0"][TAG] = (image.media_type, image.raw)
        target.manifests["kolla/image-0"][image.digest] = (image.media_type, image.raw)
        target.blobs["kolla/image-0"] = {digest: blob.data for digest, blob in image.all_blobs().items()}
        target.breakages.append(Breakage("PUT", f"/manifests/{TAG}", refuse(409, "TAG_IMMUTABLE"), nth=0))
        report = await push(server, target, tmp_path)

    assert report.exit_code is ExitCode.OK, error_of(report)


async def test_nothing_is_pushed_to_where_it_comes_from(tmp_path: Path) -> None:
    async with QuayServer(organization(small_image("pushed"))) as server:
        settings = Options.of(server=server.url, state=tmp_path)
        with pytest.raises(ConfigError, match="source of the images"):
            await quaymirror.sync(EVERYTHING, f"registry://{server.host}?insecure=true", settings)

        assert not server.requests


@pytest.mark.parametrize("length", [0, 7, 2**60])
async def test_a_blob_that_is_there_with_another_length_is_not_there(length: int, tmp_path: Path) -> None:
    image = small_image("pushed", 20_000)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        target.breakages.append(Breakage("HEAD", "/blobs/", answer(200, Content_Length=str(length)), nth=0))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK, error_of(report)
        check(target, image)


def pieces(amount: int) -> Reaction:
    """An endless answer, or one that is too long to be read."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(amount):
            yield bytes(65_536)

    return lambda _: web.Response(body=body())


@pytest.mark.parametrize("where", ["GET /v2/$", f"POST {UPLOADS}", f"PUT {UPLOADS}", "PUT /manifests/"])
async def test_an_answer_that_does_not_end_is_not_read_to_its_end(where: str, tmp_path: Path) -> None:
    method, _, path = where.partition(" ")
    async with QuayServer(organization(small_image("pushed", 20_000))) as server, Receiver() as target:
        target.breakages.append(Breakage(method, path, pieces(1_000_000), nth=0))
        try:
            message = error_of(await push(server, target, tmp_path, retries=1)).message
        except quaymirror.QuaymirrorError as error:
            message = error.message

        assert "answer of more than 65,536 bytes" in message
        assert TAG not in target.manifests["kolla/image-0"]
