"""Real and false token services: credentials are sent to the right one only, and not tried without end."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import layouts
import pytest
import trustme
from aiohttp import web
from organizations import kolla, small_image
from trouble import GLANCE, Impatient, messages, mirror, resolving, two_images

import quaymirror
from quaymirror import Options, Selection
from quaymirror.errors import ExitCode
from quaymirror.http import guard
from quaymirror.run.report import Report
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import Action, Fault, QuayServer, Registry, RequestRecord, bad_gateway
from quaymirror.testing import Status as Answer
from quaymirror.testing.messages import Answer as LocatedValue

CANARY = "canary-of-a-password"
MANIFESTS, TOKENS, EVERYTHING = "^/v2/kolla/nova/manifests/", "^/v2/auth", "^/v2/(kolla/|_catalog|$)"
ROBOT = Credentials("kolla+robot", Secret(CANARY))


def challenge(realm: str) -> Answer:
    return Answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})


def private(registry: Registry) -> Registry:
    """Restrict the repositories to the robot account."""
    registry.robot(ROBOT.username, token=CANARY)
    for repository in registry.organization("kolla").repositories.values():
        repository.grant(ROBOT.username)

    return registry


def sent(server: QuayServer) -> list[str]:
    """Return everything that a server was sent, as text."""
    basic = base64.b64encode(f"{ROBOT.username}:{CANARY}".encode()).decode()
    texts = [f"{request.path}?{request.query} {request.headers}" for request in server.requests]
    return [text for text in texts if CANARY in text or basic in text or "Bearer" in text or "cookie" in text]


async def login(server: QuayServer, path: Path, **options: Any) -> Report:
    report = await mirror(server, path, credentials=ROBOT, **options)
    assert CANARY not in json.dumps(report.to_json()) + repr(report)
    return report


@asynccontextmanager
async def over_tls(registry: Registry, tmp_path: Path) -> AsyncIterator[tuple[QuayServer, Path]]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with QuayServer(registry, tls=context) as server:
        yield server, tmp_path / "ca.pem"


async def test_a_registry_with_a_token_service_elsewhere_gets_no_credentials_for_any_image(tmp_path: Path) -> None:
    async with QuayServer(private(two_images())) as server, QuayServer(Registry()) as evil:
        server.faults.append(Fault(EVERYTHING, challenge(f"{evil.url}/v2/auth")))
        report = await login(server, tmp_path / "mirror")
        assert not evil.requests

    assert report.exit_code is ExitCode.CREDENTIALS
    assert all(evil.host in message and server.host in message for message in messages(report))
    assert layouts.names(tmp_path / "mirror") == {}


async def test_a_registry_with_tls_has_no_token_service_without(tmp_path: Path) -> None:
    """Not even at the same host and port."""
    async with over_tls(private(two_images()), tmp_path) as (server, cafile):
        server.faults.append(Fault(EVERYTHING, challenge(f"http://{server.host}/v2/auth")))
        report = await login(server, tmp_path / "mirror", cafile=cafile)
        assert not sent(server)
        assert server.count(TOKENS) == 0

    assert report.exit_code is ExitCode.CREDENTIALS
    assert "over plain HTTP, which is refused" in messages(report)[0]


async def test_a_token_service_that_is_allowed_is_not_at_a_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is trusted, its address is not, where the registry's is public."""
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1")
    async with QuayServer(private(two_images())) as server, QuayServer(Registry(), host="127.0.0.2") as inside:
        port = int(inside.host.rpartition(":")[2])
        resolving(monkeypatch, {"auth.example": [("127.0.0.2", port)]})
        server.faults.append(Fault(EVERYTHING, challenge(f"http://auth.example:{port}/v2/auth")))
        report = await login(server, tmp_path / "mirror", allow_realms=frozenset({"auth.example"}))
        assert not inside.requests

    assert report.exit_code is ExitCode.CREDENTIALS, messages(report)
    assert "a private address: refused" in messages(report)[0]


@pytest.mark.parametrize("url", ["{evil}/v2/auth", "http://127.0.0.3:9/x", "/elsewhere", "file:///etc/passwd"])
async def test_a_token_service_that_redirects_is_not_followed(url: str, tmp_path: Path) -> None:
    async with QuayServer(private(two_images()), require_token=True) as server, QuayServer(Registry()) as evil:
        server.faults.append(Fault(TOKENS, Answer(302, {"Location": url.format(evil=evil.url)})))
        report = await login(server, tmp_path / "mirror")
        assert not evil.requests

    assert report.exit_code is ExitCode.CREDENTIALS, messages(report)
    assert "redirects elsewhere" in messages(report)[0]


