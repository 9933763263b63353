"""Quay's API v1, the read-only part that a mirror needs.

It includes the behaviour that surprises clients: an unknown token makes an anonymous call, an unknown namespace has an
empty list, a bad page token returns the first page, and a missing repository is a 401 for anonymous clients.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

from quaymirror.testing.messages import (
    Answer,
    Request,
    html,
    json_document,
    method_not_allowed,
    not_found_page,
    redirect,
)
from quaymirror.testing.organization import OAuthToken, Repository, Tag, User
from quaymirror.testing.site import Site, avatar, cors_headers, is_true

REPOSITORIES_PER_PAGE = 100
TAGS_PER_PAGE = 50
MAX_TAGS_PER_PAGE = 100
MAX_TAGS_IN_REPOSITORY = 500
TAG_EXPIRATION_S = 14 * 24 * 3600
STATISTICS_DAYS = 91
READ_SCOPES = ("repo:read", "repo:write", "repo:admin")

_BROWSER = re.compile(r"(Chrome|CriOS|Firefox|Safari|Edg|MSIE|Trident|Opera)[/ ]")
_BROWSER_REFUSAL = "API calls must be invoked with an X-Requested-With header if called from a browser"
_BAD_REQUEST = "The browser (or proxy) sent a request that this server could not understand."
_NO_SUCH_URL = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling and "
    "try again."
)
_BAD_FILTER = (
    "Unsupported syntax for filter_tag_name. Expected <operation>:<tag_name> where <operation>can be 'like' or 'eq'."
)
_ERRORS = {
    "invalid_token": (401, "Requires authentication"),
    "insufficient_scope": (403, "Unauthorized"),
    "not_found": (404, "Not Found"),
}


class _Refused(Exception):
    """Carries the error to answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class Api:
    """The handler of ``/api/v1/...``."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._routes: tuple[tuple[re.Pattern[str], Callable[..., Answer]], ...] = (
            (re.compile(r"/api/v1/repository"), self._repositories),
            (re.compile(r"/api/v1/repository/([^/]+/.+)/tag/"), self._tags),
            (re.compile(r"/api/v1/repository/([^/]+/.+)/tag|/api/v1/user"), self._add_slash),
            (re.compile(r"/api/v1/repository/([^/]+/.*[^/])"), self._repository),
            (re.compile(r"/api/v1/organization/([^/]+)"), self._organization),
            (re.compile(r"/api/v1/users/([^/]+)"), self._public_user),
            (re.compile(r"/api/v1/user/"), self._own_user),
        )

    def answer(self, request: Request) -> Answer:
        """Answer a request below ``/api/``."""
        for pattern, handler in self._routes:
            found = pattern.fullmatch(request.path)
            if found:
                return self._call(handler, request, [group for group in found.groups() if group])
        return not_found_page()

    def _call(self, handler: Callable[..., Answer], request: Request, arguments: list[str]) -> Answer:
        if not request.is_read:
            return method_not_allowed()
        if handler == self._add_slash:
            return self._add_slash(request)
        if _is_browser(request):
            return html(f'{{"error": "{_BROWSER_REFUSAL}"}}', 400)
        token = self._site.bearer(request.headers)
        try:
            answer = handler(request, token, *arguments)
        except _Refused as refusal:
            answer = refusal.answer
        return answer.with_headers(cors_headers(authenticated="Authorization" in request.headers))

    def _add_slash(self, request: Request, *_: object) -> Answer:
        query = f"?{request.query_string}" if request.query_string else ""
        return redirect(f"{self._site.url}{request.path}/{query}", 308)

    def _error(self, kind: str, **extra: object) -> _Refused:
        status, message = _ERRORS[kind]
        return _Refused(self._problem(kind, status, message, **extra))

    def _problem(self, kind: str, status: int, message: str, **extra: object) -> Answer:
        document = {
            **extra,
            "detail": message,
            "error_message": message,
            "error_type": kind,
            "title": kind,
            "type": f"{self._site.url}/api/v1/error/{kind}",
            "status": status,
        }
        return json_document(document, status)

    def _repositories(self, request: Request, token: OAuthToken | None) -> Answer:
        query = request.query
        self._check_list_parameters(request, token)
        start = self._site.page_start(query.get("next_page"))
        visible = [repo for repo in self._visible(request, token) if repo.id >= start]
        page, rest = visible[:REPOSITORIES_PER_PAGE], visible[REPOSITORIES_PER_PAGE:]
        document: dict[str, Any] = {"repositories": [self._entry(repo, request, token) for repo in page]}
        if rest:
            document["next_page"] = self._site.page_token(rest[0].id)
        return json_document(document)

    def _check_list_parameters(self, request: Request, token: OAuthToken | None) -> None:
        query = request.query
        if query.get("repo_kind", "image") != "image":
            raise _Refused(json_document({"message": "Unknown repository kind"}, 400))
        starred = is_true(query.get("starred"))
        if not (query.get("namespace") or starred or is_true(query.get("public"))):
            message = "namespace, starred or public are required for this API call"
            raise _Refused(self._problem("invalid_request", 400, message))
        if starred and token is None:
            raise _Refused(json_document({"message": _BAD_REQUEST}, 400))

    def _visible(self, request: Request, token: OAuthToken | None) -> list[Repository]:
        if is_true(request.query.get("starred")):
            return []
        namespace = request.query.get("namespace")
        with_public = is_true(request.query.get("public"))
        user = token.user if token else None
        return [
            repo
            for repo in self._site.registry.repositories()
            if namespace in (None, "", repo.namespace)
            and ((with_public and repo.is_public) or self._site.registry.may_read(user, repo))
        ]

    def _entry(self, repo: Repository, request: Request, token: OAuthToken | None) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "namespace": repo.namespace,
            "name": repo.name,
            "description": repo.description,
            "is_public": repo.is_public,
            "kind": repo.kind,
            "state": repo.state,
        }
        if is_true(request.query.get("last_modified")):
            entry["last_modified"] = repo.last_modified
        if is_true(request.query.get("popularity")):
            entry["popularity"] = 0.0
        if token is not None:
            entry["is_starred"] = False
        if self._site.quota_report:
            entry["quota_report"] = {"quota_bytes": 0, "configured_quota": None}
        return entry

    def _readable(self, name: str, token: OAuthToken | None) -> Repository:
        """Return the repository, or refuse as Quay does, without revealing which repositories exist."""
        registry = self._site.registry
        repo = registry.find(name)
        if repo is not None and repo.is_public:
            return repo
        if token is None:
            raise self._error("invalid_token")
        if not token.allows(*READ_SCOPES):
            raise self._error("insufficient_scope")
        if repo is not None and registry.may_read(token.user, repo):
            return repo
        known = repo is None and registry.knows_namespace(token.user, name.partition("/")[0])
        raise self._error("not_found" if known else "insufficient_scope")

    def _repository(self, request: Request, token: OAuthToken | None, name: str) -> Answer:
        repo = self._readable(name, token)
        document = self._details(repo)
        if is_true(request.query.get("includeTags", "true")):
            rows = repo.tags()[:MAX_TAGS_IN_REPOSITORY]
            document["tags"] = {row.name: _tag_summary(row) for row in rows}
        document |= {"can_write": False, "can_admin": False}
        if is_true(request.query.get("includeStats")):
            document["stats"] = _statistics(self._site.now())
        return json_document(document)

    def _details(self, repo: Repository) -> dict[str, Any]:
        owner = self._site.registry.namespaces[repo.namespace]
        return {
            "namespace": repo.namespace,
            "name": repo.name,
            "kind": repo.kind,
            "description": repo.description,
            "is_public": repo.is_public,
            "is_organization": owner.is_organization,
            "is_starred": False,
            "status_token": "" if repo.is_public else str(uuid.uuid5(uuid.NAMESPACE_URL, repo.full_name)),
            "trust_enabled": False,
            "tag_expiration_s": TAG_EXPIRATION_S,
            "is_free_account": True,
            "state": repo.state,
        }

    def _tags(self, request: Request, token: OAuthToken | None, name: str) -> Answer:
        repo = self._readable(name, token)
        query = request.query
        limit = min(max(1, _integer(request, "limit", TAGS_PER_PAGE)), MAX_TAGS_PER_PAGE)
        page = max(1, _integer(request, "page", 1))
        wanted = _name_filter(query.get("specificTag"), query.get("filter_tag_name"))
        rows = [row for row in repo.tags(only_active=is_true(query.get("onlyActiveTags"))) if wanted(row.name)]
        first = limit * (page - 1)
        shown = [_tag_row(repo, row) for row in rows[first : first + limit]]
        return json_document({"tags": shown, "page": page, "has_additional": len(rows) > first + limit})

    def _organization(self, request: Request, token: OAuthToken | None, name: str) -> Answer:
        found = self._site.registry.namespaces.get(name)
        if found is None or not found.is_organization:
            raise self._error("not_found")
        member = token is not None and token.user in found.admins
        document = {"name": name, "email": "", "avatar": avatar(name, "user"), "is_admin": False, "is_member": member}
        return json_document(document)

    def _public_user(self, request: Request, token: OAuthToken | None, name: str) -> Answer:
        if not isinstance(self._site.registry.namespaces.get(name), User):
            return json_document({"message": _NO_SUCH_URL}, 404)
        return json_document({"anonymous": False, "username": name, "avatar": avatar(name, "user")})

    def _own_user(self, request: Request, token: OAuthToken | None) -> Answer:
        if token is None or not token.allows("user:read", "user:admin"):
            raise self._error("invalid_token", session_required=False)
        namespaces = self._site.registry.namespaces.values()
        organizations = [
            {"name": owner.name, "avatar": avatar(owner.name, "org"), "can_create_repo": False, "public": False}
            for owner in namespaces
            if owner.is_organization and token.user in owner.admins
        ]
        user = {"anonymous": False, "username": token.user, "avatar": avatar(token.user, "user")}
        return json_document(user | {"organizations": organizations})


def _is_browser(request: Request) -> bool:
    agent = request.headers.get("User-Agent", "")
    from_script = request.headers.get("X-Requested-With", "").lower() == "xmlhttprequest"
    return not from_script and _BROWSER.search(agent) is not None


def _integer(request: Request, name: str, default: int) -> int:
    try:
        return int(request.query.get(name, default))
    except ValueError:
        messages = {
            "limit": "Limit to the number of results to return per page. Max 100.",
            "page": "Page index for the results. Default 1.",
        }
        raise _Refused(json_document({"message": {name: messages[name]}}, 400)) from None


def _name_filter(specific: str | None, expression: str | None) -> Callable[[str], bool]:
    """Return the condition on a tag's name; an operator other than ``eq`` and ``like`` filters nothing."""
    if specific:
        return lambda name: name == specific
    if not expression:
        return lambda name: True
    operator, colon, text = expression.partition(":")
    if not colon:
        raise _Refused(json_document({"message": _BAD_FILTER}, 400))
    if operator == "eq":
        return lambda name: name == text
    if operator == "like":
        return _like(text)
    return lambda name: True


