"""The scenarios, in the order in which they run and are shown."""

from __future__ import annotations

from lab.scenario import Scenario

from . import cold, nightly, wan

ALL: dict[str, Scenario] = {module.SCENARIO.name: module.SCENARIO for module in (cold, wan, nightly)}