async def test_tokens_that_last_a_moment_are_renewed_all_the_time(tmp_path: Path) -> None:
    """Each expired token costs one more request."""
    registry, images = kolla(12)
    async with QuayServer(registry, require_token=True, token_lifetime=-29) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


async def test_an_outage_of_the_token_service_calls_no_image_private(tmp_path: Path) -> None:
    """Several images of one repository wait for its first token, and the request for it fails."""
    registry = Registry()
    for number in range(4):
        registry.organization("kolla").repository("nova").push(f"tag-{number}", small_image(f"image {number}"))

    async with QuayServer(registry, require_token=True) as server:
        server.faults.append(Fault(TOKENS, bad_gateway(), times=1))
        settings = Options.of(server=server.url, retry=Impatient().policy())
        report = await quaymirror.sync(Selection("kolla", "*", "tag-*"), tmp_path / "mirror", settings)
        scopes = [request.query.count("scope=") for request in server.requests if request.path == "/v2/auth"]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert scopes == [1, 1], "no token without rights"


async def test_a_wrong_password_is_tried_twice_at_most_and_ends_the_run(tmp_path: Path) -> None:
    """A client that tries it for each of a thousand images gets locked out."""
    registry, _ = kolla(40)
    async with QuayServer(registry, require_token=True) as server:
        report = await login(server, tmp_path / "mirror")
        assert server.count(TOKENS) <= 2

    assert report.exit_code is ExitCode.CREDENTIALS
    assert "rejects the credentials of 'kolla+robot'" in str(report.fatal)
    assert layouts.names(tmp_path / "mirror") == {}


@asynccontextmanager
async def logged_in(value: str, tmp_path: Path) -> AsyncIterator[tuple[QuayServer, Path]]:
    """A private registry, and an auth file in which `docker login` left an identity token."""
    registry = private(two_images())
    registry.identity_token(ROBOT.username, value=CANARY)
    async with QuayServer(registry, require_token=True) as server:
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {server.host: {"auth": "MDA6", "identitytoken": value}}}))
        yield server, file


async def test_an_identity_token_in_an_auth_file_is_exchanged_for_tokens(tmp_path: Path) -> None:
    async with logged_in(CANARY, tmp_path) as (server, file):
        report = await mirror(server, tmp_path / "mirror", authfile=file)
        posted = [request for request in server.requests if request.method == "POST"]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert posted
    assert all(request.path == "/v2/auth" and "authorization" not in request.headers for request in posted)
    assert CANARY not in repr(report)


async def test_an_identity_token_that_is_not_valid_any_more_ends_the_run_and_names_the_file(tmp_path: Path) -> None:
    async with logged_in("expired", tmp_path) as (server, file):
        report = await mirror(server, tmp_path / "mirror", authfile=file)
        assert server.count(TOKENS) <= 2

    assert report.exit_code is ExitCode.CREDENTIALS
    assert f"{server.host} rejects the identity token (auth file {str(file)!r}, entry for {server.host})" in str(
        report.fatal
    )


async def test_a_token_that_is_new_and_refused_all_the_same_is_not_renewed_for_ever(tmp_path: Path) -> None:
    """The registry and its token service contradict each other, about one repository."""
    async with QuayServer(private(two_images()), require_token=True) as server:
        server.faults.append(refusing := Fault(MANIFESTS, challenge(f"{server.url}/v2/auth")))
        report = await login(server, tmp_path / "mirror")
        # The image is looked for by its tag and by its digest, and each is refused.
        assert refusing.fired <= 12

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


class Edited(Action):
    """The honest token, with other words around it."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields

    def on_answer(self, answer: LocatedValue, source: web.BaseRequest) -> LocatedValue:
        """Return the answer with the fields."""
        assert isinstance(answer.body, bytes)
        body = json.dumps({**json.loads(answer.body), **self.fields}).encode()
        return answer.with_body(body, len(body))


SECONDS: list[object] = [0, -1, 1e18, 1e400, "60", None, True, [], {}]
MOMENTS: list[object] = ["2020-01-01T00:00:00Z", "2099-12-31T00:00:00Z", 5]
LIFETIMES: list[dict[str, object]] = [
    *[{"expires_in": seconds} for seconds in SECONDS],
    *[{"issued_at": moment, "expires_in": 300} for moment in MOMENTS],
    {"access_token": "\x00", "expires_in": 300, "refresh_token": "x" * 10_000},
]


@pytest.mark.parametrize("fields", LIFETIMES, ids=lambda fields: str(fields)[:40])
async def test_any_lifetime_of_a_token_is_survived(fields: dict[str, object], tmp_path: Path) -> None:
    """And clocks don't matter."""
    registry, images = kolla(8)
    async with QuayServer(registry, require_token=True) as server:
        server.faults.append(Fault(TOKENS, Edited(**fields)))
        report = await mirror(server, tmp_path / "mirror")
        assert server.count(TOKENS) <= 2 * len(images)

    assert report.exit_code is ExitCode.OK, messages(report)


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
async def test_a_challenge_of_where_we_were_sent_gets_no_answer(scheme: str, tmp_path: Path) -> None:
    """CVE-2020-15157."""
    async with QuayServer(private(two_images()), require_token=True) as server, QuayServer(Registry()) as evil:
        headers = {"WWW-Authenticate": f'{scheme} realm="{evil.url}/v2/auth",service="x"'}
        server.faults.append(Fault("", Answer(401, headers), listener="cdn"))
        report = await login(server, tmp_path / "mirror")
        assert not evil.requests
        told = [request for request in server.requests if request.listener == "cdn"]
        assert told
        assert not any("authorization" in request.headers for request in told)

    assert report.exit_code is ExitCode.PARTIAL
    assert all("401" in message for message in messages(report))


