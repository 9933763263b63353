"""GitHub's API for container packages (docs.github.com, "REST API endpoints for packages"), and its registry."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from quaymirror.testing.foreign import ForeignServer, answer, changed, page
from quaymirror.testing.organization import Repository

_PACKAGES = re.compile(r"/(orgs|users)/([^/]+)/packages(?:/container/([^/]+)/versions)?")
_OWNER = re.compile(r"/(?:users|orgs)/([^/]+)")
_DEFAULT_PAGE = 30


class GitHubServer(ForeignServer):
    """A GitHub. The passwords of its accounts are classic tokens with the scope ``read:packages``."""

    def api(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request for the REST API."""
        if request.headers.get("Authorization", "").partition(" ")[2] not in self.accounts.values():
            return answer({"message": "Requires authentication", "status": "401"}, 401)
        if found := _OWNER.fullmatch(path):
            exists = unquote(found[1]) in self.registry.namespaces
            return answer({"login": found[1]}) if exists else _not_found()
        found = _PACKAGES.fullmatch(path)
        owner = self.registry.namespaces.get(found[2]) if found else None
        if found is None or owner is None or owner.is_organization != (found[1] == "orgs"):
            return _not_found()
        if found[3] is None:
            if request.query.get("package_type") != "container":
                return answer({"message": "Package type is missing"}, 400)
            repositories = [repo for repo in self.registry.repositories() if repo.namespace == found[2]]
            return self._paged(request, [_package(repo) for repo in repositories])
        repo = owner.repositories.get(unquote(found[3]))
        return _not_found() if repo is None else self._paged(request, _versions(repo))

    def _paged(self, request: web.BaseRequest, entries: list[Any]) -> web.Response:
        shown, number, has_more = page(entries, request, "per_page", _DEFAULT_PAGE)
        sent = answer(shown)
        if has_more:
            path, size = request.raw_path.partition("?")[0], request.query.get("per_page", _DEFAULT_PAGE)
            sent.headers["Link"] = f'<{self.url}{path}?page={number + 1}&per_page={size}>; rel="next"'
        return sent


def _package(repo: Repository) -> dict[str, Any]:
    return {
        "id": repo.id,
        "name": repo.name,
        "package_type": "container",
        "visibility": "public" if repo.is_public else "private",
        "version_count": len({row.manifest.digest for row in repo.history}),
        "updated_at": _time(changed(repo)),
    }


def _versions(repo: Repository) -> list[dict[str, Any]]:
    """Return a version for each manifest, those of platforms without tags included."""
    found: dict[str, dict[str, Any]] = {}
    for row in repo.tags():
        for manifest in row.manifest.walk():
            start = _time(row.start_ms / 1000)
            metadata: dict[str, Any] = {"package_type": "container", "container": {"tags": []}}
            found.setdefault(
                manifest.digest,
                {"name": manifest.digest, "created_at": start, "updated_at": start, "metadata": metadata},
            )
        found[row.manifest.digest]["metadata"]["container"]["tags"].append(row.name)
    return list(found.values())


def _not_found() -> web.Response:
    return answer({"message": "Not Found", "status": "404"}, 404)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
