"""The report, the summary, the events, the metrics, the progress file, the page and the history have equal numbers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from commands import Done, run
from organizations import TAG, kolla, small_image
from prometheus_client.parser import text_string_to_metric_families

from quaymirror.testing import Fault, Hold, QuayServer, Status
from quaymirror.text import counted, human_bytes
from quaymirror.ui.snapshot import read_snapshot

STATUSES = ("mirrored", "unchanged", "skipped", "failed", "refused")
OUTPUTS = ("--report", "report.json", "--report-html", "report.html", "--metrics-textfile", "quaymirror.prom")


@asynccontextmanager
async def organization() -> AsyncIterator[tuple[QuayServer, list[str]]]:
    """Serve six images and two repositories without the tag."""
    registry, images = kolla(6)
    for name in ("without-tag", "another-without"):
        registry.organization("kolla").repository(name)

    async with QuayServer(registry) as server:
        yield server, sorted(images)


def words(server: QuayServer) -> list[str]:
    return ["sync", "kolla", "*", TAG, "--server", server.url, *OUTPUTS, "--progress", "json"]


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return report


def totals_of(report: dict[str, Any]) -> dict[str, int]:
    return {**report["images"], "bytes_fetched": report["bytes_fetched"], "bytes_reused": report["bytes_reused"]}


def check_events(report: dict[str, Any], stdout: str) -> None:
    last = json.loads(stdout.splitlines()[-1])
    assert last["event"] == "run_finished"
    assert last["totals"] == totals_of(report)
    assert (last["exit_code"], last["complete"]) == (report["exit_code"], report["complete"])


def check_summary(report: dict[str, Any], text: str) -> None:
    counts = {
        word: int(count) for word, count in re.findall(r"^  (\w+) +(\d+)", text, re.MULTILINE) if word in STATUSES
    }
    assert {"refused": 0, **counts} == report["images"]  # shown if a policy refused any
    fetched, reused = report["bytes_fetched"], report["bytes_reused"]
    if report["dry_run"]:
        assert f"  would fetch {human_bytes(fetched)} of {human_bytes(fetched + reused)}\n" in text
    else:
        assert f"  {human_bytes(fetched)} fetched, {human_bytes(reused)} reused" in text


def check_metrics(report: dict[str, Any], text: str) -> None:
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    values = {
        (sample.name.removeprefix("quaymirror_"), sample.labels.get("status")): sample.value for sample in samples
    }
    assert {status: values["images", status] for status in STATUSES} == report["images"]
    assert values["fetched_bytes", None] == report["bytes_fetched"]
    assert values["reused_bytes", None] == report["bytes_reused"]
    assert values["run_exit_code", None] == report["exit_code"]
    assert values["run_complete", None] == report["complete"]


def check_page(report: dict[str, Any], html: str) -> None:
    found = re.findall(r'<div class="card"><b class="\w*">([^<]*)</b><span>([^<]*)</span>', html)
    cards = {label: text for text, label in found}
    fetched, mirrored = ("would be fetched", "would be mirrored") if report["dry_run"] else ("fetched", "mirrored")
    assert cards == {
        "failed": str(report["images"]["failed"]),
        mirrored: str(report["images"]["mirrored"]),
        "unchanged": str(report["images"]["unchanged"]),
        "skipped": str(report["images"]["skipped"]),
        fetched: human_bytes(report["bytes_fetched"]),
        "saved by sharing": human_bytes(report["bytes_reused"]),
        **sizes_of(report["usage"]),
    }


def sizes_of(usage: dict[str, Any] | None) -> dict[str, str]:
    if usage is None:
        return {}

    stored = f"in the mirror, {counted(usage['images'], 'image')}"
    return {stored: human_bytes(usage["bytes"]), "free on its disk": human_bytes(usage["free_bytes"])}


async def check_watch_and_history(report: dict[str, Any], summary: str, directory: Path) -> None:
    snapshot = read_snapshot((directory / "mirror" / ".quaymirror" / "live.json").read_bytes())
    totals = snapshot.progress.totals()
    assert {name: getattr(totals, name) for name in totals_of(report)} == totals_of(report)
    assert snapshot.exit_code == report["exit_code"]
    watched = await run("watch", "mirror", cwd=directory, check=report["exit_code"])
    assert watched.stderr == summary[: len(watched.stderr)]
    history = json.loads((await run("history", "--to", "mirror", "--json", cwd=directory, check=0)).stdout)[0]
    assert history["id"] == report["run_id"]
    for name in ("images", "bytes_fetched", "exit_code"):
        assert history[name] == report[name]


async def check(directory: Path, done: Done) -> dict[str, Any]:
    """Compare all outputs of a run with its report, and return that."""
    report = report_of(directory)
    assert report["exit_code"] == done.returncode
    check_events(report, done.stdout)
    check_summary(report, done.stderr)
    check_metrics(report, (directory / "quaymirror.prom").read_text())
    check_page(report, (directory / "report.html").read_text())
    if not report["dry_run"]:
        await check_watch_and_history(report, done.stderr, directory)

    return report


async def test_a_clean_run_and_one_in_which_nothing_changed(tmp_path: Path) -> None:
    async with organization() as (server, _):
        first = await check(tmp_path, await run(*words(server), cwd=tmp_path, check=0))
        second = await check(tmp_path, await run(*words(server), cwd=tmp_path, check=0))

    assert first["images"] == {"mirrored": 6, "unchanged": 0, "skipped": 2, "failed": 0, "refused": 0}
    assert first["bytes_fetched"] > 0
    assert second["images"] == {"mirrored": 0, "unchanged": 6, "skipped": 2, "failed": 0, "refused": 0}


async def test_a_failed_image_and_a_failed_check_count_the_bytes_that_they_received(tmp_path: Path) -> None:
    broken = small_image("broken", 60_000, 50_000)
    missing = next(digest for digest, blob in broken.all_blobs().items() if 50_000 <= len(blob.data) < 60_000)
    async with organization() as (server, names):
        server.registry.organization("kolla").repository("broken").push(TAG, broken)
        server.faults.append(Fault(f"/blobs/{missing}", Status(404)))
        server.faults.append(Fault(rf"^/api/v1/repository/kolla/{names[1]}/tag/", Status(403)))
        report = await check(tmp_path, await run(*words(server), cwd=tmp_path, check=3))

    assert report["images"] == {"mirrored": 5, "unchanged": 0, "skipped": 2, "failed": 2, "refused": 0}
    of_mirrored = sum(outcome["bytes_fetched"] for outcome in report["outcomes"] if outcome["status"] == "mirrored")
    assert report["bytes_fetched"] >= of_mirrored + 60_000


async def test_a_dry_run(tmp_path: Path) -> None:
    async with organization() as (server, _):
        report = await check(tmp_path, await run(*words(server), "--dry-run", cwd=tmp_path, check=0))

    assert report["images"]["mirrored"] == 6
    assert report["bytes_fetched"] > 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_run_counts_what_it_received(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    registry, _ = kolla(6, layer_size=200_000)
    live = tmp_path / "mirror" / ".quaymirror" / "live.json"
    async with QuayServer(registry) as server:
        server.faults.append(Fault("/blobs/", Hold(asyncio.Event()), nth=range(8, 1000)))
        command = [sys.executable, "-m", "quaymirror", *words(server)]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            with anyio.fail_after(30):
                while not live.exists() or json.loads(live.read_text())["fetched_bytes"] < 200_000:
                    await anyio.sleep(0.05)

            for _ in range(2):
                process.send_signal(signum)
                await anyio.sleep(0.3)

            stdout, stderr = await anyio.to_thread.run_sync(process.communicate)

    done = Done([], process.returncode, stdout, stderr)
    report = await check(tmp_path, done)
    assert (report["exit_code"], report["complete"]) == (code, False)
    assert report["bytes_fetched"] >= 200_000
    assert "0 B fetched" not in stderr
