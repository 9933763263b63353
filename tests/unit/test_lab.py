"""The benchmarks: the verdict on a regression, failures and missing tools in tables, counts, and the slow link."""

from __future__ import annotations

import http.client
import http.server
import importlib
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OURS, LIMIT = "quaymirror sync", "curl"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import from the lab as its command does."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return lambda module: importlib.import_module(f"lab.{module}")


def document(walls: list[float], *, requests: int = 5) -> dict[str, Any]:
    """Return a case in which the limit always takes a second."""
    costs = [cost(wall, requests) for wall in walls]
    return {
        "scenario": "cold",
        "case": "tree",
        "base": LIMIT,
        "machine": {"cores": 2, "cpu": "a", "python": "3"},
        "facts": {},
        "counts": ["requests"],
        "costs": {OURS: costs, LIMIT: [cost(1.0, 3) for _ in walls]},
    }


def cost(wall: float, requests: int, code: int = 0) -> dict[str, Any]:
    return {"wall": wall, "cpu": 1, "peak_mib": 50, "code": code, "said": "no | idea", "asked": {"requests": requests}}


def test_a_clear_slowdown_fails(lab: Any) -> None:
    verdict = lab("check").judge(document([2.0, 2.1, 1.9]), document([2.6, 2.5, 2.7, 2.6, 2.5]))
    assert not verdict.good
    assert "FAILED" in verdict.words


def test_a_difference_within_noise_passes(lab: Any) -> None:
    assert lab("check").judge(document([2.0, 2.4, 1.9]), document([2.3, 1.9, 2.6, 2.1, 2.2])).good


def test_a_slowdown_within_the_margin_passes(lab: Any) -> None:
    assert lab("check").judge(document([2.0] * 5), document([2.08] * 9)).good


def test_one_more_request_fails(lab: Any) -> None:
    verdict = lab("check").judge(document([2.0] * 3), document([2.0] * 3, requests=6))
    assert not verdict.good
    assert "6 requests, 5 then" in verdict.words


def test_a_case_without_a_record_passes_with_a_message(lab: Any) -> None:
    assert "nothing is recorded" in lab("check").judge(None, document([2.0])).words


def test_failed_contestants_are_in_the_table_with_the_reason(lab: Any) -> None:
    case = document([2.0, 2.2])
    case["costs"]["skopeo"] = [cost(0, 0, code=1)]
    lines = lab("tables").table(case)
    assert lines[2].startswith(f"| {LIMIT} | 1.00 [1.00-1.00] | 1 |")
    assert lines[3].startswith(f"| **{OURS}** | 2.10 [2.00-2.20] | 2.10 |")
    assert lines[4].startswith("| skopeo | no \\| idea |")


CRANE = "crane pull"
RAW = "curl x16 of the unique blobs, then openssl dgst"


def first_night(**costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a case for which reference.json has ratios to the raw limit, which takes a second here."""
    walls = {RAW: [cost(1.0, 3)], OURS: [cost(1.2, 5)], **costs}
    return {**document([1.2]), "base": RAW, "costs": walls, "programs": {"skopeo": "1.9.3"}}


def test_a_tool_that_is_not_here_stands_in_its_place_by_its_ratio_of_another_day(lab: Any) -> None:
    failed = {CRANE: [{**cost(0, 0, code=-1), "said": "not here: crane"}]}
    lines = lab("tables").table(first_night(**failed))
    assert [line.split(" | ")[0].strip("|* ") for line in lines[2:5]] == [RAW, OURS, "crane 0.21.9 pull"]
    assert lines[4].startswith("| crane 0.21.9 pull | by its ratio of 2026-11-28 | 1.54 |")
    assert not any("not here: crane" in line for line in lines)


def test_a_version_that_ran_here_is_not_shown_by_its_ratio_as_well(lab: Any) -> None:
    case = first_night(**{CRANE: [cost(1.5, 9)]})
    case["programs"] = {"crane": "0.21.9"}
    rows = [line for line in lab("tables").table(case) if "crane" in line]
    assert [row.split(" | ")[:3] for row in rows] == [["| crane 0.21.9 pull", "1.50", "1.50"]]


def test_a_missing_tool_counts_in_goals_by_its_ratio_to_the_raw_limit(lab: Any) -> None:
    measured = lab("measure").Cost
    costs = {RAW: [measured(1.0, 1, 9)], OURS: [measured(1.1, 1, 9)], CRANE: [measured(0, 0, 0, -1)]}
    case = lab("scenario").Case("tree", "", RAW, costs, reference=lab("reference").of("cold", "tree"))
    case.ahead(3, "ahead of", 1.0, OURS, [CRANE, "another tool"])
    assert [(goal.by_ratio, goal.met, round(goal.measured, 2)) for goal in case.goals] == [(True, True, 1.4)]


def test_the_lab_counts_fewer_requests_of_a_dry_run_than_repositories_and_manifests() -> None:
    command = [sys.executable, "benchmarks", "--quick", "quay/dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    row = next(line for line in done.stdout.splitlines() if line.startswith("| **quaymirror sync**"))
    heads = int(row.split(" | ")[8])
    assert heads <= 8 + 11


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_far_registry_gets_a_request_once_the_link_would_have_carried_it(
    is_chunked: bool, lab: Any, tmp_path: Path
) -> None:
    front = lab("front")
    link = front.Link(round_trip=0.05, rate=1_000_000)
    if shutil.which("nginx") is None or not link.waits_in_nginx:
        pytest.skip("nginx with Lua is not installed")

    with _Receiving() as server, lab("relay").relay(server.server_port, tmp_path / "relay", link) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        began = time.monotonic()
        body = iter([bytes(100_000)]) if is_chunked else bytes(100_000)
        connection.request("PATCH", "/v2/x/blobs/uploads/1", body, encode_chunked=is_chunked)
        location = connection.getresponse().headers["Location"]
        assert time.monotonic() - began >= 0.15
        assert location == f"http://127.0.0.1:{port}/there"
        connection.close()
        assert server.received == [100_000]


class _Receiving(http.server.ThreadingHTTPServer):
    """A server that answers a PATCH with its own address, as registries do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[int] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self) -> _Receiving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Receiving

    def do_PATCH(self) -> None:
        self.server.received.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(202)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/there")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
