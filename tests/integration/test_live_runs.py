"""The forecasts and the dashboard of real runs."""

from __future__ import annotations

import io
import time
from pathlib import Path

import anyio
import pytest
from organizations import TAG
from rich.console import Console

import quaymirror
from quaymirror import Options, Selection
from quaymirror.progress.combined import CombinedProgress
from quaymirror.progress.forecast import seconds_left
from quaymirror.progress.rates import Rates
from quaymirror.progress.run import RunProgress
from quaymirror.run.sync import run_sync
from quaymirror.testing import QuayServer, Registry, kolla_like
from quaymirror.ui.dashboard import Dashboard

RATE = 8 * 1024 * 1024
EVERYTHING = Selection("kolla", "*", TAG)


def organization(count: int, layer_size: int) -> Registry:
    registry = Registry()
    for name, image in kolla_like(count, layer_size=layer_size).items():
        registry.organization("kolla").repository(name).push(TAG, image)

    return registry


@pytest.mark.soak
async def test_the_time_left_of_a_throttled_run_is_known_after_a_tenth_of_it(tmp_path: Path) -> None:
    progress, rates = RunProgress(), Rates()
    estimates: list[tuple[float, float | None]] = []

    async def sample() -> None:
        while True:
            now = time.monotonic()
            rates.sample(now, progress.meters.fetched_bytes)
            estimates.append((now, seconds_left(progress, rates.speeds.steady, now)))
            await anyio.sleep(0.1)

    async with QuayServer(organization(120, 1_000_000), latency=0.02) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(sample)
        options = Options.of(server=server.url, limit_rate=RATE)
        begun = time.monotonic()
        report = await run_sync(EVERYTHING, tmp_path / "mirror", options, progress=progress)
        ended = time.monotonic()
        tasks.cancel_scope.cancel()

    assert report.exit_code == 0
    assert ended - begun > 15
    # The first seconds of a rate are not known at once; the last second rounds.
    late = [(at, left) for at, left in estimates if begun + (ended - begun) / 10 <= at <= ended - 1.5]
    wrong = [
        (at - begun, left) for at, left in late if left is None or abs(left - (ended - at)) > 0.3 * (ended - at) + 1
    ]
    assert not wrong, (ended - begun, wrong[:10])


@pytest.mark.soak
async def test_a_dashboard_of_3000_images_costs_at_most_3_percent(tmp_path: Path) -> None:
    """The time in frames of a real run with 64 images in flight, on a console that a file stands for."""
    registry = Registry()
    images = [*kolla_like(100, layer_size=2_000).values()]
    for number in range(3_000):
        registry.organization("kolla").repository(f"image-{number:04}").push(TAG, images[number % 100])

    progress = RunProgress()
    console = Console(file=io.StringIO(), force_terminal=True, width=200, height=50)
    dashboard = Dashboard(CombinedProgress([progress]), console=console)
    spent = 0.0
    show = dashboard._screen.show

    def measured(*arguments: object) -> None:
        nonlocal spent
        begun = time.thread_time()
        show(*arguments)  # type: ignore[arg-type]
        spent += time.thread_time() - begun

    dashboard._screen.show = measured  # type: ignore[method-assign, assignment]
    async with QuayServer(registry) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.run)
        begun = time.monotonic()
        options = quaymirror.Options.of(server=server.url)
        await run_sync(EVERYTHING, tmp_path / "mirror", options, progress=progress)
        elapsed = time.monotonic() - begun
        tasks.cancel_scope.cancel()

    assert progress.done == 3_000
    assert spent <= 0.03 * elapsed, (spent, elapsed)
