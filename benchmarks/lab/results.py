"""The recorded results of cases: one JSON document each."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import measure, peers
from .scenario import Case, Scenario

Document = dict[str, Any]


def document(scenario: Scenario, case: Case, *, quick: bool) -> Document:
    """Return the document of a case."""
    return {
        "scenario": scenario.name,
        "about": scenario.about,
        "case": case.name,
        "title": case.title,
        "base": case.base,
        "command": f"nox -s bench -- {scenario.name}/{case.name}",
        "quick": quick,
        "day": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": measure.machine(),
        "programs": peers.versions(),
        "facts": case.facts,
        "goals": [{**asdict(goal), "met": goal.met} for goal in case.goals],
        "counts": list(case.counts),
        "costs": {name: [_rounded(asdict(cost)) for cost in runs] for name, runs in case.costs.items()},
    }


def save(document: Document, directory: Path) -> Path:
    """Write it to a file of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{document['scenario']}.{document['case']}.json"
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return file


def load(directory: Path, scenario: str, case: str) -> Document | None:
    """Return the recorded document of a case, or None."""
    file = directory / f"{scenario}.{case}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _rounded(cost: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in cost.items()}
