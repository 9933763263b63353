"""The blobs of one image, some of which come for others."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from quaymirror.errors import NotFound
from quaymirror.oci import Descriptor, Digest
from quaymirror.transfer import image
from quaymirror.transfer.single_flight import SingleFlight

FIRST, SECOND = (Descriptor("application/octet-stream", Digest.of(text), 5) for text in (b"first", b"other"))


class Nothing:
    """A target that has nothing."""

    def has_content(self, reference: object, node: Descriptor) -> bool:
        """Say so."""
        return False

    def dedup_key(self, reference: object, node: Descriptor) -> Digest:
        """Share every blob."""
        return node.digest


async def test_what_no_repository_has_any_more_is_asked_for_once_by_each_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: Counter[tuple[str, Digest]] = Counter()
    may_fail: dict[tuple[str, Digest], anyio.Event] = {}

    async def fetch(blob: Descriptor, reference: Any, *_: object) -> bool:
        key = (reference, blob.digest)
        asked[key] += 1
        await may_fail.setdefault(key, anyio.Event()).wait()
        raise NotFound("gone")

    monkeypatch.setattr(image, "_fetch", fetch)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            transfers: Any = SimpleNamespace(flights=SingleFlight[Digest](tasks), target=Nothing())

            async def bring(reference: Any, *blobs: Descriptor) -> None:
                with pytest.raises(NotFound):
                    await image._fetch_blobs(blobs, reference, transfers, image.Fetched())

            async def fail(reference: str, blob: Descriptor) -> None:
                may_fail[reference, blob.digest].set()
                await anyio.wait_all_tasks_blocked()

            tasks.start_soon(bring, "theirs", FIRST)
            tasks.start_soon(bring, "another", SECOND)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(bring, "ours", FIRST, SECOND)
            await anyio.wait_all_tasks_blocked()
            # Each failure of others lets ours ask by itself, while its other question is still open.
            await fail("theirs", FIRST)
            await fail("another", SECOND)
            await fail("ours", FIRST)
            await fail("ours", SECOND)

    assert set(asked.values()) == {1}
    assert len(asked) == 4
