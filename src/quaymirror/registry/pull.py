"""Pulling from a registry (OCI distribution-spec 1.1, "Pull")."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from ..errors import (
    DigestMismatch,
    InvalidName,
    NotFound,
    RangeRefused,
    ServiceError,
    SizeMismatch,
    UnsupportedContent,
)
from ..http.client import Client, Exchange
from ..http.dates import parse_http_date
from ..http.exchange import Request, Response
from ..http.origin import Origin
from ..http.retry import Attempts
from ..http.validator import Validator
from ..oci import Descriptor, Digest, Reference, Repository, manifest, mediatype
from ..oci.manifest import Node
from .foreign import ForeignLayers

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
# A weak one, W/"...", says that the content is as good, not that it is the same.
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')


@dataclass(frozen=True, slots=True)
class BlobStream:
    """The bytes of a blob from `offset` on, as they arrive. As a context, it closes itself."""

    offset: int
    exchange: Exchange

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.exchange.close(passed=kind is None)

    @property
    def response(self) -> Response:
        """The answer that they come with."""
        return self.exchange.response

    @property
    def location(self) -> str:
        """Where the registry redirected to, "" if it did not."""
        return self.exchange.location

    @property
    def is_whole(self) -> bool:
        """Whether all of the blob comes, although maybe a part was asked for."""
        return self.response.status == 200

    @property
    def held(self) -> float:
        """The seconds for which a limit of this side has held back `chunks`."""
        return self.response.held

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes; see `Response.chunks`."""
        return self.response.chunks()

    @property
    def validator(self) -> Validator | None:
        """What to ask for the rest with, None where the server said nothing that is strong enough."""
        etag = self.response.headers.get("ETag", "")
        return Validator(Origin.of(self.response.url).netloc, etag) if _STRONG_ETAG.fullmatch(etag) else None


class RegistryPuller:
    """A registry to pull from. What counts is always the digest: a tag may move, a digest can't."""

    def __init__(self, client: Client, *, foreign: ForeignLayers | None = None) -> None:
        self._client = client
        self._foreign = foreign or ForeignLayers(client.origin)

    def attempts(self, what: str) -> Attempts:
        """Return the budget of tries for one blob."""
        return self._client.attempts(what)

    async def manifest(self, repository: Repository, digest: Digest, *, expected: Descriptor | None = None) -> Node:
        """Return the manifest or index with `digest`; `expected` is what an index said of it.

        Of a type that is not known here it comes as it is.

        :raises NotFound: when it is gone: nothing points to it any more.
        :raises AccessDenied: when it is gone or not for us.
        :raises UnsupportedContent: when it is none that can be mirrored, or not of the type and size expected.
        :raises QuaymirrorError: when there is no usable answer.
        """

        def parse(response: Response, body: bytes) -> Node:
            if not digest.matches(body):
                raise DigestMismatch(f"{repository}@{digest}: the registry sent other bytes")

            return _parsed(response, body, digest, expected)

        accept = "" if expected is None or expected.is_manifest else expected.media_type
        request = _manifest(repository, digest, accept)
        node = await self._client.fetch(request, limit=manifest.MAX_MANIFEST_BYTES, parse=parse)
        if expected is not None:
            check_expected(node.descriptor, expected, repository)

        return node

    async def blob(self, repository: Repository, blob: Descriptor) -> bytes:
        """Return a small blob, such as a config, whole and verified.

        :raises NotFound, AccessDenied: if it is gone or not for us.
        :raises QuaymirrorError: if there is no usable answer.
        """

        def parse(_: Response, body: bytes) -> bytes:
            if not blob.digest.matches(body):
                raise DigestMismatch(f"{repository}@{blob.digest}: the registry sent other bytes")

            return body

        return await self._client.fetch(_blob(repository, blob), limit=blob.size, parse=parse)

    async def resolve(
        self, repository: Repository, tag: str, *, batch: Sequence[Repository] = ()
    ) -> tuple[Digest | None, int | None]:
        """Return what `tag` of `repository` means, None where there is no such tag, and the server's time (POSIX).

        Where a token is needed, it is one for those of `batch`, too.

        :raises AccessDenied: when the repository is gone or not for us.
        :raises UnsupportedContent: when the registry does not say which digest it is.
        :raises QuaymirrorError: when there is no usable answer.
        """
        request = Request(
            f"/v2/{repository.name}/manifests/{tag}",
            kind="manifests",
            method="HEAD",
            headers={"Accept": mediatype.ACCEPT},
            scope=" ".join(sorted({_scope(one) for one in (repository, *batch)})),
        )

        def parse(response: Response, _: bytes) -> tuple[Digest, int | None]:
            date = parse_http_date(response.headers.get("Date"))
            try:
                digest = Digest.parse(response.headers.get("Docker-Content-Digest", ""))
            except InvalidName:
                raise UnsupportedContent(f"{repository}:{tag}: the registry does not say which digest it is") from None

            return digest, None if date is None else int(date.timestamp())

        try:
            return await self._client.fetch(request, limit=manifest.MAX_MANIFEST_BYTES, parse=parse)
        except NotFound:
            return None, None

    async def root(self, reference: Reference) -> tuple[Node, bool]:
        """Return what the pinned `reference` points to, and whether its tag points elsewhere by now, or nowhere.

        It is asked for by its tag: for the price of the same request that tells whether it has moved.

        :raises QuaymirrorError: as `manifest`.
        """
        repository, digest = reference.repository, reference.digest
        assert digest is not None

        def parse(response: Response, body: bytes) -> Node | None:
            if digest.matches(body):
                return _parsed(response, body, digest)

            if not _names_another(response, body):
                raise DigestMismatch(f"{repository}@{digest}: the registry sent other bytes")

            return None

        try:
            request = _manifest(repository, reference.tag or digest)
            node = await self._client.fetch(request, limit=manifest.MAX_MANIFEST_BYTES, parse=parse)
        except NotFound:
            node = None

        if node is not None:
            return node, False

        return await self.manifest(repository, digest), True

    async def open(
        self,
        repository: Repository,
        blob: Descriptor,
        *,
        offset: int = 0,
        end: int | None = None,
        fresh: bool = False,
        if_range: Validator | None = None,
        location: str = "",
    ) -> BlobStream:
        """Open the stream of a blob from `offset` to before `end`; all may come nevertheless, see `BlobStream.offset`.

        It is a context that has to be left. With `fresh` it comes over a connection of its own. From `offset` on it
        comes only if `if_range` still holds. The `location` of an earlier stream is asked without asking the registry
        again. A blob that the registry does not have is asked for where its descriptor says, if that is allowed.

        :raises NotFound: when the repository does not have it.
        :raises AccessDenied: when it is gone or not for us.
        :raises RangeRefused: when the server answers the range with something else.
        :raises SizeMismatch: when the server announces another size.
        :raises QuaymirrorError: when there is no usable answer.
        """
        request = replace(
            _blob(repository, blob),
            headers=_range(offset, end, blob.size),
            fresh=fresh,
            if_range=if_range,
            location=location,
        )
        try:
            exchange = await self._client.send(request)
        except NotFound as error:
            exchange = await self._foreign.send(blob, request, error)
        except ServiceError as error:
            if error.status != 416:
                raise

            raise RangeRefused(f"{blob.digest}: the server has no bytes from {offset:,} on") from None

        try:
            start = _start(exchange.response, blob, offset, blob.size if end is None else end)
        except BaseException:
            exchange.close(passed=False)
            raise

        return BlobStream(start, exchange)


