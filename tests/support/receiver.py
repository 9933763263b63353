"""A registry in this process to push to: it follows the distribution-spec, except for scripted faults."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Reaction = Callable[["Request"], web.StreamResponse | None]
"""An answer to give instead of the honest one; None leaves that to the registry."""
_Handler = Callable[["Request", str, str], Awaitable[web.StreamResponse]]
_ROUTE = re.compile(r"/v2/(?P<name>.+?)/(?P<what>blobs/uploads/|blobs/|manifests/|referrers/|tags/)(?P<rest>.*)")
_SHUTDOWN_SECONDS = 0.02


@dataclass(frozen=True)
class Request:
    """A request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    source: web.BaseRequest = field(repr=False, compare=False)


@dataclass
class Breakage:
    """A fault: `react` answers the `nth` (from 1; 0: each) matching request."""

    method: str
    path: str
    react: Reaction
    nth: int = 1
    seen: int = 0

    def takes(self, request: Request) -> bool:
        """Return whether the fault applies to this request."""
        if request.method != self.method or not re.search(self.path, request.path):
            return False

        self.seen += 1
        return self.nth in (0, self.seen)


def refusal(status: int, code: str, text: str = "no") -> web.Response:
    """Return an error as registries word it."""
    return web.json_response({"errors": [{"code": code, "message": text, "detail": {}}]}, status=status)


def refuse(status: int, code: str = "DENIED", text: str = "no") -> Reaction:
    """Answer with an error of a registry."""
    return lambda _: refusal(status, code, text)


