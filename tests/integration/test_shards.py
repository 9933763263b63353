"""One plan, several processes: shards push to docker-registry, and every blob comes from the source once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import peers
import pytest
import yaml
from organizations import TAG, kolla, unique_bytes

from quaymirror.testing import QuayServer, SourceManifest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


EXAMPLES = Path(__file__).parents[2] / "examples"
LAYER = 4096


class Site:
    """A source, a registry, and the command line between them."""

    def __init__(self, server: QuayServer, target: peers.DockerRegistry, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.address = f"registry://{target.host}?insecure=true"
        self.host = target.host

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        environment = os.environ | {"XDG_STATE_HOME": str(self.directory / "xdg")}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quaymirror", *words),
            cwd=self.directory,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str) -> tuple[int, str, str]:
        process = await self.start(*words)
        out, error = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), error.decode()

    async def run_well(self, *words: str) -> str:
        code, out, error = await self.run(*words)
        assert code == 0, error
        return out

    async def plan(self, *words: str) -> tuple[int, str, str]:
        words = ("sync", "kolla", "*", TAG, "--server", self.server.url, "--to", self.address, *words)
        return await self.run(*words, "--plan-only", "plan.json", "--progress", "none", "--state", "state")

    def shard_words(self, index: int, count: int, *words: str) -> list[str]:
        own = ["--shard", f"{index}/{count}", "--state", f"shard-{index}", "--report", f"report-{index}.json"]
        return ["sync", "--plan", "plan.json", *own, "--to", self.address, "--progress", "none", *words]

    def example_words(self, index: int) -> list[str]:
        """Return the command line of the example for Kubernetes, which is for three shards, as one of two."""
        document = next(yaml.safe_load_all((EXAMPLES / "kubernetes/shards.yaml").read_text()))
        words: list[str] = document["spec"]["template"]["spec"]["containers"][0]["args"]
        text = " ".join(words).replace("$(JOB_COMPLETION_INDEX)/3", f"{index}/2")
        text = text.replace("$(JOB_COMPLETION_INDEX)", str(index)).replace("/plan/", "")
        return [*text.replace("registry://mirror.example/quay", self.address).split(), "--progress", "none"]

    async def kill_after(self, blobs: int, process: asyncio.subprocess.Process) -> None:
        """Kill a shard whose events are lines of its standard output once it has brought some blobs."""
        assert process.stdout is not None
        async for line in process.stdout:
            blobs -= b'"blob_finished"' in line
            if blobs <= 0:
                break

        process.kill()
        await process.wait()

    def check_pulled(self, images: Mapping[str, SourceManifest]) -> None:
        """Let skopeo read every image."""
        for name, image in images.items():
            reference = f"docker://{self.host}/kolla/{name}:{TAG}"
            assert peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == image.raw


async def test_shards_fetch_each_blob_once_and_a_killed_one_does_only_what_is_missing_when_it_runs_again(
    tmp_path: Path,
) -> None:
    registry, images = kolla(12, layer_size=LAYER)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            site = Site(server, target, tmp_path)
            code, _, error = await site.plan()
            assert code == 0, error
            assert server.blob_bytes() == 0
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(site.run_well, *site.example_words(1))
                words = [word if word != "none" else "json" for word in site.shard_words(0, 2)]
                await site.kill_after(4, await site.start(*words, "--layer-concurrency", "1"))
                await site.run_well(*site.shard_words(0, 2))

            # The killed shard may have begun one blob twice.
            assert unique_bytes(images) <= server.blob_bytes() <= unique_bytes(images) + LAYER
            code, _, error = await site.run("merge-reports", "report-1.json")
            assert (code, error) == (3, "quaymirror: shard 0 has no report: run it again\n")
            site.check_pulled(images)
            server.reset_records()
            joined = await site.run_well("merge-reports", "report-0.json", "report-1.json", "--state", "state")
            assert joined.startswith("12 images: 12 mirrored")
            target.forget()
            night = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", site.address, "--state", "state")
            await site.run_well(*night, "--progress", "none", "--report", "night.json")
            report = json.loads((tmp_path / "night.json").read_text())
            assert report["images"] == {"mirrored": 0, "unchanged": 12, "skipped": 0, "failed": 0}
            assert report["changes"]["came"] == report["changes"]["gone"] == report["changes"]["moved"] == []
            assert server.count("^/v2/") == 0
            assert [request.path for request in target.requests()] == ["/v2/"]
