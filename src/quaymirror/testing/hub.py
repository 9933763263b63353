"""Docker Hub's API, and its limit of pulls (docs.docker.com, "Docker Hub API", "Docker Hub usage and limits")."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from quaymirror.testing.foreign import ForeignServer, answer, changed, page
from quaymirror.testing.organization import Registry, Repository, Tag

_ROUTE = re.compile(r"/v2/namespaces/([^/]+)/repositories(?:/([^/]+)(?:/(tags)(?:/([^/]+))?)?)?")
_DEFAULT_PAGE = 10
_TOKEN_S = 600
_TOO_MANY = (
    "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: "
    "https://www.docker.com/increase-rate-limit"
)


class HubServer(ForeignServer):
    """A Docker Hub that allows *pulls* in *window* seconds, each a GET of a manifest; None for no limit.

    Tags in *without_digest* (``NAMESPACE/NAME:TAG``) are shown without their digest, as some old ones are.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        accounts: Mapping[str, str] | None = None,
        pulls: int | None = None,
        window: int = 21_600,
    ) -> None:
        super().__init__(registry, accounts=accounts)
        self.pulls = pulls
        self.window = window
        self.without_digest: set[str] = set()
        self._counted: list[float] = []

    @property
    def pulls_left(self) -> int:
        """The pulls that are still allowed in this window."""
        start = self.registry.now() - self.window
        self._counted = [moment for moment in self._counted if moment > start]
        return max(0, (self.pulls or 0) - len(self._counted))

    def on_manifest(self, request: web.BaseRequest, repo: Repository) -> web.Response | None:
        """Count a pull, or refuse it. HEAD counts nothing."""
        if self.pulls is None or request.method == "HEAD":
            return None
        if self.pulls_left == 0:
            refused = answer({"errors": [{"code": "TOOMANYREQUESTS", "message": _TOO_MANY}]}, 429)
            refused.headers.update(self.manifest_headers())
            return refused
        self._counted.append(self.registry.now())
        return None

    def manifest_headers(self) -> dict[str, str]:
        """Return what is left, unless pulls are not limited."""
        if self.pulls is None:
            return {}
        return {
            "ratelimit-limit": f"{self.pulls};w={self.window}",
            "ratelimit-remaining": f"{self.pulls_left};w={self.window}",
            "docker-ratelimit-source": "127.0.0.1",
        }

    def post(self, request: web.BaseRequest, path: str, body: bytes) -> web.Response:
        """Log in: a token for ten minutes."""
        if path != "/v2/auth/token":
            return answer({"message": "not found"}, 404)
        given = json.loads(body)
        if self.accounts.get(given["identifier"]) != given["secret"]:
            return answer({"detail": "Incorrect authentication credentials"}, 401)
        return answer({"access_token": self.issue(given["identifier"], _TOKEN_S)})

    def api(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request below ``/v2/namespaces``."""
        found = _ROUTE.fullmatch(path)
        user = self.bearer(request)
        if user is None and "Authorization" in request.headers:
            return answer({"message": "unauthorized", "errinfo": {}}, 401)
        owner = self.registry.namespaces.get(found[1]) if found else None
        if found is None or owner is None:
            return _not_found()
        visible = [
            repo for repo in self.registry.repositories() if repo.namespace == found[1] and (user or repo.is_public)
        ]
        if found[2] is None:
            # A list that hides something says nothing about it.
            return self._paged(request, [_described(repo) for repo in sorted(visible, key=lambda repo: repo.name)])
        repo = next((repo for repo in visible if repo.name == unquote(found[2])), None)
        if repo is None:
            return _not_found()
        if found[3] is None:
            return answer(_described(repo))
        tags = sorted(repo.tags(), key=lambda row: row.name)
        if found[4] is None:
            return self._paged(request, [self._tag(repo, row) for row in tags])
        row = repo.tag(unquote(found[4]))
        return _not_found() if row is None else answer(self._tag(repo, row))

    def _tag(self, repo: Repository, row: Tag) -> dict[str, Any]:
        shown = {
            "name": row.name,
            "full_size": len(row.manifest.raw),
            "media_type": row.manifest.media_type,
            "last_updated": _time(row.start_ms / 1000),
            "tag_last_pushed": _time(row.start_ms / 1000),
            "images": [],
        }
        hides = f"{repo.full_name}:{row.name}" in self.without_digest
        return shown if hides else shown | {"digest": row.manifest.digest}

    def _paged(self, request: web.BaseRequest, entries: list[Any]) -> web.Response:
        shown, number, has_more = page(entries, request, "page_size", _DEFAULT_PAGE)
        path, size = request.raw_path.partition("?")[0], request.query.get("page_size", _DEFAULT_PAGE)
        following = f"{self.url}{path}?page={number + 1}&page_size={size}" if has_more else None
        return answer({"count": len(entries), "next": following, "previous": None, "results": shown})


def _described(repo: Repository) -> dict[str, Any]:
    updated = changed(repo)
    return {
        "name": repo.name,
        "namespace": repo.namespace,
        "is_private": not repo.is_public,
        "last_updated": _time(updated) if updated else None,
    }


def _not_found() -> web.Response:
    return answer({"message": "object not found", "errinfo": {}}, 404)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
