"""Jobs of one command share an engine: connections, limits, blobs, and one display."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import anyio
import layouts
import peers
import pytest
from commands import run
from organizations import TAG, kolla, small_image, unique_bytes

from quaymirror import Options, Report, Selection
from quaymirror.errors import ExitCode, StoreError
from quaymirror.events import Event, HostPaused
from quaymirror.progress.run import RunProgress
from quaymirror.run.shared import Engine, open_engine
from quaymirror.run.sync import run_sync
from quaymirror.store import fsops
from quaymirror.testing import Delay, Fault, Hold, QuayServer, too_many_requests

NO_SERVER = {"QUAYMIRROR_SERVER": ""}
EVERYTHING = Selection("kolla", "*", TAG)


def configured(directory: Path, server: QuayServer, jobs: str) -> None:
    (directory / "quaymirror.toml").write_text(f"""
[run]
report = "report.json"
[defaults]
server = "{server.url}"
{jobs}
""")


TWO_TARGETS = f"""
[jobs.first]
organization = "kolla"
tags = ["{TAG}"]
to = "first"
[jobs.second]
organization = "kolla"
tags = ["{TAG}"]
to = "second"
"""


async def sync_both(
    settings: Options, directory: Path, events: dict[str, list[Event]], progress: dict[str, RunProgress]
) -> dict[str, Report]:
    """Mirror the same organization to two layouts at once."""
    reports: dict[str, Report] = {}

    async def one(name: str, engine: Engine) -> None:
        reports[name] = await run_sync(
            EVERYTHING,
            directory / name,
            settings,
            observer=events.setdefault(name, []).append,
            progress=progress.setdefault(name, RunProgress()),
            engine=engine,
        )

    async with open_engine([settings, settings]) as engine, anyio.create_task_group() as tasks:
        tasks.start_soon(one, "first", engine)
        tasks.start_soon(one, "second", engine)

    return reports


async def test_two_layouts_mirrored_together_need_one_download(tmp_path: Path) -> None:
    registry, images = kolla(10)
    progress: dict[str, RunProgress] = {}
    async with QuayServer(registry) as server:
        server.faults.append(Fault("/blobs/", Delay(0.01)))
        reports = await sync_both(Options.of(server=server.url), tmp_path, {}, progress)
        asked = Counter(request.path for request in server.requests if "/blobs/" in request.path)

    assert [report.exit_code for report in reports.values()] == [ExitCode.OK, ExitCode.OK]
    for name in ("first", "second"):
        layouts.check(tmp_path / name)
        assert len(layouts.names(tmp_path / name)) == len(images)

    digests = Counter(path.rpartition("/")[2] for path in asked.elements())
    assert set(digests.values()) == {1}, "each blob once, over both targets and all repositories"
    manifests = sum(part.bytes_fetched for part in progress.values()) - unique_bytes(images)
    assert 0 < manifests < unique_bytes(images) / 2


@pytest.mark.interop
@pytest.mark.parametrize("layer_size", [4096, 3_000_000], ids=["small layers", "large layers"])
async def test_a_push_uses_blobs_of_a_layout(tmp_path: Path, layer_size: int) -> None:
    registry, images = kolla(4, layer_size=layer_size)
    with peers.docker_registry(tmp_path) as url:
        target = f"registry://{url.removeprefix('http://')}?insecure=true"
        async with QuayServer(registry) as server:
            settings = Options.of(server=server.url, state=tmp_path / "state")
            async with open_engine([settings]) as engine:
                await run_sync(EVERYTHING, tmp_path / "mirror", settings, engine=engine)
                server.reset_records()
                report = await run_sync(EVERYTHING, target, settings, engine=engine)

            assert server.count("/blobs/") == 0

        assert report.exit_code is ExitCode.OK
        assert all(peers.has_tag(url, f"kolla/{name}", TAG) for name in images)
        for name, image in images.items():
            if not image.is_index:
                place = f"docker://{url.removeprefix('http://')}/kolla/{name}:{TAG}"
                peers.skopeo("copy", "--src-tls-verify=false", place, f"oci:{tmp_path}/pulled:{name}")

    layouts.check(tmp_path / "pulled")


@pytest.mark.interop
async def test_a_layout_and_a_registry_can_be_mirrored_together(tmp_path: Path) -> None:
    registry, images = kolla(6)
    with peers.docker_registry(tmp_path) as url:
        async with QuayServer(registry) as server:
            configured(
                tmp_path,
                server,
                TWO_TARGETS.replace('to = "second"', f'to = "registry://{url.removeprefix("http://")}?insecure=true"'),
            )
            await run("run", cwd=tmp_path, check=0, env=NO_SERVER | {"XDG_STATE_HOME": str(tmp_path / "state")})

        assert all(peers.has_tag(url, f"kolla/{name}", TAG) for name in images)

    layouts.check(tmp_path / "first")


async def test_blobs_of_an_earlier_run_to_one_layout_are_not_fetched_for_another(tmp_path: Path) -> None:
    registry, images = kolla(4)
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url)
        await run_sync(EVERYTHING, tmp_path / "first", settings)
        server.reset_records()
        async with open_engine([settings]) as engine:
            for name in ("first", "second"):
                report = await run_sync(EVERYTHING, tmp_path / name, settings, engine=engine)

        assert server.count("/blobs/") == 0

    assert report.exit_code is ExitCode.OK
    assert len(layouts.names(tmp_path / "second")) == len(images)
    layouts.check(tmp_path / "second")


async def test_damage_in_one_layout_is_not_copied_to_another(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url)
        await run_sync(EVERYTHING, tmp_path / "first", settings)
        largest = max((tmp_path / "first" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        largest.write_bytes(bytes(largest.stat().st_size))
        async with open_engine([settings]) as engine:
            for name in ("first", "second"):
                await run_sync(EVERYTHING, tmp_path / name, settings, engine=engine)

    layouts.check(tmp_path / "second")


async def test_a_pause_holds_back_all_runs_and_each_report_tells_of_it(tmp_path: Path) -> None:
    events: dict[str, list[Event]] = {}
    async with QuayServer(kolla(6)[0]) as server:
        both_listed = asyncio.Event()
        # No run fetches blobs before both have made a request; the first blob is too much then.
        server.faults.append(Fault("/manifests/", Hold(both_listed)))
        server.faults.append(Fault("/v2/.*/blobs/", too_many_requests("1"), times=1))

        def look(_: object) -> None:
            if server.count("^/api/v1/repository$") >= 2:
                both_listed.set()

        server.on_request = look
        reports = await sync_both(Options.of(server=server.url), tmp_path, events, {})

    pauses = {name: [event for event in told if isinstance(event, HostPaused)] for name, told in events.items()}
    assert pauses["first"] == pauses["second"] != []
    troubles = [report.hosts[server.host] for report in reports.values()]
    assert [(trouble.pauses, trouble.throttled) for trouble in troubles] == [(1, 1)] * 2


async def test_limits_hold_for_all_runs_together(tmp_path: Path) -> None:
    async with QuayServer(kolla(6)[0]) as server:
        settings = Options.of(server=server.url).replace(concurrency=2, layer_concurrency=1)
        server.faults.append(Fault("/blobs/", Delay(0.005)))
        reports = await sync_both(settings, tmp_path, {}, {})

    assert all(report.exit_code is ExitCode.OK for report in reports.values())
    # One more on its way from the registry to where it redirects to.
    assert server.peak_in_flight <= 2 + 2


async def test_a_dry_run_of_two_targets_counts_each_blob_once(tmp_path: Path) -> None:
    registry, images = kolla(5)
    async with QuayServer(registry) as server:
        reports = await sync_both(Options.of(server=server.url, dry_run=True), tmp_path, {}, {})

    total = sum(report.bytes_fetched for report in reports.values())
    assert unique_bytes(images) < total < 1.5 * unique_bytes(images)


async def test_a_disk_that_is_full_ends_one_run_and_not_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = fsops.publish

    def full(partial: Path, final: Path) -> None:
        if "second" in final.parts:
            raise StoreError("no space left")

        publish(partial, final)

    monkeypatch.setattr(fsops, "publish", full)
    async with QuayServer(kolla(6)[0]) as server:
        reports = await sync_both(Options.of(server=server.url), tmp_path, {}, {})

    assert reports["first"].exit_code is ExitCode.OK
    assert reports["second"].exit_code is ExitCode.STORAGE
    layouts.check(tmp_path / "first")


async def test_jobs_with_different_targets_run_concurrently_with_one_summary(tmp_path: Path) -> None:
    registry, images = kolla(6)
    async with QuayServer(registry) as server:
        configured(tmp_path, server, TWO_TARGETS)
        done = await run("run", "--progress", "json", cwd=tmp_path, check=0, env=NO_SERVER)
        blobs = server.count("/blobs/")

    events = [json.loads(line) for line in done.stdout.splitlines()]
    started = [number for number, event in enumerate(events) if event["event"] == "run_started"]
    finished = [number for number, event in enumerate(events) if event["event"] == "run_finished"]
    assert len(started) == len(finished) == 2
    assert max(started) < min(finished)
    assert len({events[number]["run_id"] for number in started}) == 2
    assert {event["run_id"] for event in events if event["event"] == "image_finished"} == {
        events[number]["run_id"] for number in started
    }
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["jobs"] for entry in report["runs"]] == [["first"], ["second"]]
    assert done.stderr.splitlines()[-1].startswith(f"all 2 runs: {2 * len(images)} mirrored, 0 unchanged, 0 failed, ")
    assert blobs < 2 * sum(len(image.all_blobs()) for image in images.values())


async def test_organizations_with_one_target_are_one_run_with_separate_credentials(tmp_path: Path) -> None:
    registry, images = kolla(3)
    private = registry.organization("private")
    private.repository("secret", public=False).push(TAG, small_image("private"))
    registry.user("operator", password="for private")
    private.grant("operator")
    async with QuayServer(registry) as server:
        entry = {"auth": base64.b64encode(b"operator:for private").decode()}
        wrong = {"auth": base64.b64encode(b"operator:wrong").decode()}
        (tmp_path / "auth.json").write_text(
            json.dumps({"auths": {f"{server.host}/private": entry, f"{server.host}/other": wrong}})
        )
        configured(
            tmp_path,
            server,
            f"""
