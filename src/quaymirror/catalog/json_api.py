"""Requests to the JSON APIs of registries, and the parts of their answers that these have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from ..errors import InvalidName, NotFound, Unavailable
from ..http.client import Client
from ..http.dates import parse_http_date
from ..http.exchange import Request, Response
from ..oci import Digest
from ..oci.mediatype import INDEXES
from ..oci.reference import is_repository_name, is_tag
from ..untrusted import InvalidDocument, parse_array, parse_object

T = TypeVar("T")

_MAX_ANSWER = 32 * 1024 * 1024
# Pages have 100. A page of a few megabytes could hold a million, each of them a line in a log.
_MAX_ENTRIES = 10_000
# Seconds since 1970 that are plausible for an image.
_LATEST = 2**33
# The largest number of bytes that a database takes.
_LARGEST = 2**63 - 1


class JsonAPI:
    """The API of one host, below the path `prefix`.

    Every method raises `QuaymirrorError` if the server gives no usable answer.
    """

    def __init__(self, client: Client, prefix: str = "") -> None:
        self.client = client
        self._prefix = prefix

    @property
    def host(self) -> str:
        """The host, for messages."""
        return self.client.origin.netloc

    async def get(
        self,
        path: str,
        parse: Callable[[Response, bytes], T],
        query: Mapping[str, object] | None = None,
        *,
        method: str = "GET",
        accept_any_404: bool = False,
    ) -> T:
        """Return what `parse` makes of the answer to a request for `path`, whose parts are escaped already."""
        target = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        request = Request(
            target,
            kind="api",
            method=method,
            headers={"Accept": "application/json"},
            accept_any_404=accept_any_404,
        )
        return await self.client.fetch(request, limit=_MAX_ANSWER, parse=parse)

    async def exists(self, path: str, query: Mapping[str, object] | None = None, *, method: str = "GET") -> bool:
        """Return False if the server answers that `path` does not exist."""
        try:
            await self.get(path, lambda _, body: body, query, method=method, accept_any_404=True)
        except NotFound:
            return False

        return True


def read_object(response: Response, body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer.

    :raises Unavailable: if it is none.
    """
    try:
        return parse_object(body, limit=_MAX_ANSWER, nan_is_text=True)
    except InvalidDocument as error:
        raise Unavailable(f"{response.name}: the answer {error}", status=response.status) from None


def read_array(response: Response, body: bytes) -> list[Any]:
    """Return the JSON array of an answer; `null` is an empty one.

    :raises Unavailable: if it is none, or has more entries than any page.
    """
    try:
        entries = parse_array(body, limit=_MAX_ANSWER, nan_is_text=True)
    except InvalidDocument as error:
        raise Unavailable(f"{response.name}: the answer {error}", status=response.status) from None

    return checked_entries(response, entries)


def checked_entries(response: Response, entries: object) -> list[Any]:
    """Return the entries of a page; None are none.

    :raises Unavailable: if they are no list, or more than on any page.
    """
    if entries is None:
        return []

    if not isinstance(entries, list):
        raise Unavailable(f"{response.name}: the answer is not a list")

    if len(entries) > _MAX_ENTRIES:
        raise Unavailable(f"{response.name}: {len(entries):,} entries; the limit of a page is {_MAX_ENTRIES:,}")

    return entries


def describe_each(entries: Iterable[Any], describe: Callable[[dict[str, Any]], T | str]) -> list[T | str]:
    """Return what `describe` makes of each entry that is an object, and the reason to reject any other one."""
    return [describe(entry) if isinstance(entry, dict) else "an entry that is not an object" for entry in entries]


def time_of(response: Response) -> int | None:
    """Return the time of an answer by the server's clock (POSIX)."""
    date = parse_http_date(response.headers.get("Date"))
    return None if date is None else int(date.timestamp())


def total_of(response: Response, *names: str) -> int | None:
    """Return the number in the first of these header fields that has one."""
    for name in names:
        text = response.headers.get(name, "")
        if text.isascii() and text.isdigit() and len(text) <= 9:
            return int(text)

    return None


def parse_moment(value: object) -> int | None:
    """Return the POSIX time of a date in ISO 8601, None if it is not usable."""
    if not isinstance(value, str) or len(value) > 40:
        return None

    try:
        moment = datetime.fromisoformat(value)
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None

    return seconds if 0 < seconds < _LATEST else None


def parse_size(value: object) -> int | None:
    """Return a size in bytes, None if it is not usable."""
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def parse_digest(response: Response, value: object) -> Digest:
    """Return a digest.

    :raises Unavailable: if it is none.
    """
    try:
        return Digest.parse(str(value))
    except InvalidName:
        raise Unavailable(f"{response.name}: an image without a digest") from None


def is_index_type(value: object) -> bool | None:
    """Return True for the media type of an index, None if it is unknown."""
    return value in INDEXES if isinstance(value, str) and value else None


def make_stamp(*values: object) -> int:
    """Return a stamp that changes if one of `values` does; a database takes it."""
    text = "\0".join(str(value) for value in values)
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:7])


def fault_of_tag(name: object) -> str:
    """Return the reason to reject the name of a tag, "" for a legal one."""
    return "" if isinstance(name, str) and is_tag(name) else f"a tag with an impossible name, {str(name)[:100]!r}"


def fault_of_name(organization: str, name: object) -> str:
    """Return the reason to reject the name of a repository of `organization`, "" for a legal one."""
    if isinstance(name, str) and is_repository_name(f"{organization}/{name}"):
        return ""

    return f"not a repository name: {str(name)[:100]!r}"
