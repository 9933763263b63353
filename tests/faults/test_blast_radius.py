"""One image or one host that fails costs that image, and neither the time nor the success of the others."""

from __future__ import annotations

import asyncio
import os
import random
import re
from pathlib import Path
from typing import Any

import layouts
import pytest
from clocks import running_clock
from organizations import TAG, small_image
from trouble import Impatient, messages, mirror

from quaymirror.errors import ExitCode
from quaymirror.http.retry import RetryPolicy
from quaymirror.progress import speeds
from quaymirror.testing import (
    Action,
    Blob,
    CorruptBody,
    CutBody,
    DribbleBody,
    Fault,
    Hold,
    QuayServer,
    Redirect,
    Registry,
    ReplaceBody,
    Reset,
    SourceManifest,
    make_image,
    make_layer,
)
from quaymirror.testing import Status as Answer
from quaymirror.testing.recording import RequestRecord

# The retries of one operation wait 0.8 s; a host that fails most requests is left alone for 2 s, then for 4 s.
BUDGET_S = 8.0


def many(good: int, bad: int) -> Registry:
    """Return an organization of `good` images, and of `bad` ones whose names say so."""
    registry = Registry()
    for name in (*(f"good-{n}" for n in range(good)), *(f"bad-{n}" for n in range(bad))):
        registry.organization("kolla").repository(name).push(TAG, small_image(name))

    return registry


FOREVER = {
    "no answer to a blob": Fault("^/v2/kolla/bad-.*/blobs/", Answer(500)),
    "no gateway to a blob": Fault("^/v2/kolla/bad-.*/blobs/", Answer(502)),
    "closed connections": Fault("^/v2/kolla/bad-.*/blobs/", Reset()),
    "no answer to a manifest": Fault("^/v2/kolla/bad-.*/manifests/", Answer(500)),
    "no answer to a tag": Fault("^/api/v1/repository/kolla/bad-.*/tag", Answer(500)),
}


