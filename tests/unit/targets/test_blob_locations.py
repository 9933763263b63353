"""The mounts of a push: one shows whether a registry mounts at all, and then they wait for nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
from graphs import described

from quaymirror.events import ignore
from quaymirror.oci import Repository
from quaymirror.targets.blob_locations import BlobLocations

BLOB = described(b"shared")
HOLDER = Repository("mirror.example", "kolla/base")
OTHERS = [Repository("mirror.example", f"kolla/image-{number}") for number in range(4)]


class Registry:
    """A registry in which the first mount waits for `may_succeed`, and later ones until all of them are under way."""

    def __init__(self) -> None:
        self.requested: list[Repository] = []
        self.may_succeed = anyio.Event()
        self.all_under_way = anyio.Event()

    async def mount(self, repository: Repository, *_: Any, **__: Any) -> None:
        self.requested.append(repository)
        if len(self.requested) == len(OTHERS):
            self.all_under_way.set()

        await (self.may_succeed if len(self.requested) == 1 else self.all_under_way).wait()


async def test_mounts_that_waited_for_the_first_one_then_run_at_the_same_time() -> None:
    registry: Any = Registry()
    locations = BlobLocations(registry, ignore)
    locations.uploaded(HOLDER, BLOB.digest)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for repository in OTHERS:
                tasks.start_soon(partial(locations.mount, repository, BLOB))

            await anyio.wait_all_tasks_blocked()
            assert len(registry.requested) == 1
            registry.may_succeed.set()
