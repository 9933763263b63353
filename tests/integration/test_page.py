"""The report as a page, in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import run
from organizations import TAG, kolla

from quaymirror.progress.timeline import Point
from quaymirror.testing import Fault, QuayServer, Status
from quaymirror.ui.html_report import page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J"


def outcome(number: int, status: str = "mirrored", **more: Any) -> dict[str, Any]:
    return {
        "reference": f"quay.io/kolla/image-{number:04}:{TAG}",
        "digest": "sha256:" + "ab" * 32,
        "status": status,
        "reason": None,
        "bytes_fetched": number * 1000,
        "bytes_reused": 5,
        "elapsed_s": 1.5,
        "error": None,
    } | more


def document(outcomes: list[dict[str, Any]], **more: Any) -> Any:
    counts = {
        status: sum(one["status"] == status for one in outcomes) for status in ("mirrored", "unchanged", "failed")
    }
    return {
        "run_id": "6fb1c0de",
        "jobs": [],
        "selections": [{"organization": "kolla", "glob": "*", "tag": TAG}],
        "server": "https://quay.io",
        "target": "/srv/mirror",
        "dry_run": False,
        "started": "2026-11-24T02:00:00+00:00",
        "elapsed_s": 754.0,
        "complete": True,
        "exit_code": 0,
        "error": None,
        "stopped": None,
        "repositories": {"listed": 412, "matched": 371, "skipped": {"no such tag": 9}},
        "images": counts | {"skipped": 9},
        "bytes_fetched": 123456789,
        "bytes_reused": 987654321,
        "hosts": {},
        "outcomes": outcomes,
    } | more


def browse(html: str, tmp_path: Path, script: str = "") -> str:
    """Return the document after its scripts and `script`; any message on its console is an error."""
    assert BROWSER is not None
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/b",
    ]
    command = [BROWSER, *options, "--enable-logging=stderr", "--v=0", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


def visible(dom: str) -> list[str]:
    body = dom[dom.index('<section class="images">') :]
    rows = re.findall(r'<tr data-status="\w+"( hidden="")?><td>quay.io/kolla/(image-\d+)', body)
    return [name for hidden, name in rows if not hidden]


def test_failures_come_first_and_everything_from_outside_is_escaped() -> None:
    error = {"type": "NotFound", "message": HOSTILE, "side": "source", "phase": "fetch"}
    outcomes = [outcome(1), outcome(2, "failed", error=error), outcome(3, "unchanged", reason=HOSTILE)]
    html = page(
        [
            document(
                outcomes,
                target=HOSTILE,
                exit_code=3,
                hosts={HOSTILE: {"retries": 1, "throttled": 2, "pauses": 0, "paused_s": 0}},
            )
        ],
        [[]],
    )

    assert html.index("Failed (1)") < html.index("Images (3)")
    assert html.count("<script>") == 1
    assert "\x1b" not in html
    assert "source, fetch" in html
    assert "http://" not in html.replace("https://quay.io", "")


def test_the_chart_shows_the_run_over_time() -> None:
    points = [Point(0.0, 0, 0, 0), Point(5.0, 5, 0, 5_000), Point(10.0, 10, 1, 20_000)]
    html = page([document([outcome(1)])], [points])

    assert html.count("<polyline") == html.count("<polygon") == 1
    assert "10 images and 19.5 KiB in 10 s" in html
    assert "<polyline" not in page([document([outcome(1)])], [points[:1]])


def test_several_runs_are_one_page_with_the_worst_in_its_title() -> None:
    html = page([document([outcome(1)]), document([], exit_code=9)], [[], []])

    assert html.count("<h1>") == 2
    assert "<title>quaymirror: nothing matched</title>" in html
    assert "nothing matched" in html


@pytest.mark.interop
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_sorts_and_filters_thousands_of_images(tmp_path: Path) -> None:
    outcomes = [outcome(number, "failed" if number == 7 else "mirrored") for number in range(3_000)]
    html = page([document(outcomes)], [[]])

    assert visible(browse(html, tmp_path))[:2] == ["image-0007", "image-0000"]
    by_bytes = "const head = document.querySelectorAll('section.images th button')[2]; head.click(); head.click();"
    assert visible(browse(html, tmp_path, by_bytes))[:2] == ["image-2999", "image-2998"]
    typed = (
        "const box = document.querySelector('input'); box.value = 'IMAGE-123'; box.dispatchEvent(new Event('input'));"
    )
    assert len(visible(browse(html, tmp_path, typed))) == 10
    chosen = (
        "const list = document.querySelector('select'); list.value = 'failed'; list.dispatchEvent(new Event('input'));"
    )
    assert visible(browse(html, tmp_path, chosen)) == ["image-0007"]


async def test_a_run_leaves_a_page_that_is_about_it(tmp_path: Path) -> None:
    registry, images = kolla(4)
    async with QuayServer(registry) as server:
        server.faults.append(Fault(rf"^/v2/kolla/{min(images)}/manifests/.*", Status(403)))
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--report-html", "report.html"]
        await run(*words, cwd=tmp_path, check=3)

    html = (tmp_path / "report.html").read_text()
    assert "Failed (1)" in html
    assert "<polyline" in html
    assert all(f"kolla/{name}:{TAG}" in html for name in images)
