"""The arithmetic of the benchmarks: the verdict on a regression, and failures in tables."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

OURS, LIMIT = "quaymirror sync", "curl"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import from the lab as its command does."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
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
