"""Quay's registry v2 (OCI distribution-spec 1.1, "Pull" and "Content Discovery"), including its deviations.

Public repositories need no token; content that a client may not see is a 401 and never a 404; a tag requested without
its media type in Accept is converted; and blobs are on another host, behind a link that is valid for 600 seconds.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from quaymirror.testing.cdn import blob_url
from quaymirror.testing.images import OCI_INDEX, Blob, SourceManifest
from quaymirror.testing.messages import (
    Answer,
    Request,
    compact_json,
    data,
    html,
    method_not_allowed,
    not_found_page,
    redirect,
    registry_error,
)
from quaymirror.testing.organization import Repository
from quaymirror.testing.schema1 import to_schema1
from quaymirror.testing.site import Site
from quaymirror.testing.tokens import BadToken, Grant, Tokens

MAX_PAGE = 100
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z0-9_+.-]+:[A-Fa-f0-9]+")
_LIBRARY = "library"


class Distribution:
    """The handler of ``/v2/...``, ``/v2/auth`` excepted."""

    def __init__(self, site: Site, tokens: Tokens) -> None:
        self._site = site
        self._tokens = tokens
        self._tag_lists: dict[int, tuple[float, int, list[str]]] = {}
        self._routes: tuple[tuple[re.Pattern[str], Callable[[Request, Repository, str], Answer]], ...] = (
            (re.compile(r"/v2/(.+)/manifests/([^/]+)"), self._manifest),
            (re.compile(r"/v2/(.+)/blobs/([^/]+)"), self._blob),
            (re.compile(r"/v2/(.+)/tags/(list)"), self._tag_list),
            (re.compile(r"/v2/(.+)/referrers/([^/]+)"), self._referrers),
        )

    def answer(self, request: Request) -> Answer:
        """Answer a request below ``/v2``."""
        if request.path == "/v2":
            return redirect(f"{self._site.url}/v2/", 308)
        if not request.is_read:
            return method_not_allowed()
        if request.path == "/v2/":
            return self._authorized(request, "", self._ping)
        if request.path == "/v2/_catalog":
            return self._authorized(request, "", self._catalog)
        return self._repository_route(request)

    def repository_of(self, request: Request) -> tuple[str, str, str] | None:
        """Return repository name, kind of thing and its reference if the request is for a manifest or blob."""
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", request.path)
        return (found[1], found[2], found[3]) if found else None

    def refusal(self, request: Request, name: str) -> Answer | None:
        """Return the 401 if the request may not read the repository *name*, whether it exists or not."""
        try:
            grant = self._tokens.grant_of(request)
        except BadToken as problem:
            return self._tokens.bad_token(problem, name)
        repo = self._site.registry.find(name)
        open_to_all = repo is not None and repo.is_public and (grant is not None or not self._site.require_token)
        granted = grant is not None and name in grant.pullable
        return None if open_to_all or granted else self._tokens.unauthorized(name=name)

    def _authorized(self, request: Request, name: str, handler: Callable[[Request, Grant | None], Answer]) -> Answer:
        try:
            grant = self._tokens.grant_of(request)
        except BadToken as problem:
            return self._tokens.bad_token(problem, name)
        return handler(request, grant)

    def _repository_route(self, request: Request) -> Answer:
        for pattern, handler in self._routes:
            found = pattern.fullmatch(request.path)
            if found:
                # FEATURE_LIBRARY_SUPPORT: a name without a namespace is in "library".
                name = found[1] if "/" in found[1] else f"{_LIBRARY}/{found[1]}"
                return self._in_repository(request, name, found[2], handler)
        return not_found_page()

    def _in_repository(
        self, request: Request, name: str, reference: str, handler: Callable[[Request, Repository, str], Answer]
    ) -> Answer:
        refusal = self.refusal(request, name)
        if refusal is not None:
            return refusal
        repo = self._site.registry.find(name)
        if repo is None:
            return registry_error(404, "NAME_UNKNOWN", "repository name not known to registry")
        return handler(request, repo, reference)

    def _ping(self, request: Request, grant: Grant | None) -> Answer:
        sparse = {"X-Sparse-Manifest-Support": "false"}
        if grant is not None:
            return html("true", 200).with_headers(sparse)
        return html("true", 401).with_headers(self._tokens.challenge() | sparse)

    def _manifest(self, request: Request, repo: Repository, reference: str) -> Answer:
        if _DIGEST.fullmatch(reference):
            found = repo.manifest(reference)
            return _manifest_unknown() if found is None else _manifest_answer(found)
        if not _TAG.fullmatch(reference):
            return not_found_page()
        row = repo.tag(reference)
        if row is not None and not repo.has_lost(row.manifest.digest):
            chosen = _acceptable(row.manifest, _accepted(request), repo=repo, tag=reference)
            return _manifest_unknown() if chosen is None else _manifest_answer(chosen)
        if repo.ever_had(reference) and row is None:
            message = f"Tag {reference} was deleted or has expired. To pull, revive via time machine"
            return registry_error(404, "TAG_EXPIRED", message)
        return _manifest_unknown()

    def _blob(self, request: Request, repo: Repository, digest: str) -> Answer:
        if not _DIGEST.fullmatch(digest):
            return not_found_page()
        blob = repo.blob(digest)
        if blob is None:
            return registry_error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Docker-Content-Digest": digest, "Cache-Control": "max-age=31536000"}
        if request.method == "GET" and self._site.redirect_blobs:
            return redirect(blob_url(self._site, digest)).with_headers(headers)
        if self._site.redirect_blobs:
            headers["Accept-Ranges"] = "bytes"
        return _streamed(blob, request).with_headers(headers)

    def _tag_list(self, request: Request, repo: Repository, _: str) -> Answer:
        limit, last = _page_size(request), request.query.get("last", "")
        names = [name for name in self._tag_names(repo) if name > last]
        answer = compact_json({"name": repo.full_name, "tags": names[:limit]})
        if not limit or len(names) <= limit:
            return answer
        target = f"/v2/{repo.full_name}/tags/list?n={limit}&last={quote(names[limit - 1])}"
        return answer.with_headers({"Link": f'<{target}>; rel="next"'})

    def _tag_names(self, repo: Repository) -> list[str]:
        """Return the sorted names, from a cache that only a deletion refreshes if it is enabled."""
        known = self._tag_lists.get(repo.id)
        now = time.monotonic()
        if known and known[0] > now and known[1] == repo.deletions:
            return known[2]
        names = sorted(row.name for row in repo.tags())
        self._tag_lists[repo.id] = (now + self._site.tag_list_cache, repo.deletions, names)
        return names

    def _referrers(self, request: Request, repo: Repository, digest: str) -> Answer:
        if repo.manifest(digest) is None:
            return registry_error(400, "MANIFEST_INVALID", "manifest invalid", "")
        kind = request.query.get("artifactType")
        found = {manifest.digest: _referrer(manifest) for manifest in repo.manifests() if _refers(manifest, digest)}
        listed = [entry for entry in found.values() if kind in (None, entry.get("artifactType"))]
        page, target = self._page_of_referrers(request, listed)
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}
        answer = compact_json(document, content_type=OCI_INDEX)
        if target:
            answer = answer.with_headers({"Link": f'<{target}>; rel="next"'})
        return answer.with_headers({"OCI-Filters-Applied": "artifactType"}) if kind else answer

    def _page_of_referrers(self, request: Request, listed: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        """Return a page, and the target of the next one: Quay has all in one, others have pages."""
        size = self._site.referrers_page
        start = int(request.query.get("next", "0"))
        if not size or start + size >= len(listed):
            return listed[start:], ""
        return listed[start : start + size], f"{request.path}?next={start + size}"

    def _catalog(self, request: Request, grant: Grant | None) -> Answer:
        limit = _page_size(request)
        start = self._site.page_start(request.query.get("next_page"))
        found = [repo for repo in self._cataloged(grant) if repo.id >= start]
        answer = compact_json({"repositories": [repo.full_name for repo in found[:limit]]})
        if not limit or len(found) <= limit:
            return answer
        target = f"/v2/_catalog?n={limit}&next_page={quote(self._site.page_token(found[limit].id))}"
        return answer.with_headers({"Link": f'<{target}>; rel="next"'})

    def _cataloged(self, grant: Grant | None) -> list[Repository]:
        registry = self._site.registry
        subject = grant.subject if grant else None
        with_public = self._site.public_catalog
        return [
            repo
            for repo in registry.repositories()
            if (with_public and repo.is_public) or registry.may_read(subject, repo)
        ]


def _accepted(request: Request) -> frozenset[str]:
    listed = ",".join(request.headers.getall("Accept", [])).split(",")
    return frozenset(item.partition(";")[0].strip().lower() for item in listed)


def _acceptable(
    manifest: SourceManifest, accepted: frozenset[str], *, repo: Repository, tag: str
) -> SourceManifest | None:
    """Return Quay's conversion of a tag for a client that accepts only some types.

    1. The stored type is listed: the stored bytes.
    2. An index, and its type isn't listed: go on with the linux/amd64 child, if there is one.
    3. A single image whose type isn't listed, or nothing was listed at all: a schema 1 conversion.
    """
    if manifest.media_type in accepted:
        return manifest
    if manifest.is_index:
        child = _amd64_child(manifest, repo)
        return None if child is None else _acceptable(child, accepted, repo=repo, tag=tag)
    return to_schema1(manifest, name=repo.full_name, tag=tag)


def _amd64_child(index: SourceManifest, repo: Repository) -> SourceManifest | None:
    for listed in index.document["manifests"]:
        platform = listed.get("platform", {})
        if (platform.get("os"), platform.get("architecture")) == ("linux", "amd64"):
            return repo.manifest(listed["digest"])
    return None


def _manifest_answer(manifest: SourceManifest) -> Answer:
    return data(manifest.raw, manifest.media_type, Docker_Content_Digest=manifest.digest)


def _manifest_unknown() -> Answer:
    return registry_error(404, "MANIFEST_UNKNOWN", "manifest unknown")


def _streamed(blob: Blob, request: Request) -> Answer:
    """Return the blob as Quay streams it: no ranges, and through nginx's gzip if the client accepts it."""
    answer = data(memoryview(blob.data), "application/octet-stream")
    if request.method == "HEAD" or "gzip" not in request.headers.get("Accept-Encoding", ""):
        return answer
    squeezed = gzip.compress(blob.data, compresslevel=1, mtime=0)
    return answer.with_body(squeezed, None).with_headers({"Content-Encoding": "gzip"})


def _page_size(request: Request) -> int:
    try:
        return min(max(0, int(request.query.get("n", MAX_PAGE))), MAX_PAGE)
    except ValueError:
        return MAX_PAGE


def _refers(manifest: SourceManifest, digest: str) -> bool:
    try:
        subject = manifest.document.get("subject") or {}
    except (ValueError, AttributeError):
        return False  # content of an unknown type, which is no document
    return isinstance(subject, dict) and subject.get("digest") == digest


def _referrer(manifest: SourceManifest) -> dict[str, Any]:
    document = manifest.document
    descriptor: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.raw),
    }
    # Not that of the config, which other registries put there.
    if document.get("artifactType"):
        descriptor["artifactType"] = document["artifactType"]
    annotations = document.get("annotations")
    return descriptor | {"annotations": annotations} if annotations else descriptor