@pytest.mark.parametrize("name", FOREVER)
async def test_images_that_fail_forever_cost_the_retries_of_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More images fail than the run has workers, in a quiet night: all others are there already."""
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    registry = many(3, 0)
    async with running_clock() as clock, QuayServer(registry) as server:
        retry = RetryPolicy(base=0.05, clock=clock, sleep=clock.sleep)
        options: dict[str, Any] = {"retry": retry, "retries": 5, "concurrency": 2}
        await mirror(server, tmp_path / "mirror", **options)
        for number in range(24):
            registry.organization("kolla").repository(f"bad-{number}").push(TAG, small_image(f"bad-{number}"))

        server.faults.append(FOREVER[name])
        began = clock.now
        report = await mirror(server, tmp_path / "mirror", **options)

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert len(layouts.names(tmp_path / "mirror")) == 3
    assert len(messages(report)) == 24
    assert clock.now - began < BUDGET_S


SHARED = make_layer("shared", 700_000)
OWN_S = "^/v2/kolla/bad/blobs/" + SHARED.blob.digest
WRONG: dict[str, list[Action]] = {
    "other bytes": [CorruptBody(9)],
    "other bytes, then nothing": [CorruptBody(9), CutBody(600_000)],
    "too few bytes": [ReplaceBody(b"short")],
    "a login page": [ReplaceBody(b"<html>Log in</html>", "text/html")],
    "an error": [Answer(500)],
    "a refusal": [Answer(403)],
    "no such request": [Answer(400)],
    "closed connections": [Reset()],
    "an answer that has no meaning": [Answer(204)],
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_layer_that_one_repository_has_wrong_comes_from_another(name: str, tmp_path: Path) -> None:
    registry = Registry()
    for repository in ("bad", "good"):
        image = make_image([SHARED, make_layer(repository, 1000)])
        registry.organization("kolla").repository(repository).push(TAG, image)

    begun, joined = asyncio.Event(), asyncio.Event()

    def watch(request: RequestRecord) -> None:
        if re.search(OWN_S, request.path):
            begun.set()
        elif request.path.startswith("/v2/kolla/good/blobs/"):
            asyncio.get_running_loop().call_later(0.05, joined.set)  # now it waits for the layer

    async with QuayServer(registry, redirect_blobs=False, on_request=watch) as server:
        server.faults += [Fault("^/v2/kolla/good/manifests/", Hold(begun)), Fault(OWN_S, Hold(joined))]
        server.faults += [Fault(OWN_S, action) for action in WRONG[name]]
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [f"kolla/good:{TAG}"]
    assert len(messages(report)) == 1


CLOSED = {
    "429": Answer(429, {"Retry-After": "86400"}),
    "503": Answer(503, {"Retry-After": "86400"}),
    "429 without an end": Answer(429),
    "five minutes": Answer(429, {"Retry-After": "300"}),
    "down": Answer(503),
    "closed connections": Reset(),
}


@pytest.mark.parametrize("name", CLOSED)
async def test_a_link_to_a_cdn_that_is_closed_fails_its_image_only(name: str, tmp_path: Path) -> None:
    registry, clock = many(6, 1), Impatient()
    bad = small_image("bad-0").blobs[1].digest.partition(":")[2]
    async with QuayServer(registry) as server:
        server.faults.append(Fault(bad, CLOSED[name], listener="cdn"))
        report = await mirror(server, tmp_path / "mirror", retry=clock.policy())

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert report.fatal is None
    assert len(layouts.names(tmp_path / "mirror")) == 6, messages(report)


@pytest.mark.parametrize("name", CLOSED)
async def test_a_cdn_that_is_closed_fails_the_images_that_need_it_and_not_the_run(name: str, tmp_path: Path) -> None:
    """The second night; another image is redirected elsewhere, or needs nothing."""
    registry, clock = many(2, 0), Impatient()
    async with QuayServer(registry) as server, QuayServer(Registry()) as cdn:
        await mirror(server, tmp_path / "mirror")
        for image in ("bad-0", "bad-1", "good-2"):
            registry.organization("kolla").repository(image).push(TAG, small_image(image))

        cdn.faults.append(Fault("", CLOSED[name]))
        server.faults.append(Fault("^/v2/kolla/bad-.*/blobs/", Redirect(f"{cdn.url}/somewhere")))
        report = await mirror(server, tmp_path / "mirror", retry=clock.policy())

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert report.fatal is None
    assert len(layouts.names(tmp_path / "mirror")) == 3, messages(report)
    assert len(cdn.requests) < 60


def claiming(name: str, size: int) -> SourceManifest:
    """Return an image that claims `size` bytes for its layer, which it does not have."""
    config, layer = Blob.of(b"{}"), Blob.of(name.encode())
    entry = {"mediaType": "application/octet-stream", "digest": layer.digest, "size": size}
    image = make_image([], manifest_extra={"layers": [entry]})
    return SourceManifest(image.raw, image.media_type, image.digest, (*image.blobs, config))


@pytest.mark.parametrize("claim", ["exabytes", "all that is free", "half of it"])
async def test_sizes_that_images_claim_take_no_space_from_others(claim: str, tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    size = {"exabytes": 2**62, "all that is free": free - 50_000_000, "half of it": free // 2}[claim]
    registry = many(8, 0)
    for number in range(4):
        registry.organization("kolla").repository(f"bad-{number}").push(TAG, claiming(f"bad-{number}", size))

    async with QuayServer(registry) as server:
        server.faults.append(Fault("^/v2/kolla/bad-.*/blobs/", Answer(500)))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert len(layouts.names(tmp_path / "mirror")) == 8


@pytest.mark.parametrize(
    ("times", "code"), [(1, ExitCode.OK), (None, ExitCode.PARTIAL)], ids=["one connection", "every connection"]
)
async def test_a_body_much_slower_than_the_others_of_its_host_is_reopened_once(
    times: int | None, code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "_SLOW_SECONDS", 0.4)
    registry = Registry()
    for name in ("bad", "good-0", "good-1", "good-2"):
        registry.organization("kolla").repository(name).push(TAG, small_image(name, 600_000))

    layer = small_image("bad", 600_000).blobs[1].digest.partition(":")[2]
    async with QuayServer(registry) as server:
        server.faults.append(fault := Fault(layer, DribbleBody(1000, 0.05), listener="cdn", times=times))
        report = await mirror(server, tmp_path / "mirror")
        peers = {request.peer for request in server.requests if layer in request.path and request.listener == "cdn"}

    assert report.exit_code is code, messages(report)
    assert len(layouts.names(tmp_path / "mirror")) == (4 if code is ExitCode.OK else 3)
    assert fault.fired == times or fault.fired == 2
    assert len(peers) == 2
    assert code is ExitCode.OK or "others from there" in messages(report)[0]


async def test_no_body_is_given_up_if_all_are_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over a slow link: below the least speed, but so are the others."""
    monkeypatch.setattr(speeds, "_SLOW_SECONDS", 0.4)
    monkeypatch.setattr(speeds, "_LEAST_SECONDS", 0.05)
    monkeypatch.setattr(speeds, "_SLOW_BYTES_PER_SECOND", 10_000_000)
    registry = Registry()
    for name in ("one", "two", "three"):
        registry.organization("kolla").repository(name).push(TAG, small_image(name, 60_000))

    async with QuayServer(registry, bandwidth=40_000) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
