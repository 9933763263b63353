"""Pushing to a registry (OCI distribution-spec 1.1, "Push"): one method a request, and what its answers mean.

Everything here is about one registry, the target, and every error says so.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote, urlsplit

import anyio

from ..errors import (
    AccessDenied,
    ContentMissing,
    CredentialsRefused,
    DigestMismatch,
    InvalidName,
    NotFound,
    QuaymirrorError,
    ReadInterrupted,
    Scope,
    ServiceError,
    Side,
    UnsafeRedirect,
)
from ..http.client import Client
from ..http.exchange import Request, Response
from ..http.origin import Origin, joined, request_target
from ..oci import Descriptor, Digest, Repository, mediatype

T = TypeVar("T")

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")
_MAX_ANSWER = 64 * 1024
_MAX_LOCATION = 8 * 1024
# A piece is held in memory. S3 wants 5 MiB; who wants much more wants our memory.
_MOST_LEAST_BYTES = 64 * 1024 * 1024
# A registry that is gone should not keep us from ending.
_CANCEL_SECONDS = 5.0
_LOST_UPLOAD = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
# The last one is Quay's word for a manifest whose blobs it lacks, among other things.
_CONTENT_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "MANIFEST_INVALID"})
_WORDS = {
    400: "the target does not take it",
    401: "the target does not let us write there",
    403: "the target does not let us write there: permission, quota, or read-only",
    404: "the target has no such place",
    405: "the target takes no uploads: is it read-only?",
    409: "the tag is immutable at the target",
    413: "it is too large for the target",
    415: "the target does not take this media type",
    507: "the target has no space left",
}


class UploadLost(ReadInterrupted):
    """The registry does not know the upload any more, or not where it stood: it has to begin again."""

    side = Side.TARGET


@dataclass(slots=True)
class Upload:
    """An upload under way. `location`, path and query at the registry, moves with each answer.

    `least` is the fewest bytes that the registry takes in one piece that is not the last.
    """

    repository: Repository
    location: str
    least: int = 0


class RegistryPusher:
    """A registry to push to. What has no body worth mentioning is tried again here.

    Whoever sends blobs has to know how to resume: methods of an upload send one request, once.
    """

    def __init__(self, client: Client, *, may_write: bool = True) -> None:
        self._client = client
        self._may_write = may_write

    @property
    def registry(self) -> str:
        """The registry's host, with its port where that is not the usual one."""
        return self._client.origin.netloc

    async def ping(self) -> None:
        """Ask for the API's root, which tells whether a registry is there and takes our credentials.

        :raises CredentialsRefused: when it doesn't, or wants some and there are none.
        :raises QuaymirrorError: when there is no registry.
        """
        try:
            await self._client.fetch(Request("/v2/", kind="manifests"), limit=_MAX_ANSWER, parse=_nothing)
        except AccessDenied as error:
            raise CredentialsRefused(
                f"the target {self.registry} wants credentials, or others than these: --dest-username, or an auth file",
                status=error.status,
                side=Side.TARGET,
            ) from None
        except QuaymirrorError as error:
            # Elsewhere this may fail one image; here it means that the target can't be used at all.
            raise error.replace(f"the target is not usable: {error.message}", scope=Scope.RUN) from None

    async def head_manifest(self, repository: Repository, reference: str) -> Descriptor | None:
        """Return what the manifest `reference`, a tag or a digest, is at the target; None if it is not there.

        :raises QuaymirrorError: when there is no usable answer.
        """
        request = self._request(
            repository, f"manifests/{reference}", "HEAD", kind="manifests", headers={"Accept": mediatype.ACCEPT}
        )
        return await self._unless_absent(request, _described)

    async def has_blob(self, repository: Repository, blob: Descriptor) -> bool:
        """Tell whether `repository` has `blob`; one of another length is none.

        :raises QuaymirrorError: when there is no usable answer.
        """

        def parse(response: Response, _: bytes) -> bool:
            return response.headers.get("Content-Length", str(blob.size)) == str(blob.size)

        request = self._request(repository, f"blobs/{blob.digest}", "HEAD", kind="blobs", may_redirect=True)
        return bool(await self._unless_absent(request, parse))

    async def put_manifest(self, repository: Repository, reference: str, node: Descriptor, content: bytes) -> None:
        """Store `content`, the bytes of `node`, as `reference`, a tag or its digest.

        :raises ContentMissing: when the registry misses something that it points to.
        :raises DigestMismatch: when the registry stored other bytes than these.
        :raises ServiceError: when the registry refuses it.
        :raises QuaymirrorError: when there is no usable answer.
        """
        headers = {"Content-Type": node.media_type}
        request = self._request(repository, f"manifests/{reference}", "PUT", "manifests", headers, content)
        with _refusals(f"{repository}:{reference}"):
            stored = await self._fetch(request, _digest)

        if stored is None:
            found = await self.head_manifest(repository, str(node.digest))
            stored = found.digest if found is not None else None

        if stored != node.digest:
            raise DigestMismatch(
                f"{repository}: the target stored {node.digest} as {stored or 'nothing'}",
                scope=Scope.IMAGE,
                side=Side.TARGET,
            )

    async def mount(self, repository: Repository, blob: Digest, source: Repository) -> Upload | None:
        """Let `repository` have a `blob` of `source`; if the registry does not do that, return the upload it began.

        :raises ServiceError: when the registry refuses uploads.
        :raises QuaymirrorError: when there is no usable answer.
        """
        where = f"blobs/uploads/?mount={quote(str(blob))}&from={quote(source.name)}"
        request = self._request(repository, where, "POST", kind="blobs", body=b"", also=source)
        with _refusals(str(repository)):
            return await self._fetch(request, lambda response, _: self._begun(repository, response))

    async def begin(self, repository: Repository) -> Upload:
        """Begin an upload; see the class for who tries again.

        :raises ServiceError: when the registry refuses uploads.
        :raises QuaymirrorError: when there is no usable answer.
        """
        request = self._request(repository, "blobs/uploads/", "POST", kind="blobs", body=b"")
        with _refusals(str(repository)):
            upload = await self._once(request, lambda response, _: self._begun(repository, response))

        if upload is None:
            raise UploadLost(f"{repository}: the target began no upload")

        return upload

    async def finish(
        self, upload: Upload, digest: Digest, body: bytes | AsyncIterable[bytes] = b"", *, length: int = 0
    ) -> None:
        """Send the last `length` bytes of a blob, or all of them, and give it its name.

        :raises UploadLost: when the registry has forgotten the upload.
        :raises DigestMismatch: when what it got has another digest.
        :raises ServiceError: when the registry refuses it.
        :raises QuaymirrorError: when there is no usable answer.
        """
        separator = "&" if "?" in upload.location else "?"
        path = f"{upload.location}{separator}digest={quote(str(digest))}"
        with _refusals(f"{upload.repository}: blob {digest.short}"):
            await self._once(self._upload_request(upload, "PUT", path, body, length), _nothing)

    async def append(self, upload: Upload, body: bytes | AsyncIterable[bytes], *, start: int, length: int) -> int:
        """Send `length` bytes of a blob that follow the first `start`; return how many the registry has now.

        :raises UploadLost: when the registry has forgotten the upload, or has another number of bytes than `start`.
        :raises ServiceError: when the registry refuses it.
        :raises QuaymirrorError: when there is no usable answer.
        """
        request = self._upload_request(upload, "PATCH", upload.location, body, length, start)
        with _refusals(str(upload.repository)):
            return await self._once(request, lambda response, _: self._moved(upload, response, start + length))

    async def offset(self, upload: Upload) -> int:
        """Return how many bytes of an upload, which broke off, have arrived.

        :raises UploadLost: when the registry has forgotten it.
        :raises QuaymirrorError: when there is no usable answer.
        """
        request = self._about(upload, "GET")
        try:
            return await self._once(request, lambda response, _: self._moved(upload, response, 0))
        except NotFound as error:
            raise UploadLost(error.message) from None

    async def cancel(self, upload: Upload) -> None:
        """Tell the registry to forget an upload. It does so by itself some day, so nothing is said if it fails."""
        request = self._about(upload, "DELETE")
        with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
            try:
                await self._once(request, _nothing)
            except QuaymirrorError:
                return

    def _scope(self, repository: Repository, also: Repository | None = None) -> str:
        # Quay creates a repository as soon as somebody asks for a token that may push to it.
        scope = f"repository:{repository.name}:{'pull,push' if self._may_write else 'pull'}"
        return scope if also is None or also == repository else f"{scope} repository:{also.name}:pull"

    def _request(
        self,
        repository: Repository,
        what: str,
        method: str,
        kind: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        also: Repository | None = None,
        may_redirect: bool = False,
    ) -> Request:
        path = f"/v2/{repository.name}/{what}"
        scope = self._scope(repository, also)
        return Request(path, kind, method, headers or {}, scope, may_redirect, body)

    def _upload_request(
        self,
        upload: Upload,
        method: str,
        path: str,
        body: bytes | AsyncIterable[bytes],
        length: int,
        start: int | None = None,
    ) -> Request:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        if start is not None:
            headers["Content-Range"] = f"{start}-{start + length - 1}"

        # Streams have a gate of their own: each holds a slot at the source while it waits here.
        kind = "blobs" if isinstance(body, bytes) else "uploads"
        return replace(self._about(upload, method), path=path, kind=kind, headers=headers, body=body)

    def _about(self, upload: Upload, method: str) -> Request:
        """Return a request about an upload as a whole; where it is may hold what nobody else should know."""
        name = f"{self.registry}/v2/{upload.repository.name}/blobs/uploads/"
        return Request(upload.location, "blobs", method, scope=self._scope(upload.repository), name=name)

    async def _fetch(self, request: Request, parse: Callable[[Response, bytes], T]) -> T:
        return await self._client.fetch(request, limit=_MAX_ANSWER, parse=parse)

    async def _once(self, request: Request, parse: Callable[[Response, bytes], T]) -> T:
        return await self._client.fetch_once(request, limit=_MAX_ANSWER, parse=parse)

    async def _unless_absent(self, request: Request, parse: Callable[[Response, bytes], T]) -> T | None:
        try:
            return await self._fetch(request, parse)
        except NotFound:
            return None
        except AccessDenied:
            # For those who only look, that is how some registries say that a repository is not there.
            if self._may_write:
                raise

            return None

    def _begun(self, repository: Repository, response: Response) -> Upload | None:
        if response.status == 201:
            return None

        least = response.headers.get("OCI-Chunk-Min-Length", "")
        wanted = int(least[:12]) if least.isdecimal() else 0
        return Upload(repository, self._location(response), min(wanted, _MOST_LEAST_BYTES))

    def _moved(self, upload: Upload, response: Response, expected: int) -> int:
        """Note where the upload goes on; an answer without a range is believed to be about all that was sent."""
        if "Location" in response.headers:
            upload.location = self._location(response)

        match = _RANGE.fullmatch(response.headers.get("Range", "").strip())
        if match is None:
            return expected

        # docker-registry calls nothing at all 0-0, as it does one byte: the former is what happens.
        return int(match[1]) + 1 if int(match[1]) else 0

    def _location(self, response: Response) -> str:
        """Return path and query of where the registry wants an upload to go on, which must be at its own origin.

        The scheme does not count, as we keep our own: registries behind a proxy often don't know of its TLS.
        """
        location = response.headers.get("Location", "")
        origin = self._client.origin
        try:
            if not location or len(location) > _MAX_LOCATION or not location.isprintable():
                raise ValueError("no usable URL")

            url = joined(response.url, location)
            host = urlsplit(url).netloc.lower()
            if Origin.of(url) != origin and host != origin.netloc:
                raise ValueError(f"another host, {host[:100]}")
        except ValueError as error:
            raise UnsafeRedirect(
                f"the target {origin.netloc} sends the upload elsewhere: {error}: refused", side=Side.TARGET
            ) from None

        return request_target(url)


def _nothing(response: Response, body: bytes) -> None:
    """Success is all there is to know."""


def _digest(response: Response, _: bytes) -> Digest | None:
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except InvalidName:
        return None


def _described(response: Response, body: bytes) -> Descriptor | None:
    digest = _digest(response, body)
    if digest is None:
        return None

    length = response.headers.get("Content-Length", "")
    media_type = mediatype.essence(response.headers.get("Content-Type"))
    return Descriptor(media_type, digest, int(length[:18]) if length.isdecimal() else 0)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Say of a refusal what was refused and why, as far as the registry tells."""
    try:
        yield
    except ServiceError as error:
        if error.codes & _LOST_UPLOAD or error.status == 416:
            raise UploadLost(error.message) from None

        if "DIGEST_INVALID" in error.codes:
            raise DigestMismatch(f"{what}: the target got other bytes ({error.message})", side=Side.TARGET) from None

        if error.scope is not Scope.IMAGE:
            raise

        message = f"{what}: {_WORDS.get(error.status, 'the target refuses it')} ({error.message})"
        if error.codes & _CONTENT_MISSING and error.status in (400, 404):
            raise ContentMissing(message, status=error.status, codes=error.codes) from None

        raise error.replace(message) from None
