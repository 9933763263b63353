"""Servers that request pauses: all forms of `Retry-After`, and pauses without end."""

from __future__ import annotations

from pathlib import Path

import layouts
import pytest
from aiohttp import web
from organizations import kolla, small_image
from trouble import GLANCE, NOVA, Impatient, messages, mirror, two_images

from quaymirror.errors import ExitCode
from quaymirror.events import Event, RetryScheduled
from quaymirror.testing import Call, Fault, QuayServer, Raw, ReplaceBody, Stall, bad_gateway, too_many_requests
from quaymirror.testing.recording import Listener

MANIFESTS = "^/v2/kolla/nova/manifests/"
LAYER = small_image("nova", 400_000).blobs[1].digest.partition(":")[2]
HEAD = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n"

# Values that are neither seconds nor a date are ignored: the usual back-off applies.
ZOO = {
    "digits of another script": "Retry-After: \uff11\uff12\uff10".encode(),
    "an underscore": b"Retry-After: 1_0",
    "a plus": b"Retry-After: +5",
    "a hexadecimal number": b"Retry-After: 0x10",
    "a fraction": b"Retry-After: 1.5",
    "30 digits": b"Retry-After: " + b"9" * 30,
    "two fields": b"Retry-After: 1\r\nRetry-After: 3600",
    "a list": b"Retry-After: 1, 2",
    "nothing": b"Retry-After:",
    "no UTF-8": b"Retry-After: \xff\xfe",
    "a date without a zone": b"Retry-After: Tue, 24 Nov 2020 12:00:00",
    "asctime's date": b"Retry-After: Tue Nov 24 12:00:00 2020",
    "a date of another calendar": b"Retry-After: Tue, 99 Foo 20200 99:99:99 GMT",
    "the year 1": b"Retry-After: Mon, 01 Jan 0001 00:00:00 GMT",
}


@pytest.mark.parametrize("name", ZOO)
async def test_the_run_completes_with_any_retry_after(name: str, tmp_path: Path) -> None:
    clock = Impatient()
    async with QuayServer(two_images()) as server:
        server.faults.append(fault := Fault(MANIFESTS, Raw(HEAD + ZOO[name] + b"\r\n\r\n"), times=2))
        report = await mirror(server, tmp_path / "mirror", retry=clock.policy())

    assert fault.fired == 2
    assert report.exit_code is ExitCode.OK, messages(report)
    assert clock.now < 120


@pytest.mark.parametrize("seed", range(3))
async def test_a_third_of_all_answers_429_is_survived(seed: int, tmp_path: Path) -> None:
    registry, images = kolla(12)
    async with QuayServer(registry, seed=seed) as server:
        server.faults.append(fault := Fault("", too_many_requests(), probability=0.3))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert sum(trouble.throttled for trouble in report.hosts.values()) == fault.fired > 0
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


@pytest.mark.parametrize("answer", [too_many_requests("7"), bad_gateway(503, "Closed")], ids=["429", "503"])
@pytest.mark.parametrize("path", ["^/api/", "^/v2/"], ids=["the API", "the registry"])
async def test_a_server_that_is_busy_for_ever_is_given_up(answer: object, path: str, tmp_path: Path) -> None:
    retries: list[Event] = []
    async with QuayServer(two_images()) as server:
        server.faults.append(fault := Fault(path, answer))  # type: ignore[arg-type]
        report = await mirror(
            server,
            tmp_path / "mirror",
            lambda event: retries.append(event) if isinstance(event, RetryScheduled) else None,
            retries=8,  # which take long enough for it to count as down, however the waits are drawn
        )

    assert report.exit_code is ExitCode.UNAVAILABLE, messages(report)
    assert any("429" in message or "503" in message for message in messages(report))
    assert retries
    assert fault.fired < 2_000
    assert layouts.names(tmp_path / "mirror") == {} or not (tmp_path / "mirror").exists()


async def test_a_pause_above_the_limit_is_reported_immediately(tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/api/v1/repository$", too_many_requests("3600")))
        report = await mirror(server, tmp_path / "mirror")
        assert len(server.requests) == 1

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "3,600 s" in messages(report)[0] or "3600 s" in messages(report)[0]


async def test_a_mix_of_errors_is_survived(tmp_path: Path) -> None:
    registry, images = kolla(12)
    async with QuayServer(registry, seed=7) as server:
        for status in (408, 500, 502, 503, 504, 521):
            server.faults.append(Fault("", bad_gateway(status, "No"), probability=0.03))

        report = await mirror(server, tmp_path / "mirror", retries=8)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


@pytest.mark.parametrize("body", [b'{"error": "busy"}', b"[]", b"", b"null", b'{"tags": {}}', b"\xff\xfe\x00"])
async def test_an_error_with_status_200_is_an_error(body: bytes, tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("/kolla/nova/tag/$", ReplaceBody(body)))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


@pytest.mark.parametrize("path", [MANIFESTS, LAYER, "/kolla/nova/tag/$"])
async def test_silences_shorter_than_a_minute_are_retried_as_other_failures(path: str, tmp_path: Path) -> None:
    """Five silences in a row of each kind of request; the timeouts of this run are half a second."""
    listener: Listener = "cdn" if path == LAYER else "quay"
    async with QuayServer(two_images()) as server:
        server.faults.append(fault := Fault(path, Stall(0), times=5, listener=listener))
        report = await mirror(server, tmp_path / "mirror", retries=5)

    assert fault.fired == 5
    assert report.exit_code is ExitCode.OK, messages(report)


async def test_a_pause_requested_once_applies_to_all_requests(tmp_path: Path) -> None:
    asked: list[float] = []
    clock = Impatient()

    def busy(_: web.BaseRequest) -> web.Response | None:
        asked.append(clock.now)
        return web.Response(status=429, headers={"Retry-After": "60"}) if len(asked) == 1 else None

    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/v2/", Call(busy)))
        report = await mirror(server, tmp_path / "mirror", retry=clock.policy())

    assert report.exit_code is ExitCode.OK, messages(report)
    assert {NOVA, GLANCE} == {*layouts.names(tmp_path / "mirror")}
    assert sum(moment - asked[0] < 59 for moment in asked) <= 2, "what was under way already"
