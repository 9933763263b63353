"""One plan, several processes: shards push to docker-registry, and every blob comes from the source once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

import anyio
import anyio.lowlevel
import click
import peers
import pytest
import yaml
from click.testing import CliRunner
from crashes import kill_after
from organizations import TAG, kolla, unique_bytes
from receiver import Breakage, Receiver, Request

import quaymirror
from quaymirror import Options, RetryPolicy, Selection, Share
from quaymirror.cli.main import main
from quaymirror.errors import ConfigError, ExitCode
from quaymirror.events import Event, Notice
from quaymirror.testing import QuayServer, SourceManifest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


EXAMPLES = Path(__file__).parents[2] / "examples"
LAYER = 4096
PLAN = {
    "plan_version": 1,
    "run_id": "5eed",
    "created": "2026-03-03T00:00:00+00:00",
    "server": "https://quay.io",
    "selections": [],
    "platforms": [],
    "renames": [],
    "exit_code": 0,
    "repositories": {"listed": 1, "matched": 1, "rejected": 0, "skipped": {}},
    "unmatched": [],
    "failed_checks": [],
    "blobs": [],
    "images": [
        {"registry": "quay.io", "repository": "kolla/nova", "tag": TAG, "digest": f"sha256:{'0' * 64}", "blobs": None}
    ],
}


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
                await kill_after(4, await site.start(*words, "--layer-concurrency", "1"))
                await site.run_well(*site.shard_words(0, 2))

            # One blob was in flight.
            assert unique_bytes(images) <= server.blob_bytes() <= unique_bytes(images) + LAYER
            code, _, error = await site.run("merge-reports", "report-1.json")
            assert (code, error) == (3, "quaymirror: shard 0 has no report: run it again\n")
            site.check_pulled(images)
            server.reset_records()
            joined = await site.run_well("merge-reports", "report-0.json", "report-1.json", "--state", "state")
            # The killed shard may have completed some.
            assert re.match("12 images: (12 mirrored|[0-9]+ mirrored, [0-9]+ unchanged);", joined), joined
            target.forget()
            night = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", site.address, "--state", "state")
            await site.run_well(*night, "--progress", "none", "--report", "night.json")
            report = json.loads((tmp_path / "night.json").read_text())
            assert report["images"] == {"mirrored": 0, "unchanged": 12, "skipped": 0, "failed": 0, "refused": 0}
            assert report["changes"]["came"] == report["changes"]["gone"] == report["changes"]["moved"] == []
            assert server.count("^/v2/") == 0
            assert [request.path for request in target.requests()] == ["/v2/"]


async def test_a_shard_fetches_the_next_blob_only_when_one_in_flight_is_at_the_target(tmp_path: Path) -> None:
    registry, _ = kolla(8, layer_size=LAYER)
    plan, in_flight = tmp_path / "plan.json", list[int]()
    async with QuayServer(registry) as server, Receiver() as target:

        def count(_: Request) -> None:
            stored = {digest for blobs in target.blobs.values() for digest in blobs}
            in_flight.append(server.count("^/blob/", listener="cdn") - len(stored))

        target.breakages = [Breakage("PUT", "/blobs/uploads/", count, nth=0)]
        options = Options.of(server=server.url, state=tmp_path / "state", layer_concurrency=2)
        await quaymirror.plan_shards(Selection("kolla", "*", TAG), target.address, plan, options)
        report = await quaymirror.sync_shard(plan, Share(0, 1), target.address, options)
        assert report.exit_code is ExitCode.OK

    assert max(in_flight) == 2


class _Hurried:
    """A clock that runs as far as its sleepers want."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await anyio.lowlevel.checkpoint()


