"""Large blobs in segments over several connections: each byte is fetched once, also if a segment fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import pytest
from organizations import small_image
from trouble import NOVA, messages, mirror, two_images

from quaymirror.errors import ExitCode
from quaymirror.testing import (
    Action,
    CorruptBody,
    CutBody,
    ExtraHeaders,
    Fault,
    IgnoreRange,
    QuayServer,
    Stall,
    WrongContentRange,
)
from quaymirror.testing import Status as Answer
from quaymirror.testing.recording import RequestRecord
from quaymirror.transfer import segments as pieces

PIECE = 1_000_000
BIG = small_image("large", 6_500_000)
LAYER = BIG.blobs[1]
HEX = LAYER.digest.partition(":")[2]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch, receivers: None) -> None:
    monkeypatch.setattr(pieces, "_LEAST_BYTES", PIECE)
    monkeypatch.setattr(pieces, "_FAR_SECONDS", 0.0)


def asked(server: QuayServer, listener: str = "cdn") -> list[RequestRecord]:
    return [request for request in server.requests if HEX in request.path and request.listener == listener]


def sent(server: QuayServer) -> int:
    return sum(request.body_bytes_sent for request in asked(server))


def on_the_cdn(action: Action, **options: Any) -> Fault:
    return Fault(HEX, action, listener="cdn", **options)


async def test_segments_of_a_large_blob_are_fetched_concurrently_with_one_request_to_the_registry(
    tmp_path: Path,
) -> None:
    async with QuayServer(two_images(BIG)) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    ranges = [request.headers["range"] for request in asked(server)]
    assert len(set(ranges)) == len(ranges) == 7
    assert len({request.peer for request in asked(server)}) > 1
    assert sent(server) == LAYER.size
    assert len(asked(server, "quay")) == 1


async def test_from_a_server_that_is_near_the_rest_comes_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_FAR_SECONDS", 60.0)
    async with QuayServer(two_images(BIG)) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    ranges = [request.headers["range"] for request in asked(server)]
    assert ranges == [f"bytes=0-{PIECE - 1}", f"bytes={PIECE}-{LAYER.size - 1}"]
    assert sent(server) == LAYER.size


async def test_with_one_transfer_at_a_time_it_comes_in_one(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        await mirror(server, tmp_path / "mirror", layer_concurrency=1)

    assert len(asked(server)) == 1
    assert "range" not in asked(server)[0].headers


@pytest.mark.parametrize("nth", [1, 2, [1, 2, 3], [4, 6]], ids=str)
@pytest.mark.parametrize(
    "action", [CutBody(600_000), Answer(503), Stall(after=300_000)], ids=lambda a: type(a).__name__
)
async def test_a_piece_that_breaks_off_goes_on_where_it_was(tmp_path: Path, action: Action, nth: Any) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(action, nth=nth))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    # Bytes in flight at the interruption may be lost.
    assert sent(server) <= LAYER.size + 3 * 600_000
    ranges = [request.headers["range"] for request in asked(server)]
    assert len(set(ranges)) == len(ranges) or isinstance(action, Answer | Stall)


async def test_a_server_that_sends_everything_is_taken_at_its_word(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(IgnoreRange()))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(asked(server)) == 1
    assert sent(server) == LAYER.size


async def test_everything_that_breaks_off_goes_on_in_order(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [on_the_cdn(IgnoreRange(), times=1), on_the_cdn(CutBody(3_000_000), times=1)]
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(asked(server)) == 2
    assert sent(server) <= LAYER.size + 600_000


@pytest.mark.parametrize(
    "action", [IgnoreRange(), WrongContentRange("bytes 0-9/10"), WrongContentRange(None)], ids=["all", "other", "none"]
)
async def test_a_server_that_stops_supporting_ranges_is_read_in_order(tmp_path: Path, action: Action) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(action, nth=3))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


async def test_names_that_change_with_every_answer_cost_the_pieces_and_no_more(tmp_path: Path) -> None:
    etags = iter(f'"{number}"' for number in range(1000))

    class Renamed(Action):
        def on_answer(self, answer: Any, source: Any) -> Any:
            return answer.with_headers({"ETag": next(etags)})

    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(Renamed()))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert sent(server) < 2 * LAYER.size


async def test_an_expired_signature_sends_us_back_to_the_registry(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(Answer(403), nth=[3, 4]))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert 1 < len(asked(server, "quay")) <= 3
    assert sent(server) == LAYER.size


async def test_a_link_that_works_once_is_not_taken_for_a_missing_blob(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(Answer(404), nth=2))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


async def test_a_piece_with_other_bytes_makes_the_blob_start_over_in_order(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(CorruptBody(offset=10), nth=4))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert sent(server) == 2 * LAYER.size
    assert "range" not in asked(server)[-1].headers


async def test_a_piece_that_never_comes_fails_the_image_and_keeps_the_others_for_the_next_run(tmp_path: Path) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(Answer(500), nth=range(4, 40)))
        report = await mirror(server, tmp_path / "mirror")
        assert report.exit_code is ExitCode.PARTIAL
        assert NOVA not in layouts.names(tmp_path / "mirror")
        server.faults.clear()
        server.reset_records()
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert 0 < sent(server) <= LAYER.size - PIECE


@pytest.mark.parametrize("header", ["bytes", "none"])
async def test_the_header_accept_ranges_does_not_matter(tmp_path: Path, header: str) -> None:
    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(on_the_cdn(ExtraHeaders({"Accept-Ranges": header})))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


Claim = Callable[[], tuple[int, int] | None]


@pytest.mark.parametrize("gaps", [[(0, 20)], [(0, 3), (5, 6), (9, 90)], [(0, 7)], []], ids=str)
def test_a_plan_hands_out_every_gap_once_in_order_and_no_crumbs(gaps: list[tuple[int, int]]) -> None:
    wanted = [(start * PIECE, end * PIECE) for start, end in gaps]
    plan = pieces.SegmentPlan(wanted, most=4)
    claimed = [*iter(plan.claim, None)]

    assert claimed == sorted(claimed)
    assert {byte for start, end in claimed for byte in range(start, end, PIECE // 2)} == {
        byte for start, end in wanted for byte in range(start, end, PIECE // 2)
    } or sum(end - start for start, end in claimed) == sum(end - start for start, end in wanted)
    assert all(end - start >= min(PIECE // 2, min(e - s for s, e in wanted)) for start, end in claimed)
    assert plan.left == 0