[jobs.open]
organization = "kolla"
tags = ["{TAG}"]
[jobs.closed]
organization = "private"
repositories = ["secret"]
tags = ["{TAG}"]
""",
        )
        (tmp_path / "lock.json").write_text(
            json.dumps(
                {
                    "lock_version": 1,
                    "server": server.url,
                    "images": [
                        {"repository": name, "tag": TAG, "digest": digest}
                        for name, digest in [
                            ("private/secret", small_image("private").digest),
                            *((f"kolla/{name}", image.digest) for name, image in images.items()),
                        ]
                    ],
                }
            )
        )
        words = ["sync", "--from-lock", "lock.json", "--authfile", "auth.json", "--to", "locked"]
        await run(*words, cwd=tmp_path, check=0, env=NO_SERVER)
        jobs = await run("run", "--authfile", "auth.json", "--progress", "plain", cwd=tmp_path, env=NO_SERVER)

    assert len(layouts.names(tmp_path / "locked")) == len(images) + 1
    assert jobs.stderr.count("started ") == 1
    assert set(layouts.names(tmp_path / "mirror")) >= {f"kolla/{name}:{TAG}" for name in images}


async def test_jobs_with_different_limits_run_one_after_the_other(tmp_path: Path) -> None:
    async with QuayServer(kolla(2)[0]) as server:
        configured(tmp_path, server, TWO_TARGETS + "max-requests-per-second = 500\n")
        done = await run("run", "--progress", "json", cwd=tmp_path, check=0, env=NO_SERVER)

    order = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert [name for name in order if name.startswith("run_")] == ["run_started", "run_finished"] * 2


@pytest.mark.parametrize("trouble", ["target", "certificates"])
async def test_a_job_that_fails_to_start_does_not_stop_the_next_ones(tmp_path: Path, trouble: str) -> None:
    async with QuayServer(kolla(2)[0]) as server:
        jobs = TWO_TARGETS.replace("[jobs.second]", "max-requests-per-second = 500\n[jobs.second]")
        if trouble == "target":
            (tmp_path / "first").mkdir()
            (tmp_path / "first" / "something").touch()
        else:
            (tmp_path / "ca.pem").write_text("none")
            jobs = jobs.replace("max-requests", 'cafile = "ca.pem"\nmax-requests')

        configured(tmp_path, server, jobs)
        done = await run("run", "--progress", "plain", cwd=tmp_path, check=2, env=NO_SERVER)

    assert any(line.startswith("quaymirror: first: ") for line in done.stderr.splitlines())
    assert len(layouts.names(tmp_path / "second")) == 2


async def test_jobs_of_one_target_that_can_not_be_joined_take_turns(tmp_path: Path) -> None:
    async with QuayServer(kolla(2)[0]) as server:
        configured(tmp_path, server, TWO_TARGETS.replace('"second"', '"first"').replace("[jobs.second]\n", (
            "[jobs.second]\nconcurrency = 3\n"
        )))  # fmt: skip
        done = await run("run", "--progress", "json", cwd=tmp_path, check=0, env=NO_SERVER)

    order = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert [name for name in order if name.startswith("run_")] == ["run_started", "run_finished"] * 2


async def test_ctrl_c_ends_all_runs_and_another_command_finishes_them(tmp_path: Path) -> None:
    registry, images = kolla(6)
    async with QuayServer(registry) as server:
        configured(tmp_path, server, TWO_TARGETS)
        server.faults.append(Fault("/blobs/", Hold(asyncio.Event())))
        asked, again = anyio.Event(), anyio.Event()
        server.on_request = lambda request: asked.set() if "/blobs/" in request.path else None
        command = [sys.executable, "-m", "quaymirror", "run", "--progress", "plain"]
        env = {**os.environ, **NO_SERVER}
        async with await anyio.open_process(command, cwd=tmp_path, env=env, stdout=None) as process:
            with anyio.fail_after(40):
                await asked.wait()
                process.send_signal(signal.SIGINT)
                assert process.stderr is not None
                text = ""
                async for chunk in process.stderr:
                    text += chunk.decode()
                    if "stopping" in text and not again.is_set():
                        again.set()
                        process.send_signal(signal.SIGINT)

                code = await process.wait()

        server.on_request = None
        server.faults.clear()
        await run("run", cwd=tmp_path, check=0, env=NO_SERVER)

    assert code == ExitCode.INTERRUPTED
    assert len(layouts.names(tmp_path / "first")) == len(layouts.names(tmp_path / "second")) == len(images)


async def test_a_job_that_waits_in_vain_for_its_target_does_not_end_the_others(tmp_path: Path) -> None:
    async with QuayServer(kolla(2)[0]) as server:
        configured(tmp_path, server, TWO_TARGETS)
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "something").touch()
        done = await run("run", "--progress", "plain", cwd=tmp_path, check=2, env=NO_SERVER)

    assert any(line.startswith("notice     second: ") for line in done.stderr.splitlines())
    assert any(line.startswith("quaymirror: second: ") for line in done.stderr.splitlines())
    assert len(layouts.names(tmp_path / "first")) == 2
