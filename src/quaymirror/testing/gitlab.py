"""GitLab's API for the repositories of a group (docs.gitlab.com, "Container registry API"), and its registry."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from quaymirror.testing.foreign import ForeignServer, answer, page
from quaymirror.testing.organization import Repository

_GROUP = re.compile(r"/api/v4/groups/([^/]+)(/registry/repositories)?")
_DEFAULT_PAGE = 20
_JOB = "gitlab-ci-token"


class GitLabServer(ForeignServer):
    """A GitLab. The passwords of its accounts are personal access tokens.

    That of the account ``gitlab-ci-token`` is the token of a job, which the API of groups does not accept.
    *deleting* has the full names of repositories that are being deleted.
    """

    token_path = "/jwt/auth"
    deleting: frozenset[str] = frozenset()

    def api(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request below ``/api/v4``."""
        found = _GROUP.fullmatch(path)
        token = request.headers.get("Authorization", "").partition(" ")[2]
        if token and token not in {self.accounts[user] for user in self.accounts if user != _JOB}:
            return answer({"message": "401 Unauthorized"}, 401)
        owner = self.registry.namespaces.get(found[1]) if found else None
        if found is None or owner is None:
            return answer({"message": "404 Group Not Found"}, 404)
        if not found[2]:
            return answer({"id": 1, "path": found[1]})
        # Projects that an account may not see are left out without a word.
        visible = [repo for repo in self.registry.repositories() if repo.namespace == found[1]]
        entries = [self._described(repo) for repo in visible if token or repo.is_public]
        shown, number, has_more = page(entries, request, "per_page", _DEFAULT_PAGE)
        sent = answer(shown)
        sent.headers["X-Total"] = str(len(entries))
        if has_more:
            sent.headers["Link"] = f'<{self.url}{path}?page={number + 1}&per_page=100>; rel="next"'
        return sent

    def _described(self, repo: Repository) -> dict[str, Any]:
        return {
            "id": repo.id,
            "name": repo.name.rpartition("/")[2],
            "path": repo.full_name,
            "project_id": 1,
            "location": f"{self.host}/{repo.full_name}",
            "status": "delete_ongoing" if repo.full_name in self.deleting else None,
        }