async def test_the_blobs_of_a_silent_shard_are_brought_by_one_that_needs_them(tmp_path: Path) -> None:
    registry, images = kolla(8, layer_size=LAYER)
    plan, notices = tmp_path / "plan.json", set[str]()
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address, clock = f"registry://{target.host}?insecure=true", _Hurried()
            options = Options.of(
                server=server.url, state=tmp_path / "state", retry=RetryPolicy(clock=clock, sleep=clock.sleep)
            )
            await quaymirror.plan_shards(Selection("kolla", "*", TAG), address, plan, options)

            def observe(event: Event) -> None:
                if isinstance(event, Notice):
                    notices.add(event.message)

            reports = [
                await quaymirror.sync_shard(
                    plan, Share(index, 2), address, options.replace(state=tmp_path / str(index)), observer=observe
                )
                for index in range(2)
            ]
            assert [report.exit_code for report in reports] == [ExitCode.OK, ExitCode.OK]
            assert sum(len(report.outcomes) for report in reports) == len(images)
            assert "shard 1 is silent: its blobs are brought by others" in notices
            assert clock.now >= 1600
            # No blob is fetched twice: the second shard finds those that were brought for it.
            assert server.blob_bytes() == unique_bytes(images)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kolla", "--to", "mirror", "--plan-only", "p"], "shards can't share mirror"),
        (["--plan", "plan.json", "--to", "registry://r.example"], "--plan FILE and --shard I/N go together"),
        (["--plan", "plan.json", "--shard", "2/2", "--to", "registry://r.example"], "not a shard: '2/2'"),
        (["--plan", "plan.json", "--shard", "0/2", "--to", "mirror"], "shards can't share mirror"),
        (["kolla", "--plan", "plan.json", "--shard", "0/2"], "--plan is a whole selection"),
        (["--plan", "broken.json", "--shard", "0/2", "--to", "registry://r.example"], "is not a plan"),
        (["--plan", "other.json", "--shard", "0/2", "--to", "registry://r.example"], "not a plan of version 1"),
        (["--plan", "plan.json", "--shard", "0/2", "--platform", "linux/arm64"], "--platform is decided by the plan"),
    ],
)
def test_contradictions_are_refused_before_any_request(tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    (tmp_path / "broken.json").write_text(json.dumps(PLAN | {"images": [5]}))
    (tmp_path / "other.json").write_text("{}")
    with chdir(tmp_path):
        result = CliRunner().invoke(main, ["sync", *words], catch_exceptions=True, standalone_mode=False)

    assert isinstance(result.exception, ConfigError | click.UsageError), result.exception
    assert says in (str(result.exception) or result.exception.message)


@pytest.mark.parametrize("reports", [["plan.json"], ["missing.json"], ["odd.json"]])
async def test_only_reports_of_shards_are_merged(tmp_path: Path, reports: list[str]) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    (tmp_path / "odd.json").write_text('{"schema_version": 2, "shard": [], "outcomes": 3}')
    with pytest.raises(ConfigError):
        await quaymirror.merge_reports([tmp_path / name for name in reports])


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("percent", [2, 40])
async def test_200_images_arrive_although_a_shard_is_killed(tmp_path: Path, count: int, percent: int) -> None:
    registry, images = kolla(200, layer_size=100_000)
    blobs = {digest for image in images.values() for digest in image.all_blobs()}
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            site = Site(server, target, tmp_path)
            assert (await site.plan())[0] == 0
            async with anyio.create_task_group() as tasks:
                for index in range(1, count):
                    tasks.start_soon(site.run_well, *site.shard_words(index, count))

                words = [word if word != "none" else "json" for word in site.shard_words(0, count)]
                done = max(1, len(blobs) * percent // 100 // count)
                await kill_after(done, await site.start(*words))
                await site.run_well(*site.shard_words(0, count))

            assert server.blob_bytes() <= 1.05 * unique_bytes(images)
            joined = await site.run_well("merge-reports", *(f"report-{index}.json" for index in range(count)))
            assert joined.startswith("200 images: ")

        site.check_pulled(images)


@pytest.mark.soak
@pytest.mark.parametrize("limit", ["max_requests_per_second", "limit_rate"])
async def test_shards_with_a_part_of_the_limit_each_keep_the_limit_of_the_whole(tmp_path: Path, limit: str) -> None:
    registry, images = kolla(200, layer_size=20_000)
    total, count = (25.0, 2) if limit == "max_requests_per_second" else (unique_bytes(images) / 20, 2)
    plan = tmp_path / "plan.json"
    async with QuayServer(registry) as server, Receiver() as target:
        options = Options.of(server=server.url, state=tmp_path / "state")
        await quaymirror.plan_shards(Selection("kolla", "*", TAG), target.address, plan, options)
        server.reset_records()

        async def mirror(index: int) -> None:
            own = options.replace(state=tmp_path / f"shard-{index}", **{limit: total / count})
            report = await quaymirror.sync_shard(plan, Share(index, count), target.address, own)
            assert report.exit_code is ExitCode.OK

        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for index in range(count):
                tasks.start_soon(mirror, index)

        if limit == "limit_rate":
            assert unique_bytes(images) <= server.blob_bytes() <= 1.02 * total * (time.monotonic() - began)
            return

        # While both are at work: the share of one is smaller. A shard that waits for blobs of the other asks for less.
        times = sorted(request.at for request in server.requests)
        first, last = len(times) // 20, len(times) // 2
        assert 0.9 * total <= (last - first) / (times[last] - times[first]) <= 1.02 * total
