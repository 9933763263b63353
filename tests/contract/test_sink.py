"""The contract of a sink, checked for those of every kind of target."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import memory_target
import pytest
from receiver import Receiver

from quaymirror import Options, Selection
from quaymirror.errors import DigestMismatch, QuaymirrorError, ReadInterrupted, SizeMismatch
from quaymirror.oci import Descriptor, Digest, Reference, Repository
from quaymirror.run.wiring import connect_target
from quaymirror.store.sink import Sink
from quaymirror.targets import kinds
from quaymirror.targets.kinds import TargetContext, parse_target
from quaymirror.transfer.target import Target

kinds.register(memory_target.KIND)
ADDRESSES = {
    "layout": "{directory}/layout",
    "registry": "registry://{host}?insecure=true",
    "derived": "dir://{directory}/derived",
    "memory": "memory://{directory}",
}
NAME = Reference(Repository("quay.io", "kolla/nova-api"), "2025.1", Digest.of(b"manifest"))
# Small ones are verified before they are written or sent, large ones as they pass.
SIZES = {"empty": 0, "small": 2000, "large": 3_000_000}


@dataclass(frozen=True)
class Case:
    """A target, and a blob that it lacks."""

    target: Target
    content: bytes

    @property
    def node(self) -> Descriptor:
        return Descriptor("application/octet-stream", Digest.of(self.content), len(self.content))

    @asynccontextmanager
    async def sink(self) -> AsyncIterator[Sink]:
        async with self.target.sink(NAME, self.node) as sink:
            assert sink is not None
            yield sink

    def is_there(self) -> bool:
        return self.target.has_content(NAME, self.node)


@pytest.fixture(params=ADDRESSES)
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    async with Receiver() as registry:
        address = ADDRESSES[request.param].format(directory=tmp_path, host=registry.host)
        options = Options.of(state=tmp_path / "state", retries=0)
        spec = parse_target(address, Selection("kolla", "*", "2025.1"), options)
        async with spec.open(TargetContext(options, connect_target)) as opened:
            yield opened


@pytest.fixture(params=SIZES)
async def case(request: pytest.FixtureRequest, target: Target) -> Case:
    case = Case(target, bytes(range(250)) * (SIZES[request.param] // 250))
    await target.missing_content(NAME, [case.node])
    return case


async def chunks(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def interrupted(content: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks(content):
        yield chunk

    raise ReadInterrupted("the connection broke")


async def fill(sink: Sink, content: bytes) -> None:
    await sink.prepare()
    await sink.receive(chunks(content[sink.offset :]))
    await sink.commit()


async def test_all_bytes_make_the_blob(case: Case) -> None:
    async with case.sink() as sink:
        await sink.prepare()
        assert sink.offset == 0
        await sink.receive(chunks(case.content))
        assert sink.offset == len(case.content)
        await sink.commit()

    assert case.is_there()


async def test_an_interrupted_blob_goes_on_from_where_it_says(case: Case) -> None:
    if not case.content:
        return

    async with case.sink() as sink:
        await sink.prepare()
        with pytest.raises(ReadInterrupted):
            await sink.receive(interrupted(case.content[: len(case.content) // 2]))

        assert not case.is_there()
        await sink.prepare()
        assert 0 <= sink.offset <= len(case.content) // 2
        await fill(sink, case.content)

    assert case.is_there()


async def test_a_blob_with_missing_bytes_is_none(case: Case) -> None:
    if not case.content:
        return

    async with case.sink() as sink:
        with pytest.raises(ReadInterrupted):
            await fill(sink, case.content[:-1])

    assert not case.is_there()


async def test_more_bytes_than_announced_are_refused_and_the_blob_can_start_over(case: Case) -> None:
    async with case.sink() as sink:
        await sink.prepare()
        with pytest.raises(SizeMismatch):
            await sink.receive(chunks(case.content + b"more"))

        assert not case.is_there()
        await sink.reset()
        await fill(sink, case.content)

    assert case.is_there()


async def test_other_bytes_of_the_right_number_are_refused_and_the_blob_can_start_over(case: Case) -> None:
    if not case.content:
        return

    async with case.sink() as sink:
        with pytest.raises(DigestMismatch):
            await fill(sink, case.content[:-1] + b"?")

        assert not case.is_there()
        await sink.prepare()
        await fill(sink, case.content)

    assert case.is_there()


async def test_a_reset_discards_everything(case: Case) -> None:
    async with case.sink() as sink:
        await sink.prepare()
        if case.content:
            with pytest.raises(ReadInterrupted):
                await sink.receive(interrupted(case.content[:-1]))

        await sink.reset()
        assert sink.offset == 0
        await fill(sink, case.content)

    assert case.is_there()


async def test_segments_arrive_in_any_order(case: Case) -> None:
    async with case.sink() as sink:
        await sink.prepare()
        segmented = sink.segments()
        if segmented is None:
            return

        assert segmented.gaps() == [(0, len(case.content))]
        half = len(case.content) // 2
        first = await segmented.segment(0, half)
        second = await segmented.segment(half, len(case.content))
        for segment in (second, first):
            assert segment.end - segment.offset == half
            await segment.receive(chunks(case.content[segment.offset : segment.end]))
            await segment.flush()

        assert segmented.gaps() == []
        await sink.commit()

    assert case.is_there()


async def test_a_segment_takes_neither_more_nor_fewer_bytes(case: Case) -> None:
    async with case.sink() as sink:
        await sink.prepare()
        segmented = sink.segments()
        if segmented is None:
            return

        segment = await segmented.segment(0, 1000)
        for content in (case.content[:1001], case.content[:999]):
            with pytest.raises(QuaymirrorError):
                await segment.receive(chunks(content))
