"""Lists of names in registries: paging, limits, and answers that no honest registry sends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from quaymirror.catalog.registry.paging import NameList, NamePage
from quaymirror.errors import NotFound, QuaymirrorError, ServiceError, Unavailable
from quaymirror.http.client import Client
from quaymirror.http.exchange import Request
from quaymirror.http.origin import Origin
from quaymirror.oci.reference import is_repository_name

HOST = "https://registry.example"


class Answer:
    """One answer: `names`, and the `link` to the next page."""

    status = 200
    name = "registry.example/v2/_catalog"
    url = f"{HOST}/v2/_catalog?n=1000"

    def __init__(self, names: Any, link: str = "", key: str = "repositories") -> None:
        self.body = json.dumps({key: names}).encode() if key else names
        self.links = [link] if link else []

    def all_headers(self, name: str) -> list[str]:
        assert name == "Link"
        return self.links


class Registry:
    """A client whose answers are scripted, by their order; `asked` has the paths of its requests."""

    origin = Origin.of(HOST)

    def __init__(self, *answers: Answer | QuaymirrorError) -> None:
        self.answers = [*answers]
        self.asked: list[str] = []

    async def fetch(self, request: Request, *, limit: int, parse: Callable[[Any, bytes], NamePage]) -> NamePage:
        self.asked.append(request.path)
        answer = self.answers.pop(0)
        if isinstance(answer, QuaymirrorError):
            raise answer

        return parse(answer, answer.body)


def link(target: str) -> str:
    return f'<{target}>; rel="next"'


async def read(registry: Registry, *, limit: int = 1000) -> tuple[list[str], list[str]]:
    """Return the names and the rejected entries of all pages."""
    client = cast("Client", registry)
    listing = NameList(client, "/v2/_catalog", "repositories", "registry:catalog:*", is_repository_name, limit)
    pages = [page async for page in listing.pages()]
    assert [page.cursor for page in pages][-1] == ""
    assert len({page.cursor for page in pages}) == len(pages)
    return [name for page in pages for name in page.names], [one for page in pages for one in page.rejected]


async def test_pages_by_the_last_name_are_read_once() -> None:
    registry = Registry(Answer(["a", "b"], link("/v2/_catalog?last=b&n=2")), Answer(["c"]))
    assert await read(registry) == (["a", "b", "c"], [])
    assert registry.asked == ["/v2/_catalog?n=1000", "/v2/_catalog?last=b&n=2"]


FULL = [f"name-{number:03}" for number in range(100)]
TOO_LARGE = ServiceError("too many", status=400)


async def test_a_full_page_without_a_link_is_followed_by_the_names_after_its_last() -> None:
    registry = Registry(TOO_LARGE, Answer(FULL), Answer(["other", "third"]))
    assert (await read(registry))[0] == [*FULL, "other", "third"]
    assert registry.asked[-1] == "/v2/_catalog?n=100&last=name-099"


@pytest.mark.parametrize("answer", [Answer([]), Answer(None), NotFound("no", status=404), TOO_LARGE])
async def test_a_full_page_that_was_the_last_is_the_end(answer: Answer | QuaymirrorError) -> None:
    registry = Registry(TOO_LARGE, Answer(FULL), answer)
    assert (await read(registry))[0] == FULL
    assert len(registry.asked) == 3


async def test_a_registry_that_ignores_the_last_name_has_no_endless_list() -> None:
    again = Answer(FULL)
    again.url = f"{HOST}/v2/_catalog?n=100&last=name-099"
    registry = Registry(TOO_LARGE, Answer(FULL), again, Answer(FULL), again)
    assert (await read(registry))[0] == FULL


@pytest.mark.parametrize("path", ["/repository/proxy/v2/_catalog", "/v2/../v2/other", "/x"])
async def test_of_a_link_with_another_path_the_query_counts(path: str) -> None:
    registry = Registry(Answer(["a"], link(f"{path}?n=1000&last=a")), Answer(["b"]))
    assert (await read(registry))[0] == ["a", "b"]
    assert registry.asked[1] == "/v2/_catalog?n=1000&last=a"


async def test_a_list_without_links_is_one_page() -> None:
    assert await read(Registry(Answer(["b", "a", "b"]))) == (["b", "a"], [])


async def test_pages_by_position_are_read_until_nothing_new_is_found() -> None:
    second = link("/v2/_catalog?page=2")
    registry = Registry(
        *(Answer(["a", "b"], second), Answer(["d"])),  # c was hidden by the deletion of another one
        *(Answer(["b", "c"], second), Answer(["d"])),
        *(Answer(["b", "c"], second), Answer(["d"])),
    )
    assert sorted((await read(registry))[0]) == ["a", "b", "c", "d"]
    assert len(registry.asked) == 6


async def test_a_list_that_changes_with_every_reading_is_an_error() -> None:
    registry = Registry(*(Answer([f"a{number}"], link("/p2")) if number % 2 else Answer([]) for number in range(1, 9)))
    with pytest.raises(Unavailable, match="changed 4 times"):
        await read(registry)


async def test_a_page_whose_last_name_was_deleted_starts_the_list_again() -> None:
    registry = Registry(
        *(Answer(["a"], link("/v2/_catalog?last=a")), NotFound("gone", status=404)),
        *(Answer(["b"], link("/v2/_catalog?last=b")), Answer(["c"])),
    )
    assert await read(registry) == (["a", "b", "c"], [])


@pytest.mark.parametrize("target", ["?n=100&last=b", "/v2/_catalog?n=100&last=b", f"{HOST}/v2/_catalog?n=100&last=b"])
async def test_a_smaller_page_is_asked_for_if_the_first_is_too_large(target: str) -> None:
    registry = Registry(ServiceError("too many", status=400), Answer(["a", "b"], link(target)), Answer(["c"]))
    assert (await read(registry))[0] == ["a", "b", "c"]
    assert registry.asked == ["/v2/_catalog?n=1000", "/v2/_catalog?n=100", "/v2/_catalog?n=100&last=b"]


async def test_null_is_an_empty_list() -> None:
    assert await read(Registry(Answer(None))) == ([], [])


async def test_impossible_names_are_left_out_and_described() -> None:
    names, rejected = await read(Registry(Answer(["good", "BAD", "../up", 7, None, "a//b", "x" * 300])))
    assert names == ["good"]
    assert len(rejected) == 6
    assert all(len(reason) < 130 for reason in rejected)


async def test_a_link_is_sent_as_it_is_and_unescaped_characters_are_escaped() -> None:
    registry = Registry(Answer(["a"], link("/v2/_catalog?last=a&x=a b")), Answer(["b"]))
    await read(registry)
    assert registry.asked[1] == "/v2/_catalog?last=a&x=a%20b"


@pytest.mark.parametrize("target", ["https://evil.example/x", "//evil.example/x", "http://[", "ftp://x/", "a\x7f"])
async def test_a_link_to_another_host_is_not_followed(target: str) -> None:
    registry = Registry(Answer(["a"], link(target)))
    with pytest.raises(Unavailable):
        await read(registry)

    assert len(registry.asked) == 1


async def test_links_in_a_circle_and_lists_without_end_are_errors() -> None:
    with pytest.raises(Unavailable, match="circles"):
        await read(Registry(*(Answer([f"a{number}"], link("/v2/_catalog?page=2")) for number in range(3))))

    with pytest.raises(Unavailable, match="does not end"):
        await read(Registry(Answer([f"a{number}" for number in range(9)])), limit=5)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"repositories": {}}', b'{"tags": []}', b'{"repositories": 3}'])
async def test_other_answers_are_errors(body: bytes) -> None:
    with pytest.raises(Unavailable):
        await read(Registry(Answer(body, key="")))
