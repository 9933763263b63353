"""Pulling from a registry (OCI distribution-spec 1.1, "Pull")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from ..errors import (
    DigestMismatch,
    InvalidName,
    NotFound,
    QuaymirrorError,
    RangeRefused,
    ServiceError,
    SizeMismatch,
    UnsupportedContent,
)
from ..http.answers import distorted, distortion
from ..http.bodies import ReceiveInThread
from ..http.client import Client, Exchange
from ..http.dates import parse_http_date
from ..http.exchange import Request, Response
from ..http.files import FileFill
from ..http.origin import Origin
from ..http.retry import Attempts
from ..http.validator import Validator
from ..oci import Descriptor, Digest, Reference, Repository, manifest, mediatype
from ..oci.manifest import Node
from ..values import dataclass, pattern
from .foreign import ForeignLayers
from .referrers import ReferrersAPI
from .source import BlobRequest

_CONTENT_RANGE = pattern(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
# A weak one, W/"...", says that the content is as good, not that it is the same.
_STRONG_ETAG = pattern(r'"[\x21\x23-\x7e]{1,200}"')


# Answers of servers that don't support ranges, or not this one, although they have the blob.
_NO_RANGES = frozenset({400, 405, 416, 501})


@dataclass(frozen=True, slots=True)
class BlobStream:
    """The bytes of a blob from `offset` to before `end`, as they arrive. Leaving it as a context closes it."""

    offset: int
    end: int
    exchange: Exchange

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.exchange.close(passed=kind is None)

    @property
    def location(self) -> str:
        """The address that the registry redirected to, "" if it did not."""
        return self.exchange.location

    @property
    def host(self) -> str:
        """The host that sends them."""
        return Origin.of(self.exchange.response.url).netloc

    @property
    def is_whole(self) -> bool:
        """True if the whole blob is sent, even if only a part was requested."""
        return self.exchange.response.status == 200

    @property
    def distortion(self) -> str:
        """Why the bytes may be those of a proxy, if they are wrong; "" if nothing suggests that."""
        return distortion(self.exchange.response)

    @property
    def held(self) -> float:
        """The seconds for which a limit of this side has held back `chunks`."""
        return self.exchange.response.held

    @property
    def threaded(self) -> ReceiveInThread | None:
        """The function that receives the bytes in a thread; see `Response.threaded`."""
        return self.exchange.response.threaded

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes; see `Response.chunks`."""
        return self.exchange.response.chunks()

    @property
    def validator(self) -> Validator | None:
        """The validator for requests of the rest, None if the server sent no strong one."""
        response = self.exchange.response
        etag = response.headers.get("ETag", "")
        return Validator(self.host, etag) if _STRONG_ETAG.fullmatch(etag) else None


