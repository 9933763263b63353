"""A plain registry on a loopback port, with a token service: the common part of the registries that are not Quay.

The content is a `Registry`; each organization is a project, namespace, owner or group. It is written from the
distribution specification and the documents of the services, small, and knows no client.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any, Self
from urllib.parse import quote

from aiohttp import web

from quaymirror.testing.images import Blob, SourceManifest
from quaymirror.testing.organization import Registry, Repository
from quaymirror.testing.recording import Recorder, RequestRecord

_ROUTE = re.compile(r"/v2/(.+)/(manifests|blobs|tags)/([^/]+)")
_SHUTDOWN_S = 0.02
_MOST_NAMES = 1000

Override = Callable[[web.BaseRequest], web.Response | None]
"""Returns the answer to a request in place of the server's own, None to leave it."""


class ForeignServer:
    """A registry that is not Quay. `accounts` are passwords by user; any of them may read everything.

    `overrides` may answer requests in place of the server. `pulled` has the repositories of manifests that were sent.
    """

    token_path = "/token"

    def __init__(
        self, registry: Registry, *, accounts: Mapping[str, str] | None = None, needs_token: bool = True
    ) -> None:
        self.registry = registry
        self.accounts: dict[str, str] = dict(accounts or {})
        self.overrides: list[Override] = []
        self.recorder: Recorder = Recorder()
        self.pulled: dict[str, float] = {}
        self.url: str = ""
        self._needs_token = needs_token
        self._tokens: dict[str, tuple[str, float]] = {}
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def host(self) -> str:
        """``host:port``."""
        return self.url.removeprefix("http://")

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests so far; ``path`` is as sent, with its escapes."""
        return self.recorder.requests

    def count(self, path_regex: str, *, method: str | None = None) -> int:
        """Return how many requests had a path in which *path_regex* is found."""
        return len(self.recorder.matching(path_regex, method=method))

    def api(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request for the API of the service; *path* is as sent. A plain registry lists its repositories."""
        if path != "/v2/_catalog":
            return answer({"message": "Not Found"}, 404)
        user = self.bearer(request)
        if self._needs_token and not user:
            return self._challenge(scope="registry:catalog:*")
        visible = [repo.full_name for repo in self.registry.repositories() if user or repo.is_public]
        return _names(request, {}, "repositories", visible)

    def on_manifest(self, request: web.BaseRequest, repo: Repository) -> web.Response | None:
        """Return an answer in place of a manifest, None to send it."""
        return None

    def manifest_headers(self) -> dict[str, str]:
        """Return more header fields of the answers about manifests."""
        return {}

    def basic(self, request: web.BaseRequest) -> str | None:
        """Return the user of the request, "" without credentials, None for wrong ones."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return ""
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user if self.accounts.get(user) == password else None

    def issue(self, user: str, lifetime: float) -> str:
        """Return a token of *user* that is good for *lifetime* seconds by the registry's clock."""
        token = secrets.token_hex(16)
        self._tokens[token] = (user, self.registry.now() + lifetime)
        return token

    def forget_tokens(self) -> None:
        """Let all tokens expire."""
        self._tokens.clear()

    def bearer(self, request: web.BaseRequest) -> str | None:
        """Return the user of the request's token, "" for an anonymous one, None without a good one."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        user, expires = self._tokens.get(token, ("", 0.0))
        return user if scheme.lower() == "bearer" and expires > self.registry.now() else None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        record = self.recorder.begin("quay", request.method, path, query, headers, "")
        body = await request.read()
        made = next((found for override in self.overrides if (found := override(request)) is not None), None)
        response = made or self._route(request, path, body)
        response.headers.setdefault("Date", formatdate(self.registry.now(), usegmt=True))
        record.status = response.status
        self.recorder.end(record)
        return response

    def _route(self, request: web.BaseRequest, path: str, body: bytes) -> web.Response:
        if path == self.token_path:
            return self._token(request)
        if request.method == "POST":
            return self.post(request, path, body)
        found = _ROUTE.fullmatch(path)
        if found and not path.startswith("/v2/namespaces/"):
            return self._content(request, found[1], found[2], found[3])
        if path == "/v2/":
            return self._challenge() if self._needs_token and self.bearer(request) is None else answer({})
        return self.api(request, path)

    def post(self, request: web.BaseRequest, path: str, body: bytes) -> web.Response:
        """Answer a POST."""
        return answer({"message": "method not allowed"}, 405)

    def _token(self, request: web.BaseRequest) -> web.Response:
        user = self.basic(request)
        if user is None:
            return answer({"details": "incorrect username or password"}, 401)
        for scope in request.query.getall("scope", []):
            kind, _, name = scope.rpartition(":")[0].partition(":")
            repo = self.registry.find(name) if kind == "repository" else None
            if not user and (repo is None or not repo.is_public):
                return answer({"errors": [{"code": "DENIED", "message": "requested access is denied"}]}, 401)
        return answer({"token": self.issue(user, 300), "expires_in": 300})

    def _challenge(self, name: str = "", *, scope: str = "") -> web.Response:
        scope = scope or (f"repository:{name}:pull" if name else "")
        refused = answer({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}, 401)
        refused.headers["WWW-Authenticate"] = f'Bearer realm="{self.url}{self.token_path}",service="fake"'
        if scope:
            refused.headers["WWW-Authenticate"] += f',scope="{scope}"'
        return refused

    def _content(self, request: web.BaseRequest, name: str, kind: str, reference: str) -> web.Response:
        user = self.bearer(request)
        repo = self.registry.find(name)
        if self._needs_token and (user is None or repo is None or not (user or repo.is_public)):
            return self._challenge(name)
        if repo is None:
            return answer({"errors": [{"code": "NAME_UNKNOWN", "message": "unknown"}]}, 404)
        if kind == "tags":
            return self.tag_list(request, repo)
        if kind == "blobs":
            blob = repo.blob(reference)
            return unknown("BLOB_UNKNOWN") if blob is None else _blob(blob)
        refused = self.on_manifest(request, repo)
        if refused is not None:
            return refused
        row = repo.tag(reference)
        manifest = repo.manifest(reference) if row is None else row.manifest
        if request.method == "GET" and manifest is not None:
            self.pulled[repo.full_name] = self.registry.now()
        sent = unknown("MANIFEST_UNKNOWN") if manifest is None else _manifest(manifest)
        sent.headers.update(self.manifest_headers())
        return sent

    def tag_list(self, request: web.BaseRequest, repo: Repository) -> web.Response:
        """Answer a request for the tags of *repo*."""
        return _names(request, {"name": repo.full_name}, "tags", [row.name for row in repo.tags()])


def answer(document: Any, status: int = 200) -> web.Response:
    """Return *document* as JSON."""
    return web.Response(body=json.dumps(document).encode(), status=status, content_type="application/json")


def unknown(code: str) -> web.Response:
    """Return a 404 of a registry."""
    return answer({"errors": [{"code": code, "message": "unknown"}]}, 404)


def page(entries: list[Any], request: web.BaseRequest, size_name: str, default: int) -> tuple[list[Any], int, bool]:
    """Return the entries of the page that was asked for, its number, and whether another follows."""
    size = min(int(request.query.get(size_name, default)), 100)
    number = int(request.query.get("page", 1))
    return entries[(number - 1) * size : number * size], number, len(entries) > number * size


def changed(repo: Repository) -> float:
    """Return when a tag of *repo* was last pushed or removed, in epoch seconds."""
    now_ms = repo.now_ms()
    times = [moment for row in repo.history for moment in (row.start_ms, row.end_ms) if moment and moment <= now_ms]
    return max(times, default=0) / 1000


def _names(request: web.BaseRequest, document: dict[str, Any], key: str, names: list[str]) -> web.Response:
    """Return a page of *names* in *document*, and a link to the next one by its last name."""
    size, last = int(request.query.get("n", 100)), request.query.get("last", "")
    if size > _MOST_NAMES:
        return answer({"errors": [{"code": "PAGINATION_NUMBER_INVALID", "message": "invalid number of results"}]}, 400)
    later = sorted(name for name in names if name > last)
    sent = answer(document | {key: later[:size] or None})
    if len(later) > size:
        path = request.raw_path.partition("?")[0]
        sent.headers["Link"] = f'<{path}?n={size}&last={quote(later[size - 1], safe="")}>; rel="next"'
    return sent


def _manifest(manifest: SourceManifest) -> web.Response:
    headers = {"Docker-Content-Digest": manifest.digest}
    return web.Response(body=manifest.raw, content_type=manifest.media_type, headers=headers)


def _blob(blob: Blob) -> web.Response:
    return web.Response(body=bytes(blob.data), content_type="application/octet-stream")
