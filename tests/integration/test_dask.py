"""The example that divides a run over the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import sys
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import peers
import pytest
from organizations import TAG, kolla, unique_bytes
from receiver import Receiver

import quaymirror
from quaymirror import Options, Selection, Share
from quaymirror.testing import QuayServer

EXAMPLE = Path(__file__).parents[2] / "examples/dask/mirror.py"

pytestmark = pytest.mark.timeout(600)


async def test_a_shard_runs_in_the_process_of_a_worker_and_its_report_is_merged(tmp_path: Path) -> None:
    registry, images = kolla(3)
    example, plan = runpy.run_path(str(EXAMPLE)), tmp_path / "plan.json"
    async with QuayServer(registry) as server, Receiver() as target:
        options = Options.of(server=server.url, state=tmp_path / "state")
        await quaymirror.plan_shards(Selection("kolla", "*", TAG), target.address, plan, options)
        words = (plan.read_text(), Share(0, 1), target.address, Options.of(server=server.url))
        report = await anyio.to_thread.run_sync(example["mirror_shard"], *words)
        merged = await example["merge"]([report], tmp_path, tmp_path / "state")

    assert (merged.exit_code, merged.recorded) == (0, len(images))


def test_a_scheduler_that_others_can_reach_needs_tls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["mirror.py", "tcp://scheduler.example:8786", "kolla", "*", TAG, "registry://mirror.example"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    assert "use tls://" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.interop
@pytest.mark.parametrize("percent", [2, 40])
async def test_200_images_arrive_although_a_worker_is_killed(tmp_path: Path, percent: int) -> None:
    distributed = pytest.importorskip("distributed")
    registry, images = kolla(200, layer_size=100_000)
    most, rate = unique_bytes(images), 150.0
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            cluster = await anyio.to_thread.run_sync(
                lambda: distributed.LocalCluster(
                    n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
                )
            )
            with closing(cluster), distributed.Client(cluster) as client:
                workers = list((await anyio.to_thread.run_sync(client.run, os.getpid)).values())
                to = f"registry://{target.host}?insecure=true"
                words = [cluster.scheduler_address, "kolla", "*", TAG, to, "--server", server.url]
                run = await asyncio.create_subprocess_exec(
                    *(sys.executable, str(EXAMPLE), *words, "--state", "state"),
                    *("--max-requests-per-second", str(rate)),
                    cwd=tmp_path,
                    stdout=asyncio.subprocess.PIPE,
                )
                while server.blob_bytes() < most * percent / 100:
                    await anyio.sleep(0.01)

                os.kill(workers[0], signal.SIGKILL)
                out, _ = await run.communicate()

            assert run.returncode == 0
            assert sum(json.loads(out).values()) == len(images)
            assert server.blob_bytes() <= 1.05 * most
            seconds = server.requests[-1].at - server.requests[0].at
            assert len(server.requests) <= 1.02 * rate * seconds

        for name, image in images.items():
            reference = f"docker://{target.host}/kolla/{name}:{TAG}"
            assert peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == image.raw
