"""The helper process is killed during a run: nothing is lost, and hardly anything is fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest
from helping import started, takes_everything
from organizations import TAG
from trouble import messages, mirror

from quaymirror import Status
from quaymirror.errors import ExitCode
from quaymirror.events import BlobFinished, Event
from quaymirror.http.helper import Helper
from quaymirror.testing import QuayServer, Registry, make_image, make_layer

COUNT = 100
SHARED = [make_layer(f"shared {number}", 60_000) for number in range(5)]
IMAGES = [make_image([SHARED[number % len(SHARED)], make_layer(f"own {number}", 60_000)]) for number in range(COUNT)]


def organization() -> Registry:
    registry = Registry()
    for number, image in enumerate(IMAGES):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    return registry


@pytest.mark.parametrize("share", [0.02, 0.4])
async def test_a_run_goes_on_without_its_helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float) -> None:
    monkeypatch.setattr(Helper, "takes", takes_everything)
    contents = {blob.digest: blob.size for image in IMAGES for blob in image.blobs}
    finished = 0

    def kill(event: Event) -> None:
        nonlocal finished
        finished += isinstance(event, BlobFinished)
        if finished == int(share * len(contents)):
            process = started[-1]._process
            assert process is not None
            process.kill()

    async with QuayServer(organization()) as server:
        report = await mirror(server, tmp_path / "mirror", kill, layer_concurrency=2)
        sent = sum(request.body_bytes_sent for request in server.requests if request.listener == "cdn")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert report.counts[Status.MIRRORED] == COUNT
    assert not started[-1].is_ready
    assert sent <= 1.05 * sum(contents.values())