def _like(text: str) -> Callable[[str], bool]:
    """Return SQL's ``LIKE '%text%'``, case-insensitive, in which ``%`` and ``_`` keep their meaning."""
    expression = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in text)
    pattern = re.compile(expression, re.IGNORECASE | re.DOTALL)
    return lambda name: pattern.search(name) is not None


def _tag_summary(row: Tag) -> dict[str, Any]:
    summary = {
        "name": row.name,
        "size": _size(row),
        "last_modified": formatdate(row.start_ts),
        "manifest_digest": row.manifest.digest,
    }
    return summary if row.end_ts is None else summary | {"expiration": formatdate(row.end_ts)}


def _tag_row(repo: Repository, row: Tag) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": row.name,
        "reversion": row.reversion,
        "immutable": False,
        "start_ts": row.start_ts,
        "manifest_digest": row.manifest.digest,
        "is_manifest_list": row.manifest.is_index,
        "size": _size(row),
        "last_modified": formatdate(row.start_ts),
    }
    if row.end_ts is not None:
        entry |= {"end_ts": row.end_ts, "expiration": formatdate(row.end_ts)}
    return entry | _presence(repo, row) if row.manifest.is_index else entry


def _presence(repo: Repository, row: Tag) -> dict[str, Any]:
    """Return the four fields of an index: which of its children this registry has."""
    listed = [child["digest"] for child in row.manifest.document["manifests"] or ()]
    held = {child.digest for child in row.manifest.children if not repo.has_lost(child.digest)}
    presence = {digest: digest in held for digest in listed}
    present = sum(presence.values())
    return {
        "is_sparse": present < len(presence),
        "child_manifest_count": len(presence),
        "present_child_count": present,
        "child_manifests_presence": presence,
    }


def _size(row: Tag) -> int | None:
    return None if row.manifest.is_index else row.manifest.layers_size


def _statistics(now: float) -> list[dict[str, Any]]:
    today = datetime.fromtimestamp(now, UTC).date()
    days = (today - timedelta(days=number) for number in range(1, STATISTICS_DAYS + 1))
    return [{"date": day.isoformat(), "count": 0} for day in days]
