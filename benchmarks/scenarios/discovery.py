"""Finding out which repositories have the tag: near, far, farther, and where Quay's own rate limits apply.

Wall is that of the discovery alone here, without the start of a process; CPU is that of the whole process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lab import corpus, measure, peers
from lab.corpus import ORGANIZATION, TAG, Corpus
from lab.front import Front, Link
from lab.measure import Contestant, Cost, divided
from lab.scenario import Case, Lab, Scenario, facts

_REPOSITORIES = (1_000, 5_000)
_MILLISECONDS = (0, 50, 100)
_CONCURRENCY = 16
_OCCYSTRAP = f"occystrap's resolver, {_CONCURRENCY} workers"
_OCCYSTRAP_DEFAULT = "occystrap's resolver, 4 workers (its default)"
# The case with a goal: repositories, and seconds per round trip.
_GOAL = (1_000, 0.05)
_MINIMUM = f"the theoretical minimum of {_CONCURRENCY} at a time"
_LIMITED = "the theoretical minimum of Quay's limits"
_CASES = (*(f"{count}-{latency}ms" for count in _REPOSITORIES for latency in _MILLISECONDS), "limited")
_OURS = "quaymirror's discovery"
_LAB = Path(__file__).parents[1] / "lab"


def run(lab: Lab) -> Iterator[Case]:
    """Measure discovery with a tenth of the repositories having the tag; all of them have to be checked."""
    for repositories in (100, 300) if lab.quick else _REPOSITORIES:
        names = {f"{repositories}-{latency}ms": latency for latency in _MILLISECONDS}
        wanted = {name: latency for name, latency in names.items() if lab.wants(name)}
        if wanted:
            content = corpus.tiny(lab.home / "discovery", repositories=repositories, images=repositories // 10)
            for name, latency in wanted.items():
                yield _case(lab, content, name, latency / 1000)

            shutil.rmtree(content.site)

    if lab.wants("limited"):
        yield _limited(lab)


def _case(lab: Lab, content: Corpus, name: str, latency: float) -> Case:
    least = latency * (1 + max(content.pages, content.repositories / _CONCURRENCY))
    with lab.served(content, link=Link(latency)) as server:

        def turn(contestant: Contestant) -> Cost:
            server.asked()
            cost = measure.run(contestant, measure.fresh(lab.home / "out"))
            return replace(measure.with_counts(cost, server.asked()), wall=cost.asked.get("seconds", cost.wall))

        is_goal = (content.repositories, latency) == _GOAL
        costs = measure.compare(_contestants(server, with_default=is_goal), turn, rounds=lab.rounds)

    if least:
        costs[_MINIMUM] = [Cost(least, 0, 0)] * lab.rounds

    title = f"Discovery in {content.repositories:,} repositories, {latency * 1000:.0f} ms away"
    base = _MINIMUM if least else _OURS
    case = Case(name, title, base, costs, facts(content), counts=("requests", "found"))
    if is_goal:
        case.at_most(1, "wall, beside the theoretical minimum", 1.15, case.ratio(_OURS, _MINIMUM))
        case.ahead(1, "ahead of", 3.0, _OURS, [_OCCYSTRAP, _OCCYSTRAP_DEFAULT])

    return case


def _contestants(server: Front, *, with_default: bool) -> list[Contestant]:
    """With its default, four workers, occystrap takes too long to be run everywhere."""
    resolve = f"{peers.elsewhere(server)} --resolve {ORGANIZATION} {TAG}"
    found = [
        Contestant(_OURS, f"{peers.PYTHON} -P {_LAB / 'discover.py'} {server.url} {TAG} > {{out}}/figures.json"),
        Contestant(_OCCYSTRAP, f"{resolve} {_CONCURRENCY} > {{out}}/figures.json"),
        Contestant(_OCCYSTRAP_DEFAULT, f"{resolve} 4 > {{out}}/figures.json"),
    ]
    return found if with_default else found[:2]


def _limited(lab: Lab) -> Case:
    """A server that is limited exactly like Quay's nginx, which runs in the same process."""
    repositories = 100 if lab.quick else 1_000
    command = f"{peers.PYTHON} -P {_LAB / 'limited.py'} --repositories {repositories} > {{out}}/figures.json"

    def turn(contestant: Contestant) -> Cost:
        cost = measure.run(contestant, measure.fresh(lab.home / "out"))
        return replace(cost, wall=cost.asked.get("seconds", cost.wall))

    costs = measure.compare([Contestant(_OURS, command)], turn, rounds=lab.rounds)
    costs[_LIMITED] = [Cost(cost.asked.get("minimum", 0), 0, 0) for cost in costs[_OURS]]
    words = [f"{repositories:,} repositories, as many requests a second as Quay's nginx lets through"]
    title, counts = "Discovery within Quay's rate limits", ("requests", "refused")
    case = Case("limited", title, _LIMITED, costs, {"words": words}, counts=counts)
    case.at_most(2, "wall, beside the theoretical minimum", 1.25, case.ratio(_OURS, _LIMITED))
    refused = divided(case.median(_OURS, "refused"), case.median(_OURS, "requests"))
    case.at_most(2, "share of requests refused", 0.01, refused)
    return case


SCENARIO = Scenario("discovery", "finding out which repositories have the tag", _CASES, run)
