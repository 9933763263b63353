"""Lists in numbered pages that change while they are read."""

from __future__ import annotations

import pytest

from quaymirror.catalog.base import ListedRepository, Tag
from quaymirror.catalog.offsets import Batch, pages_of, tags_of
from quaymirror.errors import NotFound, Unavailable
from quaymirror.oci import Digest

SIZE = 10


class Shifting:
    """A list of names, which changes as `changes` says: by the number of the request, names to remove and to add."""

    def __init__(
        self, names: list[str], changes: dict[int, tuple[list[str], list[str]]], *, counted: bool = True
    ) -> None:
        self.names = names
        self.changes = changes
        self.counted = counted
        self.asked = 0

    async def page(self, number: int) -> Batch[ListedRepository]:
        shown, more = self._shown(number)
        total = len(self.names) if self.counted else None
        self._change()
        return Batch(tuple(map(ListedRepository, shown)), has_more=more, total=total)

    async def tags(self, number: int) -> Batch[Tag]:
        shown, more = self._shown(number)
        self._change()
        return Batch(tuple(Tag(name, Digest.of(b"")) for name in shown), has_more=more)

    def _shown(self, number: int) -> tuple[list[str], bool]:
        return self.names[(number - 1) * SIZE : number * SIZE], number * SIZE < len(self.names)

    def _change(self) -> None:
        self.asked += 1
        if self.asked not in self.changes:
            return

        removed, added = self.changes[self.asked]
        self.names = [name for name in self.names if name not in removed] + added


def names(count: int) -> list[str]:
    return [f"image-{number:06}" for number in range(count)]


async def read(source: Shifting) -> list[str]:
    return [entry.name async for page in pages_of(source.page, "list") for entry in page.repositories]


async def test_a_list_with_a_number_of_entries_that_fits_is_read_once() -> None:
    source = Shifting(names(35), {})
    assert await read(source) == names(35)
    assert source.asked == 4


async def test_a_list_without_a_number_is_read_until_two_readings_agree() -> None:
    source = Shifting(names(35), {}, counted=False)
    assert await read(source) == names(35)
    assert source.asked == 8


@pytest.mark.parametrize("counted", [True, False])
async def test_an_entry_that_disappears_hides_no_other_one(counted: bool) -> None:
    source = Shifting(names(35), {1: (["image-000003"], [])}, counted=counted)
    found = await read(source)
    assert {*names(35)} == {*found}  # also the one that a page had before it disappeared
    assert len(found) == 35


async def test_a_list_that_changes_with_every_reading_is_an_error() -> None:
    changes = {number: ([f"image-{number:06}"], [f"new-{number}"]) for number in range(1, 200)}
    with pytest.raises(Unavailable, match="changed 4 times"):
        await read(Shifting(names(35), changes, counted=False))


async def test_a_hundred_thousand_names_are_read_page_by_page() -> None:
    source = Shifting(names(100_000), {})
    assert len(await read(source)) == 100_000
    assert source.asked == 10_000


async def test_tags_that_move_while_their_list_is_read_are_not_lost() -> None:
    source = Shifting(names(35), {1: (["image-000003"], ["image-000003"])})
    found = await tags_of(source.tags, "*", "repository")
    assert {tag.name for tag in found.tags} == {*names(35)}


async def test_ten_thousand_tags_of_one_repository_are_read() -> None:
    found = await tags_of(Shifting(names(10_000), {}).tags, "*00", "repository")
    assert len(found.tags) == 100


async def test_a_list_of_tags_without_an_end_is_an_error() -> None:
    with pytest.raises(Unavailable, match="does not end"):
        await tags_of(Shifting(names(50_100), {}).tags, "*", "repository")


async def test_the_same_page_again_and_again_is_an_error_after_some_requests() -> None:
    numbers: list[int] = []

    async def page(number: int) -> Batch[ListedRepository]:
        numbers.append(number)
        return Batch((ListedRepository("nova"),), has_more=True)

    async def tags(number: int) -> Batch[Tag]:
        numbers.append(number)
        return Batch((Tag("1", Digest.of(b"")),), has_more=True)

    with pytest.raises(Unavailable, match="does not end"):
        [each async for each in pages_of(page, "list")]

    with pytest.raises(Unavailable, match="does not end"):
        await tags_of(tags, "*", "repository")

    assert len(numbers) < 30


async def test_a_page_that_does_not_exist_any_more_hides_no_entry() -> None:
    """Half of the list disappears after its first page, and its second page with it."""
    entries = [ListedRepository(name) for name in names(40)]

    async def page(number: int) -> Batch[ListedRepository]:
        if number == 1 and len(entries) == 40:
            first = Batch(tuple(entries[:20]), has_more=True)
            del entries[:20]
            return first

        if number > 1:
            raise NotFound("no such page")

        return Batch(tuple(entries))

    found = [entry.name async for each in pages_of(page, "list") for entry in each.repositories]
    assert found == names(40)


async def test_an_empty_page_that_promises_more_is_an_error() -> None:
    async def page(_: int) -> Batch[ListedRepository]:
        return Batch((), has_more=True)

    with pytest.raises(Unavailable, match="without entries"):
        [each async for each in pages_of(page, "list")]