async def test_a_cdn_that_calls_itself_a_token_service_of_the_registry_gets_nothing(tmp_path: Path) -> None:
    """The realm is the host that blobs come from; that it is trusted with those says nothing."""
    async with QuayServer(private(two_images()), require_token=True) as server:
        server.faults.append(Fault(EVERYTHING, challenge(f"{server.cdn_url}/token")))
        report = await login(server, tmp_path / "mirror")
        assert not [request for request in server.requests if request.listener == "cdn"]

    assert report.exit_code is ExitCode.CREDENTIALS


LOOK_ALIKES = ["127.0.0.1.evil.example", "127.0.0.1:1", "evil.127.0.0.1", "127.0.0.10", "[::1]", "", "127.0.0.1@x"]


@pytest.mark.parametrize("host", LOOK_ALIKES)
async def test_credentials_of_a_host_that_only_looks_alike_are_not_used(host: str, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    both = base64.b64encode(f"{ROBOT.username}:{CANARY}".encode()).decode()
    async with QuayServer(private(two_images()), require_token=True) as server:
        port = server.host.rpartition(":")[2]
        name = host.replace("127.0.0.1", f"127.0.0.1:{port}") if host == "127.0.0.1@x" else host
        file.write_text(json.dumps({"auths": {name: {"auth": both}, f"{name}:{port}": {"auth": both}}}))
        report = await mirror(server, tmp_path / "mirror", authfile=file, environment={"HOME": str(tmp_path)})
        basic = [request for request in server.requests if "basic" in request.headers.get("authorization", "").lower()]

    assert not basic
    assert report.exit_code in (ExitCode.OK, ExitCode.USAGE), messages(report)


async def test_a_revoked_robot_account_ends_the_run_and_complete_images_stay(
    tmp_path: Path,
) -> None:
    registry, _ = kolla(40)
    private(registry)

    def revoke(request: RequestRecord) -> None:
        if "/manifests/" in request.path and "image" not in registry.robots and server.count("/manifests/") > 20:
            registry.robots.clear()

    async with QuayServer(registry, require_token=True, token_lifetime=-29, on_request=revoke) as server:
        report = await login(server, tmp_path / "mirror", concurrency=2)
        refused = [request for request in server.requests if request.path == "/v2/auth" and request.status == 401]

    assert report.exit_code is ExitCode.CREDENTIALS
    assert len(refused) <= 2
    assert 0 < len(layouts.names(tmp_path / "mirror")) < 40


async def test_the_realm_of_one_repository_is_no_reason_to_give_up_the_others(tmp_path: Path) -> None:
    async with QuayServer(private(two_images())) as server, QuayServer(Registry()) as evil:
        server.faults.append(Fault(MANIFESTS, challenge(f"{evil.url}/v2/auth")))
        report = await login(server, tmp_path / "mirror")
        assert not evil.requests

    assert report.exit_code is ExitCode.PARTIAL
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_password_is_sent_by_plain_http_only_to_a_server_that_was_named_so(scheme: str, tmp_path: Path) -> None:
    """Plain HTTP is used for an http:// server of the user, and never because a server asks for it."""
    basic = Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
    if scheme == "http":
        async with QuayServer(two_images()) as server:
            server.faults.append(Fault(EVERYTHING, basic, times=1))
            await login(server, tmp_path / "mirror")
            assert any("basic" in request.headers.get("authorization", "").lower() for request in server.requests)
    else:
        async with over_tls(two_images(), tmp_path) as (server, cafile), QuayServer(two_images()) as plain:
            server.faults.append(Fault(EVERYTHING, Answer(307, {"Location": f"{plain.url}/v2/"})))
            report = await login(server, tmp_path / "mirror", cafile=cafile)
            assert not plain.requests
            assert "from HTTPS to plain HTTP" in messages(report)[0]
