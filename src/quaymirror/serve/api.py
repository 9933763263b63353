"""The distribution protocol, for reading only (OCI distribution-spec, "Pull" and "Content Discovery")."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote, urlencode

from ..errors import InvalidName, QuaymirrorError
from ..oci import Descriptor, Digest, mediatype
from ..oci.reference import is_registry_host, is_repository_name, is_tag
from .content import SMALL_BYTES
from .messages import Answer, BlobPart, Request, error_answer, json_answer
from .ranges import UnsatisfiableRange, parse_range
from .registry import Place, Repository, ServedRegistry

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<rest>[^/]*)", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}")
_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
# Content under its digest never changes; a tag may.
_FOR_EVER = "max-age=31536000, immutable"
_CHECK_AGAIN = "no-cache"
_RETRY_SECONDS = "30"
_MAX_REFERENCE_TEXT = 300


class Api:
    """The handler of `/v2/`."""

    def __init__(self, registry: ServedRegistry) -> None:
        self._registry = registry
        self._kinds: dict[str, Callable[[Request, Repository, str], Awaitable[Answer]]] = {
            "manifests": self._manifest,
            "blobs": self._blob,
            "tags": self._tags,
            "referrers": self._referrers,
        }

    async def answer(self, request: Request) -> Answer:
        """Answer a request below `/v2`. Failures of the disk and damage are answers, too."""
        try:
            answer = await self._answer(request)
        except QuaymirrorError as error:
            text = "the content is damaged or can't be read here: see the log of the server"
            answer = error_answer(500, "UNKNOWN", text, note=error.message)

        answer.headers |= _VERSION
        return answer

    async def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return error_answer(405, "UNSUPPORTED", "this registry is read-only", Allow="GET, HEAD")

        if request.path in ("/v2", "/v2/"):
            answer = json_answer({})
            answer.kind = "ping"
            return answer

        if request.path == "/v2/_catalog":
            answer = _page(request, "repositories", self._registry.names(), {})
            answer.kind = "catalog"
            return answer

        match = _ROUTE.fullmatch(request.path)
        if match is None:
            return error_answer(404, "UNSUPPORTED", "no such endpoint")

        answer = await self._in_repository(request, match["name"], match["kind"], match["rest"])
        answer.kind = match["kind"]
        return answer

    async def _in_repository(self, request: Request, name: str, kind: str, rest: str) -> Answer:
        if not is_repository_name(name):
            return error_answer(400, "NAME_INVALID", "not a repository name")

        problem = _malformed(kind, rest)
        if problem is not None:
            return problem

        namespace = request.query.get("ns", "")
        repository = self._registry.repository(name, namespace if is_registry_host(namespace) else "")
        if repository is None and kind == "manifests":
            repository = await self._registry.repository_of_day(name, rest)

        if repository is None:
            return self._unavailable() or error_answer(404, "NAME_UNKNOWN", "this registry has no such repository")

        answer = await self._kinds[kind](request, repository, rest)
        if repository.namespace:
            answer.headers["OCI-Namespace"] = repository.namespace

        return answer

    def _unavailable(self) -> Answer | None:
        """Return the answer in place of "missing" while a mirror can't be read, since it may have the content."""
        problem = self._registry.problem
        if not problem:
            return None

        text = "a mirror of this registry can't be read now"
        return error_answer(503, "UNAVAILABLE", text, note=problem, **{"Retry-After": _RETRY_SECONDS})

    async def _manifest(self, request: Request, repository: Repository, reference: str) -> Answer:
        found = await self._resolve(repository, reference)
        content = await found[0].content.read(found[1]) if found is not None else None
        if found is None or content is None:
            return self._unavailable() or error_answer(404, "MANIFEST_UNKNOWN", "the repository has no such manifest")

        node = found[1]
        headers = _headers(node, node.media_type) | {"Cache-Control": _FOR_EVER if ":" in reference else _CHECK_AGAIN}
        if _is_known(request, node):
            return Answer(304, headers)

        return Answer(200, headers, content)

    async def _resolve(self, repository: Repository, reference: str) -> tuple[Place, Descriptor] | None:
        if ":" in reference:
            digest = Digest.parse(reference)
        else:
            named = await self._registry.image(repository, reference)
            if named is None:
                return None

            digest = named[1].root.digest

        found = await self._registry.find(repository, digest)
        return (found[0], found[1].node) if found is not None and found[1].is_manifest else None

    async def _blob(self, request: Request, repository: Repository, reference: str) -> Answer:
        found = await self._registry.find(repository, Digest.parse(reference))
        answer = await self._content(request, *(found[0], found[1].node)) if found is not None else None
        return answer or self._unavailable() or error_answer(404, "BLOB_UNKNOWN", "the repository has no such blob")

    async def _content(self, request: Request, place: Place, node: Descriptor) -> Answer | None:
        headers = _headers(node, mediatype.UNKNOWN) | {"Accept-Ranges": "bytes", "Cache-Control": _FOR_EVER}
        if request.method == "HEAD":
            return Answer(200, headers, length=node.size) if await place.content.has(node) else None

        if _is_known(request, node):
            return Answer(304, headers)

        try:
            part = _part(request, node)
        except UnsatisfiableRange:
            answer = error_answer(416, "SIZE_INVALID", "the range is not in the blob")
            answer.headers["Content-Range"] = f"bytes */{node.size}"
            return answer

        start, count = part or (0, node.size)
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{node.size}"

        body = await _body(place, node, start, count)
        return None if body is None else Answer(200 if part is None else 206, headers, body)

    async def _tags(self, request: Request, repository: Repository, _: str) -> Answer:
        return _page(request, "tags", repository.tags(), {"name": repository.name})

    async def _referrers(self, request: Request, repository: Repository, reference: str) -> Answer:
        entries = await self._registry.referrers(repository, Digest.parse(reference))
        wanted = request.query.get("artifactType")
        headers = {"Cache-Control": _CHECK_AGAIN}
        if wanted is not None:
            entries = [entry for entry in entries if entry.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"

        index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries}
        return json_answer(index, content_type=mediatype.OCI_INDEX, **headers)


