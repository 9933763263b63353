"""A catalog of another kind: in memory, with text for time stamps, without dates, and pages of two repositories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import cast

from quaymirror.catalog.base import ListedRepository, Page, Tag, TagAnswer, TagList, Traits
from quaymirror.catalog.kinds import CatalogKind, Services, SourceAccess
from quaymirror.errors import NotFound, SelectionEmpty
from quaymirror.oci import Digest, Repository
from quaymirror.registry.puller import Puller

TRAITS = Traits("the toy", has_dates=False)


@dataclass
class ToyServer:
    """Tags by organization and repository; `asked` has the names of repositories whose tags were looked up."""

    repositories: dict[str, dict[str, dict[str, Digest]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    revisions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked: list[str] = field(default_factory=list)
    now: int = 1_000

    def push(self, organization: str, repository: str, tag: str, digest: Digest) -> None:
        self.repositories[organization][repository][tag] = digest
        self.revisions[f"{organization}/{repository}"] += 1

    def tags(self, name: str) -> dict[str, Digest]:
        organization, _, repository = name.partition("/")
        if repository not in self.repositories.get(organization, {}):
            raise NotFound(f"{name}: no such repository")

        return self.repositories[organization][repository]


SERVER = ToyServer()


class ToyCatalog:
    """The catalog of a toy server; see `Catalog`."""

    traits = TRAITS

    def __init__(self, server: ToyServer) -> None:
        self.server = server

    async def pages(self, organization: str, *, names: Sequence[str] = ()) -> AsyncGenerator[Page]:
        names = sorted(self.server.repositories.get(organization, {}))
        for start in range(0, max(1, len(names)), 2):
            listed = [
                ListedRepository(name, stamp=self.server.revisions[f"{organization}/{name}"])
                for name in names[start : start + 2]
            ]
            cursor = str(start + 2) if start + 2 < len(names) else None
            yield Page(tuple(listed), cursor=cursor, at=self.server.now)

    async def explain_empty(self, organization: str) -> SelectionEmpty:
        return SelectionEmpty(f"the toy has no {organization!r}")

    async def tag(
        self, repository: Repository, name: str, *, batch: Sequence[Repository] = (), dated: bool = False
    ) -> TagAnswer:
        self.server.asked.append(repository.name)
        digest = self.server.tags(repository.name).get(name)
        return TagAnswer(Tag(name, digest) if digest else None, self.server.now)

    async def some_tags(self, repository: Repository) -> Collection[str]:
        return [*self.server.tags(repository.name)]

    async def tags(self, repository: Repository, glob: str) -> TagList:
        self.server.asked.append(repository.name)
        tags = self.server.tags(repository.name)
        return TagList(tuple(Tag(name, digest) for name, digest in tags.items() if fnmatchcase(name, glob)))

    async def digest_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        return {tag.name: tag.digest for tag in (await self.tags(repository, "sha256-*")).tags}


@asynccontextmanager
async def _open(_: SourceAccess) -> AsyncIterator[Services]:
    yield Services(ToyCatalog(SERVER), cast("Puller", None))


KIND = CatalogKind(lambda _: TRAITS, _open)
