"""Images of which ten are broken, each in another way: the others are mirrored, in about the same time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import layouts
import pytest
from organizations import TAG, small_image
from trouble import QUICK, mirror

from quaymirror.errors import ExitCode
from quaymirror.events import Status
from quaymirror.http.retry import RetryPolicy
from quaymirror.http.timeouts import Timeouts
from quaymirror.progress import speeds
from quaymirror.run.report import Report
from quaymirror.testing import (
    Action,
    Blob,
    CorruptBody,
    DribbleBody,
    Fault,
    QuayServer,
    Registry,
    ReplaceBody,
    Reset,
    SourceManifest,
    make_image,
)
from quaymirror.testing import Status as Answer

LAYER = 300_000
# A fault of each broken image; None for those whose manifest is the fault.
WAYS: dict[str, Action | None] = {
    "wrong-bytes": CorruptBody(7),
    "wrong-size": ReplaceBody(b"short"),
    "error-500": Answer(500),
    "closed": Reset(),
    "html": ReplaceBody(b"<html>Log in</html>", "text/html"),
    "cdn-429": Answer(429, {"Retry-After": "86400"}),
    "absurd-claim": None,
    "slow": DribbleBody(200, 0.5),
    "missing": Answer(404, {"Content-Type": "application/json"}, b'{"errors": [{"code": "BLOB_UNKNOWN"}]}'),
    "no-ranges": Answer(501),
}


def absurd() -> SourceManifest:
    """Return an image that claims a layer of exabytes."""
    config, layer = Blob.of(b"{}"), Blob.of(b"absurd")
    entry = {"mediaType": "application/octet-stream", "digest": layer.digest, "size": 2**62}
    image = make_image([], manifest_extra={"layers": [entry]})
    return SourceManifest(image.raw, image.media_type, image.digest, (*image.blobs, config))


def organization_of(good: int, *, bad: bool) -> Registry:
    """Return `good` images, and ten `bad` ones."""
    registry = Registry()
    organization = registry.organization("kolla")
    for number in range(good):
        organization.repository(f"image-{number:02}").push(TAG, small_image(f"image-{number}", LAYER))

    for name in WAYS if bad else ():
        organization.repository(name).push(TAG, small_image(name, LAYER) if WAYS[name] else absurd())

    return registry


def break_ten(server: QuayServer) -> None:
    """Let the ten images fail in their ways: the registry refuses one, the CDN the others."""
    for name, action in WAYS.items():
        if action is not None:
            layer = small_image(name, LAYER).blobs[1].digest
            at_registry = name == "missing"
            path = layer if at_registry else layer.partition(":")[2]
            server.faults.append(Fault(path, action, listener="quay" if at_registry else "cdn"))


async def three_nights(path: Path, good: int, **options: Any) -> tuple[list[float], list[Report]]:
    """Mirror the good images alone, all of them elsewhere, and those again; return the times and the reports."""
    seconds, reports = [], []

    async def night(server: QuayServer, target: Path) -> None:
        began = time.monotonic()
        reports.append(await mirror(server, target, **options))
        seconds.append(time.monotonic() - began)

    async with QuayServer(organization_of(good, bad=False)) as server:
        await night(server, path / "good")

    async with QuayServer(organization_of(good, bad=True)) as server:
        break_ten(server)
        for _ in range(2):
            await night(server, path / "all")

    return seconds, reports


def check(path: Path, good: int, seconds: list[float], reports: list[Report], allowance: float) -> None:
    """Check that only the ten images failed, each with its reason, and what they cost."""
    assert len(layouts.names(path / "all")) == good
    for report in reports[1:]:
        assert report.exit_code is ExitCode.PARTIAL
        assert report.fatal is None
        failed = [outcome for outcome in report.outcomes if outcome.status is Status.FAILED]
        assert {outcome.reference.repository.name.partition("/")[2] for outcome in failed} == {*WAYS}
        assert all(outcome.error is not None and outcome.error.message for outcome in failed)

    alone, together, again = seconds
    assert together <= 2 * alone + allowance
    assert again <= alone + allowance


async def test_ten_broken_images_of_forty_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With short budgets: retries of 1.6 s, and windows of half a second for the slow body."""
    monkeypatch.setattr(speeds, "_SLOW_SECONDS", 0.5)
    nights = await three_nights(tmp_path, 30, retry=RetryPolicy(base=0.05), retries=5, timeouts=QUICK)
    check(tmp_path, 30, *nights, allowance=15)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_ten_broken_images_of_a_hundred_cost_little_in_real_time(tmp_path: Path) -> None:
    nights = await three_nights(tmp_path, 90, retry=RetryPolicy(), retries=5, timeouts=Timeouts())
    check(tmp_path, 90, *nights, allowance=150)
