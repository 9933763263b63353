"""The cost of the dashboard: the same sync in a terminal, with it and without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lab import peers
from lab.front import FAR, NEAR, Front
from lab.measure import Contestant
from lab.scenario import Case, Lab, Scenario, facts

_RICH = "quaymirror sync --progress rich"
_TITLES = {
    "near": "The dashboard, beside none",
    "far": "The dashboard, beside none, far away",
    "many": "The dashboard of 3,000 small images, beside none",
}
# The organization, the link, and how many times more rounds than usual: a run of a second differs by hundredths.
_CASES = {"near": ("tree", NEAR, 4), "far": ("tree", FAR, 4), "many": ("many", NEAR, 1)}
_TIMEOUT = 1_800.0


def run(lab: Lab) -> Iterator[Case]:
    """Measure both in a terminal whose output is read."""
    for name, (kind, link, more) in _CASES.items():
        if lab.wants(name):
            content = lab.corpus(kind)
            with lab.served(content, link=link) as server:
                contestants = [_terminal(server, "none", peers.OURS), _terminal(server, "rich", _RICH)]
                rounds = lab.rounds if lab.quick else lab.rounds * more
                costs = lab.compare(contestants, base=peers.OURS, asked=server.asked, rounds=rounds, timeout=_TIMEOUT)

            case = Case(name, _TITLES[name], peers.OURS, costs, facts(content))
            case.at_most(11, "wall, beside none", 1.03, case.ratio(_RICH, peers.OURS))
            yield case


def _terminal(server: Front, progress: str, name: str) -> Contestant:
    one = peers.ours(server, f"--progress {progress}", name=name)
    wrapper = Path(__file__).parents[1] / "lab" / "terminal.py"
    return replace(one, command=f"{peers.PYTHON} -P {wrapper} {one.command}")


SCENARIO = Scenario("dashboard", "what the dashboard costs", tuple(_TITLES), run)
