"""The limits of users: bytes per second and requests per second, measured at the server."""

from __future__ import annotations

import time
from pathlib import Path

import layouts
import pytest
from organizations import TAG, kolla, small_image, unique_bytes

import quaymirror
from quaymirror import Options, Selection
from quaymirror.errors import ConfigError, ExitCode
from quaymirror.http.timeouts import Timeouts
from quaymirror.settings.texts import parse_rate
from quaymirror.testing import Fault, QuayServer, Registry, Stall

EVERYTHING = Selection("kolla", "*", TAG)


async def test_no_more_bytes_a_second_arrive_than_were_allowed(tmp_path: Path) -> None:
    registry, images = kolla(6, layer_size=150_000)
    total, rate = unique_bytes(images), 1_000_000
    async with QuayServer(registry) as server:
        began = time.monotonic()
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url, limit_rate=rate))
        elapsed = time.monotonic() - began

    assert report.exit_code is ExitCode.OK
    layouts.check(tmp_path / "mirror")
    # All but the last pieces had to wait for their turn; the answers that are no blobs count, too.
    assert total / rate * 0.9 <= elapsed <= total / rate * 1.1 + 1.5


async def test_a_limit_is_no_stall(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, small_image("nova", 60_000))
    async with QuayServer(registry) as server:
        server.faults.append(Fault(".*", Stall(40_000), listener="cdn", times=1))
        settings = Options.of(server=server.url, limit_rate=30_000, timeouts=Timeouts(stall=0.4, headers=2))
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", settings)

    assert report.exit_code is ExitCode.OK


async def test_no_more_requests_a_second_are_sent_than_were_allowed(tmp_path: Path) -> None:
    registry, _ = kolla(8)
    moments: list[float] = []
    async with QuayServer(registry) as server:
        server.on_request = lambda request: moments.append(time.monotonic())
        settings = Options.of(server=server.url, max_requests_per_second=40)
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", settings)

    assert report.exit_code is ExitCode.OK
    assert len(moments) >= 40
    # Half a second of slack is for a machine that is busy with other things.
    for first in range(0, len(moments), 10):
        for last in range(first, len(moments)):
            assert last - first <= 40 * (moments[last] - moments[first] + 0.5)

    assert (len(moments) - 1) / 40 * 0.95 <= moments[-1] - moments[0]


@pytest.mark.parametrize(
    ("text", "rate"),
    [("500K", 512_000), ("20M", 20 * 2**20), ("1.5 MiB", 3 * 2**19), ("10MB/s", 10 * 2**20), ("4096", 4096)],
)
def test_rates_are_written_in_many_ways(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-5K", "5X", "1e6", "\uff15K", "5 K M"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write bytes per second"):
        parse_rate(text)


@pytest.mark.parametrize("values", [{"limit_rate": 0}, {"max_requests_per_second": 0}, {"limit_rate": 2**60}], ids=str)
def test_limits_that_make_no_sense_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be between"):
        Options.of(**values)
