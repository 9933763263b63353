"""Harbor's API v2.0, the part that lists (goharbor/harbor, ``api/v2.0/swagger.yaml``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from quaymirror.testing.foreign import ForeignServer, answer, changed, page
from quaymirror.testing.organization import Registry, Repository

_API = "/api/v2.0"
_DEFAULT_PAGE = 10
_REPOSITORIES = re.compile(r"/projects/([^/]+)/repositories")
_REPOSITORY = re.compile(r"/projects/([^/]+)/repositories/([^/]+)(?:/artifacts(?:/([^/]+))?)?")


class HarborServer(ForeignServer):
    """A Harbor of *version*. Pulls move the time of a repository, as Harbor counts them."""

    token_path = "/service/token"

    def __init__(
        self, registry: Registry, *, accounts: Mapping[str, str] | None = None, version: str = "v2.16.0-aabbccdd"
    ) -> None:
        super().__init__(registry, accounts=accounts)
        self.version = version

    def api(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request below ``/api/v2.0``."""
        user = self.basic(request)
        if user is None:
            return _error(401, "UNAUTHORIZED", "unauthorized")
        path = path.removeprefix(_API)
        if path == "/systeminfo":
            # Only accounts are told the version.
            return answer({"auth_mode": "db_auth"} | ({"harbor_version": self.version} if user else {}))
        if path == "/projects":
            exists = request.query.get("project_name") in self.registry.namespaces
            return web.Response(status=200 if exists else 404)
        if found := _REPOSITORIES.fullmatch(path):
            return self._repositories(request, found[1], user)
        if found := _REPOSITORY.fullmatch(path):
            # The router unescapes the path once, and the handler the name.
            name = f"{found[1]}/{unquote(unquote(found[2]))}"
            return self._repository(request, path, name, found[3], user)
        return _error(404, "NOT_FOUND", "path not found")

    def _may_see(self, project: str, user: str) -> bool:
        owner = self.registry.namespaces.get(project)
        is_open = owner is not None and all(repo.is_public for repo in owner.repositories.values())
        return owner is not None and (bool(user) or is_open)

    def _repositories(self, request: web.BaseRequest, project: str, user: str) -> web.Response:
        if not self._may_see(project, user):
            return _refused(user)
        repositories = [repo for repo in self.registry.repositories() if repo.namespace == project]
        return _paged(request, [self._described(repo) for repo in repositories])

    def _described(self, repo: Repository) -> dict[str, Any]:
        moved = max(changed(repo), self.pulled.get(repo.full_name, 0.0))
        count = len({row.manifest.digest for row in repo.tags()})
        return {"id": repo.id, "name": repo.full_name, "artifact_count": count, "update_time": _time(moved)}

    def _repository(
        self, request: web.BaseRequest, path: str, name: str, reference: str | None, user: str
    ) -> web.Response:
        if not self._may_see(name.partition("/")[0], user):
            return _refused(user)
        repo = self.registry.find(name)
        if repo is None:
            return _error(404, "NOT_FOUND", f"repository {name} not found")
        if "/artifacts" not in path:
            return answer(self._described(repo))
        artifacts = _artifacts(repo)
        if reference is None:
            return _paged(request, artifacts)
        named = [artifact for artifact in artifacts if reference in {tag["name"] for tag in artifact["tags"]}]
        return answer(named[0]) if named else _error(404, "NOT_FOUND", f"artifact {name}:{reference} not found")


def _artifacts(repo: Repository) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in repo.tags():
        artifact = found.setdefault(
            row.manifest.digest,
            {
                "digest": row.manifest.digest,
                "size": len(row.manifest.raw),
                "manifest_media_type": row.manifest.media_type,
                "push_time": _time(row.start_ms / 1000),
                "tags": [],
            },
        )
        artifact["tags"].append({"name": row.name, "push_time": _time(row.start_ms / 1000), "immutable": False})
    return list(found.values())


def _paged(request: web.BaseRequest, entries: list[Any]) -> web.Response:
    shown, number, has_more = page(entries, request, "page_size", _DEFAULT_PAGE)
    sent = answer(shown)
    sent.headers["X-Total-Count"] = str(len(entries))
    if has_more:
        # Relative, and its query is not escaped.
        query = "&".join(f"{key}={value}" for key, value in request.query.items() if key != "page")
        sent.headers["Link"] = f'<{request.raw_path.partition("?")[0]}?page={number + 1}&{query}>; rel="next"'
    return sent


def _refused(user: str) -> web.Response:
    if user:
        return _error(403, "FORBIDDEN", "forbidden")
    return _error(401, "UNAUTHORIZED", "unauthorized")


def _error(status: int, code: str, message: str) -> web.Response:
    return answer({"errors": [{"code": code, "message": message}]}, status)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
