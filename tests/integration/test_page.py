"""The report as a page, in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import pytest
from commands import run
from organizations import TAG, kolla

from quaymirror.progress.timeline import Point
from quaymirror.testing import Fault, QuayServer, Status
from quaymirror.ui.chart import chart
from quaymirror.ui.html_report import page, previous_page

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
    rows = re.findall(r'<tr data-status="\w+"( hidden="")?><td data-label="image">kolla/(image-\d+)', body)
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
    assert '<td data-label="side">source</td><td data-label="step">fetch</td>' in html
    assert "http://" not in html.replace("https://quay.io", "")


def test_the_chart_shows_the_run_over_time() -> None:
    points = [Point(0.0, 0, 0, 0), Point(5.0, 5, 0, 5_000), Point(10.0, 10, 1, 20_000)]
    html = page([document([outcome(1)])], [points])

    assert html.count("<polyline") == html.count("<polygon") == 1
    assert "10 images in 10 s, at most 2.9 KiB/s" in html
    assert "<span>0</span><span>2.5 s</span><span>5.0 s</span><span>7.5 s</span><span>10.0 s</span>" in html
    assert 'class="limits"' not in html
    assert "<polyline" not in page([document([outcome(1)])], [points[:1]])


def test_several_runs_are_one_page_with_the_worst_in_its_title() -> None:
    html = page([document([outcome(1)]), document([], exit_code=9)], [[], []])

    assert html.count("<article") == 2
    assert html.count("<h1>2 jobs") == 1
    assert "<title>quaymirror: nothing matched</title>" in html
    assert "nothing matched" in html


def test_several_jobs_have_contents_with_their_sum() -> None:
    runs = [
        document([outcome(n) for n in range(3)], jobs=["nightly"]),
        document([outcome(9)], jobs=["w&y"], run_id="2"),
    ]
    html = page(runs, [[], []])

    assert '<a href="#run-6fb1c0de">nightly</a>' in html
    assert '<a href="#run-2">w&amp;y</a>' in html
    foot = html[html.index("<tfoot>") : html.index("</tfoot>")]
    assert '<td class="n" data-key="4" data-label="mirrored">4</td>' in foot
    assert "235.5 MiB" in foot


def test_images_that_are_missing_are_next_to_the_result() -> None:
    gone = ["quay.io/kolla/etcd:a", "quay.io/kolla/redis:a"]
    changes = {"since": "1", "started": "2026-11-23T02:00:00+00:00", "before": 9, "came": [], "moved": [], "gone": gone}
    html = page([document([outcome(1)], changes=changes)], [[]])

    assert '<span class="badge warn">2 images missing at source</span>' in html
    assert "<li>kolla/etcd:a</li><li>kolla/redis:a</li>" in html


def test_sizes_the_free_disk_and_urls_have_their_places() -> None:
    error = {"type": "AccessDenied", "message": "quay.io/v2/x: 403 Forbidden: private", "side": "source", "phase": None}
    usage = {"images": 412, "bytes": 3 * 2**30, "free_bytes": 2**40}
    html = page([document([outcome(1, "failed", error=error)], usage=usage, bytes_fetched=0)], [[]])

    assert '<b class="">3.0 GiB</b><span>in the mirror, 412 images</span>' in html
    assert '<b class="">1.0 TiB</b><span>free on its disk</span>' in html
    assert '<b class="">0 B</b><span>fetched</span>' in html
    assert '<td data-label="reason">403 Forbidden: private</td>' in html
    assert '<td data-label="request">quay.io/v2/x</td>' in html


def test_the_chart_shows_the_limits_of_the_run() -> None:
    limits = ["", "the API of quay.io", "the API of quay.io", "your limit of 20.0 MiB/s", ""]
    points = [Point(10.0 * n, n, 0, n * 10_000_000, limit) for n, limit in enumerate(limits)]
    drawn = chart(points)

    assert drawn is not None
    assert drawn["rates"] == ["1000", "750", "500", "250", "0"]
    assert drawn["counts"] == ["4", "3", "2", "1", "0"]
    assert drawn["times"] == ["0", "10 s", "20 s", "30 s", "40 s"]
    assert [(limit["text"], limit["seconds"]) for limit in drawn["limited"]] == [
        ("the API of quay.io", 20.0),
        ("your limit of 20.0 MiB/s", 10.0),
    ]
    assert [(span["left"], span["width"]) for span in drawn["limits"]] == [("25.00", "50.00"), ("75.00", "25.00")]


def test_a_page_links_to_the_previous_one_of_the_same_runs(tmp_path: Path) -> None:
    days = {name: document([], started=f"2026-11-{day}T02:00:00+00:00") for name, day in (("a 1", 20), ("b", 21))}
    for name, one in days.items():
        (tmp_path / f"{name}.html").write_text(page([one], [[]]))

    (tmp_path / "other.html").write_text(page([document([], target="/other")], [[]]))
    (tmp_path / "foreign.html").write_bytes(b"\xff\xfe" * 10)
    today = document([], started="2026-11-22T02:00:00+00:00")
    assert previous_page(tmp_path / "c.html", [today]) == "b.html"
    (tmp_path / "b.html").unlink()
    assert previous_page(tmp_path / "c.html", [today]) == "a%201.html"
    assert '<a href="a%201.html">' in page([today], [[]], "a%201.html")
    assert previous_page(tmp_path / "a 1.html", [days["a 1"]]) == ""


@pytest.mark.interop
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_page_is_not_wider_than_a_telephone(tmp_path: Path) -> None:
    error = {
        "type": "NotFound",
        "message": f"quay.io/v2/{'x' * 90}: {'gone ' * 20}",
        "side": "source",
        "phase": "fetch",
    }
    runs = [document([outcome(1), outcome(2, "failed", error=error)], target="/srv/" + "m" * 90) for _ in range(2)]
    points = [Point(0.0, 0, 0, 0), Point(5.0, 5, 0, 5_000_000), Point(10.0, 10, 1, 20_000_000)]
    html = page(runs, [points, points])
    # A browser without a head has no windows as narrow as that.
    frame = f'<body><iframe style="width:390px;height:900px;border:0" srcdoc="{escape(html)}"></iframe></body>'
    wait = """
        document.querySelector("iframe").addEventListener("load", event => {
          const inside = event.target.contentDocument;
          document.body.append(`width ${inside.documentElement.scrollWidth} of ${inside.defaultView.innerWidth}`);
        });"""
    found = re.search(r">width (\d+) of 390", browse(frame, tmp_path, wait))
    assert found is not None
    assert int(found[1]) <= 390


@pytest.mark.interop
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.soak
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
