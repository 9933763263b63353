"""Three hundred repositories on a server with one fault in twenty answers: all of them are mirrored."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import layouts
import pytest
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.errors import ExitCode
from quaymirror.http.retry import RetryPolicy
from quaymirror.http.timeouts import Timeouts
from quaymirror.testing import (
    CorruptBody,
    CutBody,
    Fault,
    QuayServer,
    Reset,
    ShortBody,
    Stall,
    bad_gateway,
    too_many_requests,
)
from quaymirror.testing import Status as Answer

_SHARE = 0.05
_RUNS = [(0, 100), *(pytest.param(seed, 300, marks=pytest.mark.soak) for seed in range(20))]
# The factor by which waits for the server are shorter than on the clock.
_HURRY = 20.0


def chaos(server: QuayServer) -> list[Fault]:
    """Return faults for one answer in twenty, of eight kinds with equal probability."""
    challenge = {"WWW-Authenticate": f'Bearer realm="{server.url}/v2/auth",service="{server.host}"'}
    actions = [
        ("", too_many_requests()),
        ("", bad_gateway()),
        ("", CutBody(100)),
        ("", ShortBody(100)),
        ("", Reset()),
        ("", Stall(50)),
        ("/manifests/|/blob", CorruptBody(77)),
        ("^/v2/kolla", Answer(401, challenge)),
    ]
    return [Fault(path, action, probability=_SHARE / len(actions)) for path, action in actions]


async def _hurried_sleep(seconds: float) -> None:
    await anyio.sleep(seconds / _HURRY)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("seed", "count"), _RUNS)
async def test_every_image_arrives(seed: int, count: int, tmp_path: Path) -> None:
    registry, images = kolla(count // 5)
    extra = count - len(images)
    for number in range(extra):
        image = small_image(f"extra {number % (extra // 3)}")
        registry.organization("kolla").repository(f"extra-{number}").push(TAG, image)

    async with QuayServer(registry, seed=seed, require_token=True) as server:
        server.faults.extend(chaos(server))
        settings = Options.of(
            server=server.url,
            timeouts=Timeouts(connect=2, headers=0.5, stall=0.5, total=2),
            retry=RetryPolicy(clock=lambda: time.monotonic() * _HURRY, sleep=_hurried_sleep),
        )
        report = await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "mirror", settings)
        asked, failed = len(server.requests), sum(fault.fired for fault in server.faults)

    problems = [outcome.error.message for outcome in report.outcomes if outcome.error is not None]
    assert (report.exit_code, problems, report.fatal) == (ExitCode.OK, [], None)
    assert len(layouts.names(tmp_path / "mirror")) == len(images) + extra
    layouts.check(tmp_path / "mirror")
    assert failed >= 0.03 * asked
    assert asked <= 1.3 * (asked - failed), "one fault costs no avalanche of requests"
