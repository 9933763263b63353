"""Pushing to a registry (OCI distribution-spec 1.1, "Push"): one method per request."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import anyio

from ..errors import (
    AccessDenied,
    CredentialsRefused,
    DigestMismatch,
    InvalidName,
    NotFound,
    QuaymirrorError,
    Scope,
    ServiceError,
    Side,
    UnsafeRedirect,
)
from ..http.client import Client
from ..http.exchange import Request, Response
from ..http.origin import Origin, joined, request_target
from ..oci import Descriptor, Digest, Repository, mediatype
from ..oci.manifest import MAX_MANIFEST_BYTES
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass, pattern
from .refusals import UploadLost, has_foreign_layers, other_bytes, refusal_of_foreign_layers, refusals

T = TypeVar("T")

_RANGE = pattern(r"(?:bytes=)?0-([0-9]{1,19})")
_MAX_ANSWER = 64 * 1024
_MAX_LOCATION = 8 * 1024
# A part is held in memory. S3 requires at least 5 MiB; registries that require much more get less.
_MAX_LEAST_BYTES = 64 * 1024 * 1024
# A registry that is away must not delay the end of the run.
_CANCEL_SECONDS = 5.0


@dataclass(slots=True)
class Upload:
    """An upload in progress. `location`, path and query at the registry, changes with each answer.

    `least` is the minimum size of a part other than the last.
    """

    repository: Repository
    location: str
    least: int = 0


class RegistryPusher:
    """A registry to push to. All errors name the target as their side.

    Requests without a large body are retried here. Methods of an upload send one request once, since the caller has to
    resume. With `denied_is_absent` content that may not be looked at counts as missing: this is how some registries
    answer for a repository that does not exist.

    Each method raises a ServiceError if the registry rejects the request, and another QuaymirrorError without a usable
    answer; its docstring names only special ones.
    """

    def __init__(
        self, client: Client, *, may_write: bool = True, denied_is_absent: bool = False, is_evidence: bool = False
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._denied_is_absent = denied_is_absent
        # Content that seems absent is usually pushed. Where it counts as lost, only the registry itself may say so.
        self._is_evidence = is_evidence
        self.takes_sparse: bool = True
        """False if the registry has announced that it takes no index without all of its children."""

    @property
    def registry(self) -> str:
        """The registry's host, with a port other than the default."""
        return self._client.origin.netloc

    async def ping(self) -> None:
        """Request the root of the API, which shows that a registry is there and accepts the credentials.

        :raises CredentialsRefused: if it doesn't, or requires credentials.
        """
        try:
            self.takes_sparse = await self._fetch(Request("/v2/", kind="manifests"), _takes_sparse)
        except AccessDenied as error:
            raise CredentialsRefused(
                f"the target {self.registry} rejects the credentials, or needs some: --dest-username, or an auth file",
                status=error.status,
                side=Side.TARGET,
            ) from None
        except QuaymirrorError as error:
            # Elsewhere this may fail one image; here it means that the target can't be used at all.
            raise error.replace(f"the target is not usable: {error.message}", scope=Scope.RUN) from None

    async def head_manifest(self, repository: Repository, reference: str) -> Descriptor | None:
        """Return the descriptor of the manifest `reference`, a tag or a digest; None if it doesn't exist."""
        request = self._request(
            repository, f"manifests/{reference}", "HEAD", "manifests", headers={"Accept": mediatype.ACCEPT}
        )
        return await self._unless_absent(request, _described)

    async def reads_back(self, repository: Repository, reference: str, digest: Digest) -> bool:
        """Return True if the manifest `reference` exists and its bytes have `digest`."""
        headers = {"Accept": mediatype.ACCEPT}
        request = self._request(
            repository, f"manifests/{reference}", "GET", "manifests", headers=headers, may_redirect=True
        )
        try:
            return await self._client.fetch(
                request, limit=MAX_MANIFEST_BYTES, parse=lambda _, body: digest.matches(body)
            )
        except NotFound:
            return False

    async def is_unknown(self, repository: Repository) -> bool:
        """Return True if the registry says that it has no such `repository`; after any other answer it may have one."""
        request = self._request(repository, "tags/list?n=1", "GET", "manifests")
        try:
            await self._once(request, _nothing)
        except NotFound as error:
            return "NAME_UNKNOWN" in error.codes
        except QuaymirrorError:
            return False  # the next request meets the same failure, and is repeated

        return False

    async def is_empty(self, repository: Repository) -> bool:
        """Return True if the registry lists no repository at all; after any other answer it may have some.

        The token is that for `repository`, since few accounts have one for the list.
        """
        request = Request("/v2/_catalog?n=1", "manifests", scope=self._scope(repository), accept_any_404=True)
        try:
            return await self._once(request, _lists_nothing)
        except QuaymirrorError:
            return False  # most registries show their list to administrators only

    async def has_blob(self, repository: Repository, blob: Descriptor, *, any_length: bool = False) -> bool:
        """Return True if `repository` has `blob` with its length, or with `any_length`."""

        def parse(response: Response, _: bytes) -> bool:
            return any_length or response.headers.get("Content-Length", str(blob.size)) == str(blob.size)

        request = self._request(repository, f"blobs/{blob.digest}", "HEAD", "blobs", may_redirect=True)
        return bool(await self._unless_absent(request, parse))

    async def has_content(self, repository: Repository, node: Descriptor, *, any_length: bool = False) -> bool:
        """Return True if `repository` has `node`; content of an unknown type may be there as a blob or a manifest."""
        if not node.is_manifest and await self.has_blob(repository, node, any_length=any_length):
            return True

        found = await self.head_manifest(repository, str(node.digest))
        return found is not None and found.digest == node.digest

    async def put_manifest(self, repository: Repository, reference: str, node: Descriptor, content: bytes) -> bool:
        """Store `content`, the bytes of `node`, as `reference`, a tag or its digest.

        Return True if the registry says that it lists it as a referrer of its subject.

        :raises ContentMissing: if content that it points to is missing.
        :raises DigestMismatch: if the registry stored other bytes.
        """
        headers = {"Content-Type": node.media_type}
        request = self._request(repository, f"manifests/{reference}", "PUT", "manifests", headers=headers, body=content)
        with refusals(f"{repository}:{reference}"):
            stored, is_usual, is_listed = await self._put(request, has_foreign_layers(content, node.media_type))

        if stored is None or not is_usual:
            found = await self.head_manifest(repository, str(node.digest))
            stored = found.digest if found is not None else None

        if stored != node.digest:
            raise DigestMismatch(
                f"{repository}: the target stored {node.digest} as {stored or 'nothing'}",
                scope=Scope.IMAGE,
                side=Side.TARGET,
            )

        return is_listed

    async def mount(
        self, repository: Repository, blob: Descriptor, source: Repository, *, check: bool = False
    ) -> Upload | None:
        """Mount a `blob` of `source` in `repository`; if the registry starts an upload instead, return it.

        With `check`, and after an unusual answer, the blob is looked for afterwards.

        :raises NotFound: if it is not there then.
        """
        where = f"blobs/uploads/?mount={quote(str(blob.digest))}&from={quote(source.name)}"
        request = self._request(repository, where, "POST", "blobs", body=b"", also=source)
        with refusals(str(repository)):
            upload, is_usual = await self._fetch(
                request, lambda response, _: (self._begun(repository, response), _is_usual(response))
            )

        if upload is None and (check or not is_usual) and not await self.has_blob(repository, blob):
            raise NotFound(
                f"{repository}: the target confirmed a mount of {blob.digest}, but does not have it", status=404
            )

        return upload

    async def begin(self, repository: Repository) -> Upload:
        """Start an upload."""
        request = self._request(repository, "blobs/uploads/", "POST", "blobs", body=b"")
        with refusals(str(repository)):
            upload = await self._once(request, lambda response, _: self._begun(repository, response))

        if upload is None:
            raise UploadLost(f"{repository}: the target started no upload")

        return upload

    async def finish(
        self, upload: Upload, blob: Descriptor, body: bytes | AsyncIterable[bytes] = b"", *, length: int = 0
    ) -> None:
        """Send the last `length` bytes of a `blob`, or all of them, and commit it.

        :raises UploadLost: if the registry has forgotten the upload, or lacks the blob after an unusual answer.
        :raises DigestMismatch: if it received another digest.
        """
        separator = "&" if "?" in upload.location else "?"
        path = f"{upload.location}{separator}digest={quote(str(blob.digest))}"
        with refusals(f"{upload.repository}@{blob.digest}"):
            request = self._upload_request(upload, "PUT", path, body, length)
            is_usual = await self._once(request, lambda response, _: _is_usual(response))

        if not is_usual and not await self.has_blob(upload.repository, blob):
            raise UploadLost(f"{upload.repository}: the target confirmed {blob.digest}, but does not have it")

    async def append(self, upload: Upload, body: bytes | AsyncIterable[bytes], *, start: int, length: int) -> int:
        """Send `length` bytes of a blob from `start` on; return how many bytes the registry has now.

        :raises UploadLost: if the registry has forgotten the upload, or has another number of bytes than `start`.
        """
        request = self._upload_request(upload, "PATCH", upload.location, body, length, start)
        with refusals(str(upload.repository)):
            return await self._once(request, lambda response, _: self._moved(upload, response, start + length))

    async def offset(self, upload: Upload) -> int:
        """Return how many bytes of an interrupted upload have arrived.

        :raises UploadLost: if the registry has forgotten it.
        """
        request = self._about(upload, "GET")
        try:
            return await self._once(request, lambda response, _: self._moved(upload, response, 0))
        except NotFound as error:
            raise UploadLost(error.message) from None

    async def cancel(self, upload: Upload) -> None:
        """Cancel an upload. The registry does so by itself after a while, so a failure is ignored."""
        request = self._about(upload, "DELETE")
        with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
            try:
                await self._once(request, _nothing)
            except QuaymirrorError:
                return

    def _scope(self, repository: Repository, also: Repository | None = None) -> str:
        # Quay creates a repository when a token with push access to it is requested.
        scope = f"repository:{repository.name}:{'pull,push' if self._may_write else 'pull'}"
        return scope if also is None or also == repository else f"{scope} repository:{also.name}:pull"

    def _request(
        self, repository: Repository, what: str, method: str, kind: str, *, also: Repository | None = None, **more: Any
    ) -> Request:
        """Return a request about `repository`; `also` is one to read from, and `more` fields of the request."""
        return Request(
            f"/v2/{repository.name}/{what}",
            kind,
            method,
            scope=self._scope(repository, also),
            accept_any_404=not self._is_evidence,
            **more,
        )

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

        # Streams have their own limiter: each holds a slot at the source while it waits here.
        kind = "blobs" if isinstance(body, bytes) else "uploads"
        return replace(self._about(upload, method), path=path, kind=kind, headers=headers, body=body)

    def _about(self, upload: Upload, method: str) -> Request:
        """Return a request about an upload as a whole. Its location may contain a secret, so messages don't show it."""
        name = f"{self.registry}/v2/{upload.repository.name}/blobs/uploads/"
        scope = self._scope(upload.repository)
        return Request(upload.location, "blobs", method, scope=scope, name=name, accept_any_404=True)

    async def _put(self, request: Request, is_foreign: bool) -> tuple[Digest | None, bool, bool]:
        what = f"{self.registry}{request.path}"
        async for attempt in self._client.attempts(what):
            with attempt:
                try:
                    return await self._once(request, _stored)
                except ServiceError as error:
                    if mismatch := other_bytes(what, error):
                        raise mismatch from None

                    # Some registries report this as a failure of their own; another attempt does not help.
                    raise refusal_of_foreign_layers(error) if is_foreign else error from None

        raise AssertionError("the last attempt succeeds or raises")

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
            if not self._denied_is_absent:
                raise

            return None

    def _begun(self, repository: Repository, response: Response) -> Upload | None:
        if response.status == 201:
            return None

        least = response.headers.get("OCI-Chunk-Min-Length", "")
        wanted = int(least[:12]) if least.isdecimal() else 0
        return Upload(repository, self._location(response), min(wanted, _MAX_LEAST_BYTES))

    def _moved(self, upload: Upload, response: Response, expected: int) -> int:
        """Update the location of the upload; an answer without a range confirms all that was sent."""
        if "Location" in response.headers:
            upload.location = self._location(response)

        match = _RANGE.fullmatch(response.headers.get("Range", "").strip())
        if match is None:
            return expected

        # docker-registry answers 0-0 both for nothing and for one byte: the former is what happens.
        return int(match[1]) + 1 if int(match[1]) else 0

    def _location(self, response: Response) -> str:
        """Return path and query of the location where an upload continues, which must be at the registry's origin.

        Its scheme is ignored: registries behind a proxy often don't know of its TLS.
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
                f"the target {origin.netloc} redirects the upload: {error}: refused", side=Side.TARGET
            ) from None

        return request_target(url)


def _is_usual(response: Response) -> bool:
    """Return True if an answer to a push is the one that the specification names: 201, or 202 for an upload."""
    return response.status in (201, 202) and "Location" in response.headers


def _stored(response: Response, body: bytes) -> tuple[Digest | None, bool, bool]:
    """Return the digest that was stored, whether the answer is usual, and whether the subject is known."""
    return _digest(response, body), _is_usual(response), "OCI-Subject" in response.headers


def _takes_sparse(response: Response, _: bytes) -> bool:
    """Return False if a Quay announces that it does not."""
    return response.headers.get("X-Sparse-Manifest-Support", "").strip().lower() != "false"


def _lists_nothing(response: Response, body: bytes) -> bool:
    try:
        names = parse_object(body, limit=_MAX_ANSWER).get("repositories")
    except InvalidDocument:
        return False

    return names == [] and "Link" not in response.headers


def _nothing(response: Response, body: bytes) -> None:
    """Ignore the answer: success is enough."""


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
