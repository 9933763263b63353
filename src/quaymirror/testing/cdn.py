"""The other origin that blobs come from: signed links, ranges, entity tags, and errors in XML, like S3's."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from urllib.parse import urlencode

from quaymirror.testing.images import Blob
from quaymirror.testing.messages import Answer, Request, data, method_not_allowed
from quaymirror.testing.site import Site

LINK_LIFETIME_S = 600
_PATH = re.compile(r"/blob/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)")
_SINGLE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

FindBlob = Callable[[str], Blob | None]


def blob_url(site: Site, digest: str, repository: str | None = None) -> str:
    """Return a link to *digest* that is good for 600 seconds from now."""
    algorithm, _, encoded = digest.partition(":")
    path = f"/blob/{algorithm}/{encoded[:2]}/{encoded}"
    expires = int(site.now()) + LINK_LIFETIME_S
    query = {"X-Amz-Expires": LINK_LIFETIME_S, "exp": expires}
    signed = query | ({"repository": repository} if repository else {})
    return f"{site.cdn_url}{path}?{urlencode(signed | {'X-Amz-Signature': _signature(site, path, str(expires))})}"


def digest_in(path: str) -> str | None:
    """Return the digest that a path of this origin names."""
    found = _PATH.fullmatch(path)
    return f"{found[1]}:{found[2]}" if found else None


class Cdn:
    """The handler of everything at the second origin."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def answer(self, request: Request) -> Answer:
        """Answer a request for a blob."""
        return self.refusal(request) or self._blob(request)

    def refusal(self, request: Request) -> Answer | None:
        """Return the error for a link that isn't good now. A transfer under way is never looked at again."""
        if not request.is_read:
            return method_not_allowed()
        given = request.query.get("X-Amz-Signature", "")
        expires = request.query.get("exp", "")
        if not hmac.compare_digest(given.encode(), _signature(self._site, request.path, expires).encode()):
            return _error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        if int(expires) < self._site.now():
            return _error(403, "AccessDenied", "Request has expired")
        return None

    def _blob(self, request: Request) -> Answer:
        digest = digest_in(request.path)
        blob = self._site.registry.blob(digest) if digest else None
        if blob is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        headers = {
            "ETag": f'"{blob.digest[-32:]}"',
            "Accept-Ranges": "bytes",
            "Last-Modified": formatdate(0, usegmt=True),
        }
        return _ranged(blob.data, request, headers["ETag"]).with_headers(headers)


def _ranged(content: bytes, request: Request, etag: str) -> Answer:
    """Return the range asked for (RFC 9110 section 14.2), or all of it if the range isn't one to honour."""
    whole = data(memoryview(content), "application/octet-stream")
    wanted = _SINGLE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    if wanted is None or wanted.groups() == ("", "") or request.headers.get("If-Range", etag) != etag:
        return whole
    first, last = _bounds(wanted[1], wanted[2], len(content))
    if first > last:
        unsatisfied = _error(416, "InvalidRange", "The requested range is not satisfiable")
        return unsatisfied.with_headers({"Content-Range": f"bytes */{len(content)}"})
    part = whole.with_body(memoryview(content)[first : last + 1], last - first + 1)
    return replace(part, status=206).with_headers({"Content-Range": f"bytes {first}-{last}/{len(content)}"})


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return the first and last byte of a range; the first is above the last if the range is not satisfiable."""
    if not first:
        return max(0, size - int(last)), size - 1 if int(last) else -1
    return int(first), min(int(last), size - 1) if last else size - 1


def _signature(site: Site, path: str, expires: str) -> str:
    return site.sign(f"{path} {expires}")[:32]


def _error(status: int, code: str, message: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return data(text.encode(), "application/xml", status)