class Receiver:
    """A registry on a free loopback port. `cut` breaks the connection of a body after so many bytes, once.

    `mounts`: whether it mounts. `limit`: the largest body it takes. `off_by_one`: whether it says one byte too many of
    a broken upload, as Quay does. `location`: what it makes of the path where an upload goes on. `late`: statuses with
    which it answers bodies of blobs that it has received and dropped. `forgets`: whether a broken body ends the upload.
    `is_careless`: whether it takes manifests without their content. `issues`: whether its token service gives a token
    for these scopes. `grants`: whether it then grants a scope. `lists_referrers`: whether it has the referrers API.
    `names_subjects`: whether it says so when it takes a referrer, by OCI-Subject, which Quay does not.
    """

    def __init__(
        self,
        *,
        mounts: bool = True,
        limit: int | None = None,
        off_by_one: bool = False,
        tokens: bool = False,
    ) -> None:
        self.mounts = mounts
        self.tokens = tokens
        self.limit = limit
        self.off_by_one = off_by_one
        self.location: Callable[[str], str] = lambda path: path
        self.ping: Callable[[], web.Response] = lambda: web.json_response({})
        self.cuts: list[int] = []
        self.late: list[int] = []
        self.forgets = False
        self.is_careless = False
        self.challenges = 0
        self.lists_referrers = False
        self.names_subjects = False
        self.issues: Callable[[list[str]], bool] = lambda scopes: True
        self.grants: Callable[[str], bool] = lambda scope: True
        self.breakages: list[Breakage] = []
        self.requests: list[Request] = []
        self.blobs: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self.manifests: defaultdict[str, dict[str, tuple[str, bytes]]] = defaultdict(dict)
        self.uploads: dict[str, bytearray] = {}
        self.received = 0
        self._runner: web.ServerRunner | None = None
        self.host = ""

    async def __aenter__(self) -> Receiver:
        server = web.Server(self._serve, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.host = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        for _turn in range(3):
            await asyncio.sleep(0)

    @property
    def address(self) -> str:
        """Return its address for `--to`."""
        return f"registry://{self.host}?insecure=true"

    def count(self, method: str, path: str) -> int:
        """Return how many requests had this method, and a path in which the regular expression is found."""
        return sum(request.method == method and bool(re.search(path, request.path)) for request in self.requests)

    async def _serve(self, source: web.BaseRequest) -> web.StreamResponse:
        request = Request(source.method, source.path, dict(source.query), dict(source.headers), source)
        self.requests.append(request)
        for breakage in self.breakages:
            if breakage.takes(request):
                answer = breakage.react(request)
                if answer is not None:
                    return answer

        if self.limit is not None and int(request.headers.get("Content-Length", 0)) > self.limit:
            return web.Response(status=413, text="<html>413 Request Entity Too Large</html>")

        if request.path == "/token":
            scopes = source.query.getall("scope", [])
            if not self.issues(scopes):
                return refusal(401, "UNAUTHORIZED")

            return web.json_response({"token": _token(scopes, self.grants)})

        if self.tokens and not self._is_allowed(request):
            self.challenges += 1
            challenge = f'Bearer realm="http://{self.host}/token",service="{self.host}"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})

        if request.path == "/v2/":
            return self.ping()

        route = _ROUTE.fullmatch(request.path)
        assert route is not None, request
        handlers: dict[str, _Handler] = {
            "blobs/uploads/": self._upload,
            "blobs/": self._blob,
            "manifests/": self._manifest,
            "referrers/": self._referrers,
            "tags/": self._tags,
        }
        return await handlers[route["what"]](request, route["name"], route["rest"])

    def _is_allowed(self, request: Request) -> bool:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        granted = _granted(token)
        route = _ROUTE.fullmatch(request.path)
        if route is None:
            return bool(token)

        actions = {"pull"} if request.method in ("GET", "HEAD") else {"pull", "push"}
        source = request.query.get("from", route["name"])
        return actions <= granted.get(route["name"], set()) and "pull" in granted.get(source, set())

    async def _blob(self, request: Request, name: str, digest: str) -> web.Response:
        content = self.blobs[name].get(digest)
        if content is None:
            return refusal(404, "BLOB_UNKNOWN")

        headers = {"Content-Length": str(len(content)), "Docker-Content-Digest": digest}
        return web.Response(body=content if request.method == "GET" else None, headers=headers)

    async def _tags(self, request: Request, name: str, _: str) -> web.Response:
        tags = [reference for reference in self.manifests[name] if ":" not in reference]
        return web.json_response({"name": name, "tags": sorted(tags)})

    async def _referrers(self, request: Request, name: str, subject: str) -> web.Response:
        if not self.lists_referrers:
            return web.Response(status=404, text="404 page not found")

        found = {
            reference: {"mediaType": kind, "digest": reference, "size": len(content)}
            for reference, (kind, content) in self.manifests[name].items()
            if ":" in reference and _subject(content) == subject
        }
        kind = "application/vnd.oci.image.index.v1+json"
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": [*found.values()]}
        return web.json_response(document, content_type=kind)

    async def _manifest(self, request: Request, name: str, reference: str) -> web.StreamResponse:
        if request.method == "PUT":
            return await self._put_manifest(request, name, reference)

        found = self.manifests[name].get(reference)
        if found is None:
            return refusal(404, "MANIFEST_UNKNOWN")

        headers = {"Docker-Content-Digest": _digest(found[1]), "Content-Length": str(len(found[1]))}
        return web.Response(body=found[1], headers=headers | {"Content-Type": found[0]})

    async def _put_manifest(self, request: Request, name: str, reference: str) -> web.StreamResponse:
        content = await request.source.read()
        document: dict[str, Any] = json.loads(content)
        children = [child["digest"] for child in document.get("manifests", ())]
        blobs = [blob["digest"] for blob in (document.get("config"), *document.get("layers", ())) if blob]
        has_all = set(children) <= self.manifests[name].keys() and set(blobs) <= self.blobs[name].keys()
        if not has_all and not self.is_careless:
            return refusal(400, "MANIFEST_BLOB_UNKNOWN")

        stored = (request.headers["Content-Type"], content)
        self.manifests[name][reference] = self.manifests[name][_digest(content)] = stored
        headers = {"Docker-Content-Digest": _digest(content), "Location": f"/v2/{name}/manifests/{reference}"}
        if self.names_subjects and (subject := _subject(content)):
            headers["OCI-Subject"] = subject

        return web.Response(status=201, headers=headers)

    async def _upload(self, request: Request, name: str, session: str) -> web.StreamResponse:
        if request.method == "POST":
            return self._begin(request, name)

        held = self.uploads.get(session)
        if held is None:
            return refusal(404, "BLOB_UPLOAD_UNKNOWN")

        if self.late and int(request.headers.get("Content-Length", 0)):
            status = self.late.pop(0)
            async for _ in request.source.content.iter_any():
                pass

            return web.Response(status=status, headers={"Retry-After": "0"})

        handlers = {"PATCH": self._patch, "PUT": self._put, "GET": self._status, "DELETE": self._cancel}
        return await handlers[request.method](request, name, session, held)

    def _begin(self, request: Request, name: str) -> web.Response:
        digest, source = request.query.get("mount"), request.query.get("from", "")
        if digest and self.mounts and digest in self.blobs[source]:
            self.blobs[name][digest] = self.blobs[source][digest]
            return web.Response(status=201, headers={"Location": f"/v2/{name}/blobs/{digest}"})

        session = f"session-{len(self.requests)}"
        self.uploads[session] = bytearray()
        return self._accepted(name, session, 202)

    async def _patch(self, request: Request, name: str, session: str, held: bytearray) -> web.StreamResponse:
        start = int(request.headers.get("Content-Range", f"{len(held)}-").partition("-")[0])
        if start != len(held):
            return web.Response(status=416)

        await self._receive_or_forget(request, session, held)
        return self._accepted(name, session, 202)

    async def _put(self, request: Request, name: str, session: str, held: bytearray) -> web.StreamResponse:
        await self._receive_or_forget(request, session, held)
        del self.uploads[session]
        digest = request.query["digest"]
        if _digest(bytes(held)) != digest:
            return refusal(400, "DIGEST_INVALID")

        self.blobs[name][digest] = bytes(held)
        headers = {"Docker-Content-Digest": digest, "Location": f"/v2/{name}/blobs/{digest}"}
        return web.Response(status=201, headers=headers)

    async def _status(self, request: Request, name: str, session: str, held: bytearray) -> web.StreamResponse:
        return self._accepted(name, session, 204)

    async def _cancel(self, request: Request, name: str, session: str, held: bytearray) -> web.StreamResponse:
        del self.uploads[session]
        return web.Response(status=204)

    async def _receive_or_forget(self, request: Request, session: str, held: bytearray) -> None:
        try:
            await self._receive(request, held)
        except Exception:
            if self.forgets:
                del self.uploads[session]

            raise

    async def _receive(self, request: Request, held: bytearray) -> None:
        length = int(request.headers["Content-Length"])
        cut = self.cuts.pop(0) if length and self.cuts else None
        got = 0
        async for chunk in request.source.content.iter_any():
            piece = chunk if cut is None else chunk[: cut - got]
            got += len(piece)
            held += piece
            self.received += len(piece)
            if got == cut:
                assert request.source.transport is not None
                request.source.transport.abort()
                raise ConnectionResetError

    def _accepted(self, name: str, session: str, status: int) -> web.Response:
        held = len(self.uploads[session])
        end = held if self.off_by_one and status == 204 else max(0, held - 1)
        location = self.location(f"/v2/{name}/blobs/uploads/{session}")
        return web.Response(status=status, headers={"Location": location, "Range": f"0-{end}"})


def _token(scopes: list[str], grants: Callable[[str], bool]) -> str:
    """Return a JWT whose `access` has every scope, without actions if it is not granted."""
    access = []
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        access.append({"type": kind, "name": name, "actions": actions.split(",") if grants(scope) else []})

    return f"e30.{base64.urlsafe_b64encode(json.dumps({'access': access}).encode()).decode()}.c2ln"


def _granted(token: str) -> dict[str, set[str]]:
    """Return the actions that a token allows, by repository."""
    access = json.loads(base64.urlsafe_b64decode(token.split(".")[1]))["access"] if token else []
    return {entry["name"]: set(entry["actions"]) for entry in access}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _subject(manifest: bytes) -> str:
    """Return the digest that a manifest refers to, "" for none."""
    subject: str = (json.loads(manifest).get("subject") or {}).get("digest", "")
    return subject