def _manifest(repository: Repository, name: str | Digest, accept: str = "") -> Request:
    return Request(
        f"/v2/{repository.name}/manifests/{name}",
        kind="manifests",
        headers={"Accept": f"{mediatype.ACCEPT}, {accept}" if accept else mediatype.ACCEPT},
        scope=_scope(repository),
        may_redirect=True,
    )


def _blob(repository: Repository, blob: Descriptor) -> Request:
    path = f"/v2/{repository.name}/blobs/{blob.digest}"
    return Request(path, kind="blobs", scope=_scope(repository), may_redirect=True)


def _parsed(response: Response, body: bytes, digest: Digest, expected: Descriptor | None = None) -> Node:
    media_type = mediatype.essence(response.headers.get("Content-Type"))
    if expected is not None:
        return manifest.parse_child(body, media_type, expected)

    return manifest.parse(body, media_type, digest=digest)


def _names_another(response: Response, body: bytes) -> bool:
    """Whether the answer is whole and says itself that it is another manifest: the tag has moved."""
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", "")).matches(body)
    except InvalidName:
        return False


def _scope(repository: Repository) -> str:
    return f"repository:{repository.name}:pull"


def check_expected(actual: Descriptor, expected: Descriptor, repository: Repository) -> None:
    """Make sure that a manifest of `repository` is what an index says of it.

    :raises UnsupportedContent: when it is of another type or size.
    """
    if actual.size != expected.size or actual.media_type != expected.media_type:
        raise UnsupportedContent(
            f"{repository}@{actual.digest} is {actual.media_type} of {actual.size:,} bytes, "
            f"but its index says {expected.media_type[:100]!r} of {expected.size:,}"
        )


def _range(offset: int, end: int | None, size: int) -> dict[str, str]:
    if end is not None and end < size:
        return {"Range": f"bytes={offset}-{end - 1}"}

    return {"Range": f"bytes={offset}-"} if offset else {}


def _start(response: Response, blob: Descriptor, offset: int, end: int) -> int:
    """Return where the body of `response` starts in the blob (RFC 9110, 14.4 and 15.3.7)."""
    if response.status == 206 and (offset or end < blob.size):
        fields = response.all_headers("Content-Range")
        match = _CONTENT_RANGE.fullmatch(fields[0].strip()) if len(fields) == 1 else None
        is_other = match is None or int(match[1]) != offset or int(match[2]) >= end
        if match is None or is_other or match[3] not in ("*", str(blob.size)):
            raise RangeRefused(f"{blob.digest}: asked for the bytes from {offset:,} on, got another range")

        return offset

    if response.status != 200:
        raise RangeRefused(f"{blob.digest}: answered {response.status}")

    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:19]) != blob.size:
        raise SizeMismatch(f"{blob.digest}: the server has {length[:19]} bytes of it, not {blob.size}")

    return 0