class RegistryPuller:
    """A registry to pull from. Content is verified by digest: a tag may move, a digest can't.

    Each method raises NotFound or AccessDenied if the content doesn't exist or access is denied, and another
    QuaymirrorError without a usable answer; its docstring names only special ones.
    """

    def __init__(self, client: Client, *, foreign: ForeignLayers | None = None) -> None:
        self._client = client
        self._foreign = foreign or ForeignLayers(client.origin)
        self._referrers = ReferrersAPI(client)

    def attempts(self, what: str, *, brief: bool = False) -> Attempts:
        """Return the attempts for one blob, which events call `what`; if `brief`, at most two."""
        return self._client.attempts(what, brief=brief)

    async def manifest(self, repository: Repository, digest: Digest, *, expected: Descriptor | None = None) -> Node:
        """Return the manifest or index with `digest`; `expected` is its descriptor in an index.

        Content of an unknown type is returned as it is.

        :raises UnsupportedContent: if it can't be mirrored, or is not of the expected type and size.
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
        """Return a small blob, such as a config, whole and verified."""

        def parse(_: Response, body: bytes) -> bytes:
            if not blob.digest.matches(body):
                raise DigestMismatch(f"{repository}@{blob.digest}: the registry sent other bytes")

            return body

        return await self._client.fetch(_blob(repository, blob), limit=blob.size, parse=parse)

    async def referrers(self, repository: Repository, subject: Digest) -> tuple[Descriptor, ...] | None:
        """Return the descriptors of the manifests that refer to `subject`; see `ReferrersAPI.list`."""
        return await self._referrers.list(repository, subject)

    async def resolve(
        self, repository: Repository, tag: str, *, batch: Sequence[Repository] = ()
    ) -> tuple[Digest | None, int | None]:
        """Return the digest of `tag` in `repository`, None if it doesn't exist, and the server's time (POSIX).

        A token that is requested for this allows to read the repositories of `batch` as well.

        :raises UnsupportedContent: if the registry doesn't state the digest.
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
                raise UnsupportedContent(f"{repository}:{tag}: the registry does not state its digest") from None

            return digest, None if date is None else int(date.timestamp())

        try:
            return await self._client.fetch(request, limit=manifest.MAX_MANIFEST_BYTES, parse=parse)
        except NotFound:
            return None, None

    async def root(self, reference: Reference) -> tuple[Node, bool]:
        """Return the node of a pinned `reference`, and True if its tag has moved or was deleted in the meantime.

        It is requested by its tag, so that the same request shows whether the tag has moved.
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

    async def open(self, request: BlobRequest) -> BlobStream:
        """Open the stream of the bytes of a blob, a context that has to be left.

        A blob that the registry doesn't have is requested from the URLs of its descriptor, if that is allowed.

        :raises RangeRefused: if the server answers the range with something else.
        :raises SizeMismatch: if the server announces another size.
        """
        blob, (offset, end) = request.blob, request.bounds
        sent = replace(
            _blob(request.repository, blob),
            headers=_range(offset, end, blob.size),
            fresh=request.fresh,
            if_range=request.if_range,
            location=request.location,
            threaded_bytes=end - offset if request.threaded else 0,
            to_file=isinstance(request.threaded, FileFill),
        )
        try:
            exchange = await self._client.send(sent)
        except NotFound as error:
            exchange = await self._foreign.send(blob, sent, error)
        except ServiceError as error:
            if error.status not in _NO_RANGES or not sent.headers:
                raise

            raise RangeRefused(f"{blob.digest}: {error.status} for the bytes from {offset:,} on") from None

        try:
            start, end = _bounds(exchange.response, blob, offset, end)
        except QuaymirrorError as error:
            exchange.close(passed=False)
            raise distorted(error, exchange.response) from None

        return BlobStream(start, end, exchange)


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
    return Request(path, kind="blobs", scope=_scope(repository), may_redirect=True, waits=False)


def _parsed(response: Response, body: bytes, digest: Digest, expected: Descriptor | None = None) -> Node:
    media_type = mediatype.essence(response.headers.get("Content-Type"))
    if expected is not None:
        return manifest.parse_child(body, media_type, expected)

    return manifest.parse(body, media_type, digest=digest)


def _names_another(response: Response, body: bytes) -> bool:
    """Return True if the answer is complete and states the digest of another manifest: the tag has moved."""
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", "")).matches(body)
    except InvalidName:
        return False


def _scope(repository: Repository) -> str:
    return f"repository:{repository.name}:pull"


def check_expected(actual: Descriptor, expected: Descriptor, repository: Repository) -> None:
    """Raise UnsupportedContent if a manifest of `repository` doesn't have the type and size stated in its index."""
    if actual.size != expected.size or actual.media_type != expected.media_type:
        raise UnsupportedContent(
            f"{repository}@{actual.digest} is {actual.media_type} of {actual.size:,} bytes, "
            f"but its index says {expected.media_type[:100]!r} of {expected.size:,}"
        )


def _range(offset: int, end: int, size: int) -> dict[str, str]:
    # Closed at its end: some registries answer 416 to a range without one.
    return {"Range": f"bytes={offset}-{end - 1}"} if offset or end < size else {}


def _bounds(response: Response, blob: Descriptor, offset: int, end: int) -> tuple[int, int]:
    """Return where the body of `response` starts and ends in the blob (RFC 9110, 14.4 and 15.3.7)."""
    if response.status == 206 and (offset or end < blob.size):
        fields = response.all_headers("Content-Range")
        match = _CONTENT_RANGE.fullmatch(fields[0].strip()) if len(fields) == 1 else None
        is_other = match is None or int(match[1]) != offset or not offset <= int(match[2]) < end
        if match is None or is_other or match[3] not in ("*", str(blob.size)):
            raise RangeRefused(f"{blob.digest}: asked for the bytes from {offset:,} on, got another range")

        return offset, int(match[2]) + 1

    if response.status != 200:
        raise RangeRefused(f"{blob.digest}: answered {response.status}")

    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:19]) != blob.size:
        raise SizeMismatch(f"{blob.digest}: the server has {length[:19]} bytes of it, not {blob.size}")

    return 0, blob.size
