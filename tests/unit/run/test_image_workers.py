"""The fetch slots of images."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from quaymirror.catalog.base import PinnedImage
from quaymirror.events import Outcome, Status, ignore
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.run import workers as run_workers
from quaymirror.transfer.target import Capabilities


def image(name: str) -> PinnedImage:
    """Return an image of that name."""
    return PinnedImage(Reference(Repository("quay.io", f"kolla/{name}"), "tag", Digest.of(name.encode())))


async def test_what_goes_on_for_an_image_that_has_ended_gives_back_no_place_but_its_own() -> None:
    places = anyio.CapacityLimiter(1)
    leaves: list[Callable[[], None]] = []
    taken: list[int] = []

    async def outcome(reference: Reference, leave: Callable[[], None]) -> Outcome:
        leaves.append(leave)
        leaves[0]()  # the first image's own at first, and late when it is the second one's turn
        taken.append(places.borrowed_tokens)
        return Outcome(reference, Status.MIRRORED)

    run: Any = SimpleNamespace(stop=SimpleNamespace(reason=None), emit=ignore)
    bringer: Any = SimpleNamespace(outcome=outcome)
    outbox, inbox = anyio.create_memory_object_stream[PinnedImage](2)
    async with outbox:
        await outbox.send(image("first"))
        await outbox.send(image("second"))

    await run_workers._work(run, inbox, bringer, places)
    assert taken == [0, 1]
    assert places.borrowed_tokens == 0


@pytest.mark.parametrize(
    ("concurrency", "staging", "workers"), [(1, False, 1), (2, False, 8), (16, False, 64), (16, True, 16)]
)
def test_four_times_as_many_are_under_way_but_one_at_a_time_is_one(
    concurrency: int, staging: bool, workers: int
) -> None:
    target: Any = SimpleNamespace(capabilities=Capabilities(staging=staging))
    assert run_workers._workers(concurrency, target) == workers
