"""Images as occystrap writes them, unfiltered and filtered, beside occystrap itself, and over TLS."""

from __future__ import annotations

from collections.abc import Iterator

from lab import peers
from lab.scenario import Case, Lab, Scenario, facts

_FILTERS = {"unfiltered": [], "filtered": ["-f normalize-timestamps"]}
_GOALS = {"unfiltered": 2.8, "filtered": 8.0}
_CASES = tuple(f"{kind}{suffix}" for kind in _GOALS for suffix in ("", "-tls"))


def run(lab: Lab) -> Iterator[Case]:
    """Measure both with layers of which half compresses well: decompression costs both the same."""
    for name in _CASES:
        if lab.wants(name):
            kind, _, tls = name.partition("-")
            content, filters = lab.corpus("derivable"), _FILTERS[kind]
            with lab.served(content, tls=bool(tls)) as server:
                contestants = [
                    peers.ours(server, *filters, to="dir://{out}/images"),
                    peers.occystrap(server, *filters),
                    peers.occystrap(server, *filters, images=16),
                ]
                costs = lab.compare(contestants, base=peers.OURS, asked=server.asked)

            title = f"Images in dir://, {kind}{', over TLS' if tls else ''}"
            case = Case(name, title, peers.OURS, costs, facts(content))
            case.at_least(9, "ahead of occystrap -J 3 -j 4", _GOALS[kind], case.ratio(peers.OCCYSTRAP, peers.OURS))
            yield case


SCENARIO = Scenario("derived", "images for other tools, beside occystrap", _CASES, run)
