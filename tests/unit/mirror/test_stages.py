"""The places of images among those who fetch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio

from quaymirror.events import Outcome, Status, ignore
from quaymirror.mirror import stages
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.quay.discovery import Image


def image(name: str) -> Image:
    """Return an image of that name."""
    return Image(Reference(Repository("quay.io", f"kolla/{name}"), "tag", Digest.of(name.encode())))


async def test_what_goes_on_for_an_image_that_has_ended_gives_back_no_place_but_its_own() -> None:
    places = anyio.CapacityLimiter(1)
    leaves: list[Callable[[], None]] = []
    taken: list[int] = []

    async def outcome(reference: Reference, leave: Callable[[], None]) -> Outcome:
        leaves.append(leave)
        leaves[0]()  # the first image's own at first, and late when it is the second one's turn
        taken.append(places.borrowed_tokens)
        return Outcome(reference, Status.MIRRORED)

    run: Any = SimpleNamespace(stop=SimpleNamespace(reason=None), observer=ignore, finish=lambda _: None)
    bringer: Any = SimpleNamespace(outcome=outcome)
    outbox, inbox = anyio.create_memory_object_stream[Image](2)
    async with outbox:
        await outbox.send(image("first"))
        await outbox.send(image("second"))

    await stages._work(run, inbox, bringer, places)
    assert taken == [0, 1]
    assert places.borrowed_tokens == 0