def _malformed(kind: str, rest: str) -> Answer | None:
    """Return an error if the last part of a path can't be one of its kind."""
    if kind == "tags":
        return None if rest == "list" else error_answer(404, "UNSUPPORTED", "no such endpoint")

    if kind == "manifests" and ":" not in rest:
        return None if is_tag(rest) else error_answer(400, "MANIFEST_INVALID", "not a tag")

    try:
        Digest.parse(rest[:_MAX_REFERENCE_TEXT])
    except InvalidName:
        return error_answer(400, "DIGEST_INVALID", "not a sha256 or sha512 digest")

    return None


def _headers(node: Descriptor, media_type: str) -> dict[str, str]:
    return {
        "Content-Type": media_type,
        "Docker-Content-Digest": str(node.digest),
        "ETag": f'"{node.digest}"',
    }


def _is_known(request: Request, node: Descriptor) -> bool:
    """Return True if the client has the content."""
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in request.header("If-None-Match").split(",")]
    return str(node.digest) in tags or tags == ["*"]


def _part(request: Request, node: Descriptor) -> tuple[int, int] | None:
    condition = request.header("If-Range")
    if condition and condition.strip('"') != str(node.digest):
        return None

    return parse_range(request.header("Range"), node.size)


async def _body(place: Place, node: Descriptor, start: int, count: int) -> bytes | BlobPart | None:
    if node.size <= SMALL_BYTES:
        content = await place.content.read(node)
        return None if content is None else content[start : start + count]

    blob = await place.content.open(node)
    return None if blob is None else BlobPart(blob, place.content, start, count)


def _page(request: Request, key: str, names: Sequence[str], fields: dict[str, str]) -> Answer:
    """Return a list of names, or the page of it that `n` and `last` ask for."""
    last, number = request.query.get("last"), request.query.get("n")
    if number is not None and not _NUMBER.fullmatch(number):
        return error_answer(400, "PAGINATION_NUMBER_INVALID", "n is not a number of entries")

    rest = [name for name in names if last is None or name > last]
    shown = rest if number is None else rest[: int(number)]
    answer = json_answer({**fields, key: shown}, **{"Cache-Control": _CHECK_AGAIN})
    if shown and len(shown) < len(rest):
        query = urlencode({"n": number, "last": shown[-1]})
        answer.headers["Link"] = f'<{quote(request.path)}?{query}>; rel="next"'

    return answer
