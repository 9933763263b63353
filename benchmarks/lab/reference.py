"""Tools that this machine lacks: how long they took on another day, beside a row that runs here as well.

`benchmarks/reference.json` has their times, and that of a row which is measured in each run. Only the quotient of both
is used. It stands in tables, marked with the versions of that day, and for a missing tool in goals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[1] / "reference.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """The ratios of the wall times of other tools to that of the row `beside`, by their names."""

    beside: str = ""
    ratios: Mapping[str, float] = field(default_factory=dict)


def of(scenario: str, case: str) -> Reference:
    """Return the ratios that are known of a case; none for most of them."""
    known = _loaded()["cases"].get(f"{scenario}/{case}")
    if known is None:
        return Reference()

    return Reference(known["beside"], {name: round(wall / known["wall"], 2) for name, wall in known["walls"].items()})


def day() -> str:
    """Return the day of the measurements."""
    return str(_loaded()["day"])


def version(name: str) -> str:
    """Return the version that the tool of a row had that day."""
    return str(_loaded()["programs"][name.partition(" ")[0]])


@cache
def _loaded() -> Any:
    return json.loads(_FILE.read_text())
