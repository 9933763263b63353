"""A first sync with some of the cores, 1, 2, 4 and 8 as far as this machine has them.

The servers may use all cores: for users, they are other machines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from lab import peers
from lab.scenario import Case, Lab, Scenario, facts

_NUMBERS = (1, 2, 4, 8)
_CASES = {f"tree-{number}": number for number in _NUMBERS}
# These take far longer than all others together, with any number of cores.
_SLOW = frozenset({peers.SKOPEO_SYNC, peers.OCCYSTRAP})


def run(lab: Lab) -> Iterator[Case]:
    """Measure all contestants with each number of cores; each case has its own raw limit."""
    cores = sorted(os.sched_getaffinity(0))
    for name, number in _CASES.items():
        if lab.wants(name) and number <= len(cores):
            yield _case(lab, name, cores[:number])


def _case(lab: Lab, name: str, cores: list[int]) -> Case:
    content = lab.corpus("tree")
    with lab.served(content) as server:
        limit = peers.raw(server, content, lab.home, 16)
        ours, told, *others = peers.to_disk(server, content, lab.home)
        contestants = [limit, ours, told, *lab.before(ours, told), *others]
        pinned = [peers.pinned(one, cores) for one in contestants if one.name not in _SLOW]
        costs = lab.compare(pinned, base=peers.RAW, asked=server.asked)

    title = f"A tree of images into a layout, on {'one core' if len(cores) == 1 else f'{len(cores)} cores'}"
    return Case(name, title, peers.RAW, costs, facts(content))


SCENARIO = Scenario("cores", "a first sync with 1, 2, 4 and 8 cores", tuple(_CASES), run)
