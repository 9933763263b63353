"""Credentials for a registry go only there, and to allowed token services."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from quaymirror.emit import calls
from quaymirror.emit.job import Destination
from quaymirror.emit.workers import Workers
from quaymirror.errors import EmitFailed

VARIABLES = frozenset({"OCCYSTRAP_USERNAME", "OCCYSTRAP_PASSWORD"})


@dataclass
class Peer:
    """A server that records requests and gives prepared answers."""

    status: int = 404
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    heard: list[tuple[str, str | None]] = field(default_factory=list)
    host: str = ""


@contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            authorization = self.headers.get("Authorization")
            peer.heard.append((self.command, authorization))
            accepted = authorization is not None and authorization.startswith("Bearer")
            self.send_response(404 if accepted else peer.status)
            for name, value in peer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(peer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(peer.body)

        do_GET = do_HEAD = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        peer.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join()


async def ask(registry: Peer, *realms: str) -> str:
    destination = Destination(
        "registry", registry.host, "/kolla/nova:latest", {"insecure": True}, realms=frozenset(realms)
    )
    async with Workers.open(1, passing=VARIABLES) as workers:
        return await workers.run(calls.identity, destination, "kolla/nova", "latest")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCCYSTRAP_USERNAME", "mirror")
    monkeypatch.setenv("OCCYSTRAP_PASSWORD", "hunter2")


async def test_another_hosts_token_service_gets_no_password() -> None:
    with serving(Peer(200, body=b'{"token": "t"}')) as thief, serving(Peer(401)) as registry:
        registry.headers["Www-Authenticate"] = f'Bearer realm="http://{thief.host}/token",service="x"'
        with pytest.raises(EmitFailed, match=r"token service on another host.*--allow-realm"):
            await ask(registry)

        assert thief.heard == []


async def test_an_allowed_token_service_gets_the_password() -> None:
    with serving(Peer(200, body=b'{"token": "t"}')) as realm, serving(Peer(401)) as registry:
        registry.headers["Www-Authenticate"] = f'Bearer realm="http://{realm.host}/token",service="x"'
        assert await ask(registry, realm.host) == ""

    assert [(method, (what or "")[:6]) for method, what in realm.heard] == [("GET", "Basic ")]
    assert registry.heard == [("HEAD", None), ("HEAD", "Bearer t")]


def test_a_token_goes_to_no_other_host() -> None:
    program = """
import httpx, sys
from occystrap import util
from quaymirror.emit.guard import guarded
from quaymirror.emit.job import Destination

with guarded(Destination("registry", "mirror.example", "/x")):
    client, _ = util.create_client()

[hook] = client.event_hooks["request"]
for url, wanted in (("https://mirror.example/v2/", "Bearer t"), ("https://storage.example/upload", None),
                    ("http://mirror.example/v2/", None)):
    request = httpx.Request("PUT", url, headers={"Authorization": "Bearer t"})
    hook(request)
    assert request.headers.get("Authorization") == wanted, url
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_workers_see_no_secrets_that_are_not_for_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUAY_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "REGISTRY_AUTH_FILE"):
        monkeypatch.setenv(name, "hunter2")

    async with Workers.open(1) as workers:
        for name in ("QUAY_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "REGISTRY_AUTH_FILE", *VARIABLES):
            assert await workers.run(os.getenv, name) is None
