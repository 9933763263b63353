"""Images that are committed together."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from graphs import described

from quaymirror.errors import QuaymirrorError, Scope, StoreError
from quaymirror.oci import Digest
from quaymirror.store.commits import GroupCommit, Record
from quaymirror.store.executor import SerialExecutor
from quaymirror.store.records import ImageRecord

NAMES = ("org/first:tag", "org/second:tag", "org/third:tag")


def record(name: str) -> ImageRecord:
    root = described(name.encode())
    return ImageRecord(name, "quay.io", Digest.of(b"source"), root, (root,), "", "run", 0.0)


async def ends(commits: GroupCommit) -> dict[str, BaseException | None]:
    """Commit all images at the same time, and return how each call ended."""
    ended: dict[str, BaseException | None] = {}

    async def add(name: str) -> None:
        try:
            await commits.add(record(name))
        except Exception as error:
            ended[name] = error
        else:
            ended[name] = None

    async with anyio.create_task_group() as tasks:
        for name in NAMES:
            tasks.start_soon(add, name)

    return ended


async def test_each_image_of_a_group_gets_its_own_error() -> None:
    def commit(records: Sequence[Record]) -> list[QuaymirrorError | None]:
        return [StoreError("incomplete", scope=Scope.IMAGE) if one.name == NAMES[1] else None for one in records]

    ended = await ends(GroupCommit(SerialExecutor(), commit))
    assert [name for name, error in ended.items() if error is None] == [NAMES[0], NAMES[2]]
    assert isinstance(ended[NAMES[1]], StoreError)


async def test_no_image_of_a_group_counts_as_committed_if_the_commit_breaks_off() -> None:
    groups: list[int] = []

    def commit(records: Sequence[Record]) -> list[QuaymirrorError | None]:
        groups.append(len(records))
        raise RuntimeError("can't start new thread")

    ended = await ends(GroupCommit(SerialExecutor(), commit))
    assert max(groups) > 1, "several images were committed together"
    assert all(isinstance(error, RuntimeError | StoreError) for error in ended.values())
