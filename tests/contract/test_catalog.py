"""The contract of a catalog, checked for every kind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import toy_catalog
from layout_writer import LayoutWriter
from organizations import small_image

from quaymirror import Credentials, Options, Secret, Selection
from quaymirror.catalog import kinds
from quaymirror.catalog.base import Catalog, Discovery, ListedRepository, Page, PinnedImage, TagAnswer, TagList, Traits
from quaymirror.discovery.checks import check_again
from quaymirror.discovery.discover import discover
from quaymirror.discovery.tag_cache import TagCache
from quaymirror.errors import AccessDenied, ConfigError, NotFound, SelectionEmpty
from quaymirror.events import CandidateSkipped, ignore
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.run.wiring import connect
from quaymirror.selection.source import SourceAddress
from quaymirror.testing import (
    ForeignServer,
    GitHubServer,
    GitLabServer,
    HarborServer,
    HubServer,
    QuayServer,
    Registry,
)

kinds.register("toy", "toy_catalog")

DAY = 86_400
NOVA, GLANCE = "nova", "glance"


@dataclass
class Source:
    """A catalog, its content, and its clock; `asked` counts the lookups of tags so far."""

    catalog: Catalog
    push: Callable[[str, str, str, str], None]
    """Push an image, made of the last text, as organization, repository and tag."""
    advance: Callable[[], None]
    asked: Callable[[], int]
    organization: str = "kolla"
    """The organization, "" if names of repositories are complete without one."""
    address: SourceAddress | None = None
    has_stamps: bool = True

    def digest(self, content: str) -> Digest:
        return Digest.parse(small_image(content).digest)

    def repository(self, name: str) -> Repository:
        return Repository("quay.io", f"kolla/{name}")

    def selection(self, glob: str = "*", tag: str = "latest") -> Selection:
        glob = glob if self.organization else f"kolla/{glob}"
        return Selection(self.organization, glob, tag, source=self.address)

    def listed_name(self, name: str) -> str:
        return name if self.organization else f"kolla/{name}"


@asynccontextmanager
async def quay(discovery: Discovery = Discovery.AUTO) -> AsyncGenerator[Source]:
    clock = [1_790_000_000.0]
    registry = Registry(now=lambda: clock[0])

    def push(organization: str, repository: str, tag: str, content: str) -> None:
        registry.organization(organization).repository(repository).push(tag, small_image(content))

    def advance() -> None:
        clock[0] += 3600

    async with QuayServer(registry) as server:
        options = Options.of(server=server.url, discovery=discovery)
        async with connect(options, ignore) as sources:
            services = await sources.open(None)
            yield Source(services.catalog, push, advance, lambda: server.count("/tag/$") + server.count("^/v2/kolla"))


@asynccontextmanager
async def toy() -> AsyncGenerator[Source]:
    server = toy_catalog.SERVER = toy_catalog.ToyServer()

    def push(organization: str, repository: str, tag: str, content: str) -> None:
        server.push(organization, repository, tag, Digest.parse(small_image(content).digest))

    def advance() -> None:
        server.now += 3600

    access: Any = None  # it needs no connection
    async with kinds.find_kind("toy").open(access) as services:
        yield Source(services.catalog, push, advance, lambda: len(server.asked))


@asynccontextmanager
async def any_registry() -> AsyncGenerator[Source]:
    registry = Registry()

    def push(organization: str, repository: str, tag: str, content: str) -> None:
        registry.organization(organization).repository(repository).push(tag, small_image(content))

    async with QuayServer(registry, public_catalog=True) as server:
        address = SourceAddress("registry", server.url.removeprefix("http://"), insecure=True)
        async with connect(Options(), ignore) as sources:
            catalog = (await sources.open(address)).catalog
            yield Source(catalog, push, lambda: None, lambda: server.count("^/v2/kolla"), "", address, False)


@asynccontextmanager
async def layout() -> AsyncGenerator[Source]:
    """A layout that is read when the catalog is first used, since its content is that of one moment."""
    with TemporaryDirectory() as directory:
        content = LayoutWriter(Path(directory))
        lazy = LazyCatalog(content)

        def push(organization: str, repository: str, tag: str, image: str) -> None:
            content.add(f"{organization}/{repository}:{tag}", small_image(image))

        async with lazy:
            yield Source(lazy, push, lambda: None, lambda: lazy.asked, "", lazy.address, False)


class LazyCatalog:
    """The catalog of a layout, opened again after each change of it; `asked` counts lookups of tags."""

    def __init__(self, content: LayoutWriter) -> None:
        self.content = content
        self.address = SourceAddress("ocidir", path=str(content.root))
        self.traits: Traits = kinds.traits_of(Selection("", source=self.address), Discovery.AUTO)
        self.asked = 0
        self._stack = AsyncExitStack()
        self._opened: tuple[int, Catalog] | None = None

    async def __aenter__(self) -> None:
        await self._stack.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def current(self) -> Catalog:
        if self._opened is None or self._opened[0] != self.content.changes:
            sources = await self._stack.enter_async_context(connect(Options(), ignore))
            self._opened = self.content.changes, (await sources.open(self.address)).catalog

        return self._opened[1]

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        async for page in (await self.current()).pages(organization, names=names):
            yield page

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        return await (await self.current()).explain_empty(organization)

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        self.asked += 1
        return await (await self.current()).tag(repository, name, batch=batch, dated=dated)

    async def tags(self, repository: Repository, glob: str) -> TagList:
        return await (await self.current()).tags(repository, glob)

    async def some_tags(self, repository: Repository) -> Collection[str]:
        return await (await self.current()).some_tags(repository)

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        return await (await self.current()).digest_tags(repository)


TOKEN = Credentials("mirror", Secret("personal-token"))


async def foreign(
    server: ForeignServer, clock: list[float], address: str, lookups: str, *, has_stamps: bool = True
) -> AsyncGenerator[Source]:
    """Yield a catalog of `server`, at `address` with its host in place of `{}`."""

    def push(organization: str, repository: str, tag: str, content: str) -> None:
        server.registry.organization(organization).repository(repository).push(tag, small_image(content))

    def advance() -> None:
        clock[0] += 3600

    async with server:
        source = Selection.parse_uri(address.replace("{}", server.host)).source
        async with connect(Options.of(credentials=TOKEN), ignore) as sources:
            catalog = (await sources.open(source)).catalog

            def asked() -> int:
                return sum(request.status != 401 for request in server.recorder.matching(lookups))

            yield Source(catalog, push, advance, asked, "kolla", source, has_stamps)


def foreign_source(kind: str) -> AbstractAsyncContextManager[Source]:
    clock = [1_790_000_000.0]
    registry = Registry(now=lambda: clock[0])
    accounts = {"mirror": "personal-token"}
    urls = "api=http://{}&registry=http://{}"
    opened = {
        "harbor": lambda: foreign(
            HarborServer(registry, accounts=accounts), clock, "harbor://{}/kolla/*:latest?insecure=true", "/artifacts"
        ),
        "hub": lambda: foreign(HubServer(registry, accounts=accounts), clock, f"hub://kolla/*:latest?{urls}", "/tags/"),
        "ghcr": lambda: foreign(
            GitHubServer(registry, accounts=accounts), clock, f"ghcr://kolla/*:latest?{urls}", "^/v2/kolla"
        ),
        "gitlab": lambda: foreign(
            GitLabServer(registry, accounts=accounts),
            clock,
            f"gitlab://{{}}/kolla/*:latest?insecure=true&{urls}",
            "^/v2/kolla/.*/manifests",
            has_stamps=False,
        ),
    }
    return asynccontextmanager(opened[kind])()


SOURCES: dict[str, Callable[[], AbstractAsyncContextManager[Source]]] = {
    "quay": quay,
    "quay by its registry": lambda: quay(Discovery.REGISTRY),
    "toy": toy,
    "any registry": any_registry,
    "layout": layout,
    "harbor": lambda: foreign_source("harbor"),
    "hub": lambda: foreign_source("hub"),
    "ghcr": lambda: foreign_source("ghcr"),
    "gitlab": lambda: foreign_source("gitlab"),
}


@pytest.fixture(params=SOURCES)
async def source(request: pytest.FixtureRequest) -> AsyncGenerator[Source]:
    async with SOURCES[request.param]() as opened:
        opened.push("kolla", NOVA, "latest", "nova")
        opened.push("kolla", GLANCE, "latest", "glance")
        opened.push("other", "secret", "latest", "secret")
        opened.advance()
        yield opened


async def pages(source: Source, organization: str | None = None) -> list[Page]:
    wanted = source.organization if organization is None else organization
    return [page async for page in source.catalog.pages(wanted)]


async def entries_of(source: Source) -> list[ListedRepository]:
    """Return what is listed of the organization; names have it where they are complete without one."""
    entries = [entry for page in await pages(source) for entry in page.repositories]
    return entries if source.organization else [entry for entry in entries if entry.name.startswith("kolla/")]


async def listed(source: Source) -> dict[str, ListedRepository]:
    return {entry.name.removeprefix("kolla/"): entry for entry in await entries_of(source)}


async def found(source: Source, *selections: Selection, **options: Any) -> list[PinnedImage]:
    return [image async for image in discover(selections, source.catalog, "quay.io", **options)]


async def test_every_repository_of_the_organization_is_listed_once(source: Source) -> None:
    names = {f"image-{number:03}" for number in range(230)}
    for name in names:
        source.push("kolla", name, "latest", "same")

    assert len(await entries_of(source)) == 232
    assert {*await listed(source)} == names | {NOVA, GLANCE}


async def test_only_the_last_page_has_no_cursor_and_cursors_differ(source: Source) -> None:
    for number in range(230):
        source.push("kolla", f"image-{number:03}", "latest", "same")

    *before, last = [page.cursor for page in await pages(source)]
    assert last is None
    assert None not in before
    assert len(set(before)) == len(before) > 0


async def test_a_listing_may_be_left_early(source: Source) -> None:
    async with aclosing(source.catalog.pages(source.organization)) as listing:
        async for page in listing:
            assert page.repositories
            break


async def test_names_without_wildcards_are_listed(source: Source) -> None:
    names = [source.listed_name(name) for name in (NOVA, GLANCE)]
    found = [page async for page in source.catalog.pages(source.organization, names=names)]
    assert {*names} <= {entry.name for page in found for entry in page.repositories}


async def test_an_unknown_organization_is_one_empty_page_and_explained(source: Source) -> None:
    if not source.organization:
        assert isinstance(await source.catalog.explain_empty(""), SelectionEmpty)
        return

    (page,) = await pages(source, "unheard-of")
    assert (page.repositories, page.rejected, page.cursor) == ((), (), None)
    error = await source.catalog.explain_empty("unheard-of")
    assert isinstance(error, SelectionEmpty)
    assert "unheard-of" in error.message


async def test_a_tag_has_its_digest_and_an_unknown_one_is_none(source: Source) -> None:
    answer = await source.catalog.tag(source.repository(NOVA), "latest", batch=[source.repository(GLANCE)])
    assert answer.tag is not None
    assert (answer.tag.name, answer.tag.digest) == ("latest", source.digest("nova"))
    assert (await source.catalog.tag(source.repository(NOVA), "no-such-tag")).tag is None


async def test_a_tag_of_an_unknown_repository_is_an_error(source: Source) -> None:
    with pytest.raises((NotFound, AccessDenied)):
        await source.catalog.tag(source.repository("unheard-of"), "latest")


async def test_dated_tags_have_the_time_of_their_update(source: Source) -> None:
    answer = await source.catalog.tag(source.repository(NOVA), "latest", dated=True)
    assert answer.tag is not None
    assert (answer.tag.start is not None) >= source.catalog.traits.has_dates


async def test_tags_are_found_by_globs(source: Source) -> None:
    for number in range(130):
        source.push("kolla", NOVA, f"build-{number}", "build")

    tags = (await source.catalog.tags(source.repository(NOVA), "build-1[0-2]*")).tags
    assert sorted(tag.name for tag in tags) == sorted(f"build-{number}" for number in (10, 11, 12, *range(100, 130)))
    sample = await source.catalog.some_tags(source.repository(NOVA))
    assert {*sample} <= {"latest", *(f"build-{number}" for number in range(130))}
    assert sample


async def test_the_stamp_of_a_repository_changes_when_and_only_when_a_tag_moves(source: Source) -> None:
    before = await listed(source)
    assert await listed(source) == before
    if not source.has_stamps:
        assert {entry.stamp for entry in before.values()} == {None}
        return

    source.push("kolla", NOVA, "latest", "new")
    after = await listed(source)
    assert after[GLANCE].stamp == before[GLANCE].stamp is not None
    assert after[NOVA].stamp != before[NOVA].stamp


async def test_selections_need_what_the_kind_knows(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kinds.CatalogKind(lambda _: source.catalog.traits, kinds.find_kind("toy").open)
    monkeypatch.setattr(kinds, "find_kind", lambda _: kind)
    kinds.check_selection(Selection("kolla"), Discovery.AUTO)
    for selection, is_known in (
        (Selection("kolla", since=datetime(2025, 1, 1, tzinfo=UTC)), source.catalog.traits.has_dates),
        (Selection("kolla", "*", "build-*"), source.catalog.traits.lists_tags),
    ):
        if is_known:
            kinds.check_selection(selection, Discovery.AUTO)
        else:
            with pytest.raises(ConfigError, match=f"{source.catalog.traits.name} can't"):
                kinds.check_selection(selection, Discovery.AUTO)


async def test_discovery_pins_the_images_of_a_selection(source: Source) -> None:
    images = await found(source, source.selection(), strict=True)
    assert {image.reference.name: image.digest for image in images} == {
        "kolla/nova:latest": source.digest("nova"),
        "kolla/glance:latest": source.digest("glance"),
    }


async def test_the_tag_cache_saves_lookups_until_a_tag_moves(source: Source) -> None:
    selection, cache = source.selection(), TagCache(full_check_seconds=DAY)
    first = await found(source, selection, cache=cache)
    later = TagCache(cache.take_new(), full_check_seconds=DAY)
    source.advance()
    before = source.asked()
    assert {image.reference for image in await found(source, selection, cache=later)} == {
        image.reference for image in first
    }
    assert source.asked() == before + (0 if source.has_stamps else 2)
    if not source.has_stamps:
        return

    source.push("kolla", NOVA, "latest", "new")
    source.advance()
    moved = {image.reference.repository.name: image.digest for image in await found(source, selection, cache=later)}
    assert moved == {"kolla/nova": source.digest("new"), "kolla/glance": source.digest("glance")}
    assert source.asked() == before + 1


async def test_a_tag_that_no_repository_has_is_explained_with_the_nearest(source: Source) -> None:
    with pytest.raises(SelectionEmpty, match=r"no repository of \S+ has the tag lates; nearest: latest"):
        await found(source, source.selection(tag="lates"))


async def test_an_image_is_checked_again(source: Source) -> None:
    selection = source.selection(NOVA)
    (image,) = await found(source, selection)
    same = await check_again(image, [selection], source.catalog)
    assert isinstance(same, PinnedImage)
    assert same.reference == image.reference
    source.push("kolla", NOVA, "latest", "new")
    again = await check_again(image, [selection], source.catalog)
    assert isinstance(again, PinnedImage)
    assert again.digest == source.digest("new")
    gone = PinnedImage(Reference(source.repository(NOVA), "deleted", image.digest), source=source.address)
    assert await check_again(gone, [selection], source.catalog) == CandidateSkipped("kolla/nova", "no such tag")
