"""Servers that support ranges in part, or not at all: the blob arrives, and what has arrived is kept where possible."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from organizations import small_image
from trouble import messages, mirror, two_images

from quaymirror.errors import ExitCode
from quaymirror.testing import Call, CutBody, Fault, QuayServer, Redirect
from quaymirror.transfer import segments

BIG = small_image("large", 6_500_000)
LAYER = BIG.blobs[1]
HEX = LAYER.digest.partition(":")[2]
CAP = 256 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

Answer = Callable[[web.BaseRequest], web.Response | None]


def refused(status: int) -> Answer:
    """Answer every range with `status`."""
    return lambda request: web.Response(status=status) if "Range" in request.headers else None


def capped(request: web.BaseRequest) -> web.Response | None:
    """Answer at most 256 KiB of a range."""
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if found is None:
        return None

    start = int(found[1])
    end = min(start + CAP, int(found[2] or LAYER.size - 1) + 1)
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{LAYER.size}"}
    return web.Response(status=206, headers=headers, body=LAYER.data[start:end])


def closed_only(request: web.BaseRequest) -> web.Response | None:
    """Refuse ranges without an end."""
    return web.Response(status=416) if request.headers.get("Range", "").endswith("-") else None


SERVERS: dict[str, Answer] = {
    "400": refused(400),
    "416": refused(416),
    "500": refused(500),
    "501": refused(501),
    "at most 256 KiB": capped,
    "416 to open ranges": closed_only,
}


@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("in_segments", [True, False], ids=["in segments", "in order"])
@pytest.mark.parametrize("name", SERVERS)
async def test_a_blob_arrives_from_a_server_with_few_ranges(
    name: str, in_segments: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer breaks off, so that the rest is requested."""
    if in_segments:
        monkeypatch.setattr(segments, "_LEAST_BYTES", 1_000_000)
        monkeypatch.setattr(segments, "_FAR_SECONDS", 0.0)

    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(Fault(HEX, Call(SERVERS[name]), listener="cdn"))
        server.faults.append(Fault(HEX, CutBody(2_100_000), listener="cdn", nth=1))
        report = await mirror(server, tmp_path / "mirror")
        sent = sum(request.body_bytes_sent for request in server.requests if request.listener == "cdn")

    assert report.exit_code is ExitCode.OK, messages(report)
    whole = name in ("400", "416", "500", "501") or in_segments
    assert sent <= LAYER.size + 10_000 + (2_600_000 if whole else 600_000), "what is in flight may be lost"


@pytest.mark.usefixtures("receivers")
async def test_a_server_that_sends_hardly_anything_of_a_range_is_asked_for_everything(tmp_path: Path) -> None:
    def stingy(request: web.BaseRequest) -> web.Response | None:
        found = _RANGE.fullmatch(request.headers.get("Range", ""))
        if found is None:
            return None

        start = int(found[1])
        headers = {"Content-Range": f"bytes {start}-{start}/{LAYER.size}"}
        return web.Response(status=206, headers=headers, body=LAYER.data[start : start + 1])

    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(Fault(HEX, Call(stingy), listener="cdn"))
        server.faults.append(Fault(HEX, CutBody(2_100_000), listener="cdn", nth=1))
        report = await mirror(server, tmp_path / "mirror")
        assert server.count(HEX, listener="cdn") < 10

    assert report.exit_code is ExitCode.OK, messages(report)


@pytest.mark.parametrize(("redirects", "code"), [(1, ExitCode.OK), (5, ExitCode.OK), (6, ExitCode.PARTIAL)], ids=str)
async def test_five_redirects_are_followed(redirects: int, code: ExitCode, tmp_path: Path) -> None:
    def further(request: web.BaseRequest) -> web.Response:
        number = int(request.path.rpartition("/")[2])
        if number == redirects:
            return web.Response(body=LAYER.data)

        return web.Response(status=302, headers={"Location": f"/hop/{number + 1}"})

    async with QuayServer(two_images(BIG)) as server:
        server.faults.append(Fault(f"/blobs/.*{HEX}", Redirect(f"{server.cdn_url}/hop/1"), listener="quay"))
        server.faults.append(Fault("^/hop/", Call(further), listener="cdn"))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is code, messages(report)
