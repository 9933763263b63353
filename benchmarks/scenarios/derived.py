"""Images as occystrap writes them, unfiltered and filtered, beside occystrap itself."""

from __future__ import annotations

from collections.abc import Iterator

from lab import peers
from lab.scenario import Case, Lab, Scenario, facts

_FILTERS = {"unfiltered": [], "filtered": ["-f normalize-timestamps"]}
_GOALS = {"unfiltered": 8.0, "filtered": 2.0}


def run(lab: Lab) -> Iterator[Case]:
    """Measure both with layers of which half compresses well: decompression costs both the same."""
    for name, filters in _FILTERS.items():
        if lab.wants(name):
            content = lab.corpus("derivable")
            with lab.served(content) as server:
                contestants = [
                    peers.ours(server, *filters, to="dir://{out}/images"),
                    peers.occystrap(server, *filters),
                    peers.occystrap(server, *filters, images=16),
                ]
                costs = lab.compare(contestants, base=peers.OURS, asked=server.asked)

            case = Case(name, f"Images in dir://, {name}", peers.OURS, costs, facts(content))
            case.at_least(9, "ahead of occystrap -J 3 -j 4", _GOALS[name], case.ratio(peers.OCCYSTRAP, peers.OURS))
            yield case


SCENARIO = Scenario("derived", "images for other tools, beside occystrap", tuple(_GOALS), run)
