"""The requests that show which repositories of a registry are new."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from quaymirror.errors import AccessDenied, NotFound
from quaymirror.events import ignore
from quaymirror.http.client import Client
from quaymirror.http.exchange import Request
from quaymirror.http.origin import Origin
from quaymirror.oci import Repository
from quaymirror.registry.push import RegistryPusher
from quaymirror.targets.blob_locations import BlobLocations
from quaymirror.targets.new_repositories import NewRepositories


class Answers:
    """A client of a registry that has no repository, and that answers for its list with `body` and `headers`."""

    origin = Origin.of("http://registry.example")

    def __init__(self, body: bytes, headers: dict[str, str], status: int) -> None:
        self.asked: list[str] = []
        self._listed = SimpleNamespace(headers=headers), body
        self._status = status

    async def fetch(self, request: Request, **_: Any) -> object:
        self.asked.append(request.path)
        raise NotFound("no manifest", status=404)

    async def fetch_once(self, request: Request, *, limit: int, parse: Callable[[Any, bytes], object]) -> object:
        self.asked.append(request.path)
        if "/tags/" in request.path:
            raise NotFound("no repository", status=404, codes=frozenset({"NAME_UNKNOWN"}))

        if self._status != 200:
            raise AccessDenied("no", status=self._status)

        return parse(*self._listed)


@pytest.mark.parametrize(
    ("body", "headers", "status", "is_empty"),
    [
        (b'{"repositories":[]}', {}, 200, True),
        (b'{"repositories":["some/other"]}', {}, 200, False),
        (b'{"repositories":[]}', {"Link": '</v2/_catalog?n=1&last=a>; rel="next"'}, 200, False),
        (b'{"repositories":null}', {}, 200, False),
        (b'{"name":"a"}', {}, 200, False),
        (b"<html>", {}, 200, False),
        (b"", {}, 401, False),
    ],
)
async def test_only_a_list_without_names_makes_requests_about_single_repositories_unnecessary(
    body: bytes, headers: dict[str, str], status: int, is_empty: bool
) -> None:
    client = Answers(body, headers, status)
    registry = RegistryPusher(cast("Client", client))
    new = NewRepositories(registry, BlobLocations(registry, ignore), first=True)
    for name in ("a/first", "a/second"):
        assert await new.find(Repository("registry.example", name), "tag") is None

    first = ["/v2/a/first/manifests/tag", "/v2/a/first/tags/list?n=1", "/v2/_catalog?n=1"]
    assert client.asked == first + ([] if is_empty else ["/v2/a/second/tags/list?n=1"])
