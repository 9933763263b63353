"""The cost of safety against power loss: on a real disk, with fsync and without."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import measure, peers
from lab.measure import Contestant, Cost
from lab.scenario import Case, Lab, Scenario, facts

_BATCH, _NEVER = "quaymirror sync --fsync batch", "quaymirror sync --fsync never"
# By convention not in memory: it survives a restart.
_DISK = Path("/var/tmp")


def run(lab: Lab) -> Iterator[Case]:
    """Measure with the organization in memory and the mirror on the disk."""
    if not lab.wants("tree"):
        return

    content = lab.corpus("tree")
    with tempfile.TemporaryDirectory(dir=_DISK, prefix="quaymirror-lab-") as disk, lab.served(content) as server:
        contestants = [
            peers.ours(server),
            peers.ours(server, "--fsync batch", name=_BATCH),
            peers.ours(server, "--fsync never", name=_NEVER),
        ]

        def turn(contestant: Contestant) -> Cost:
            out = measure.fresh(Path(disk) / "out")
            # Dirty pages of the one before would be written in this one's time.
            subprocess.run(["sync", "-f", disk], check=True, timeout=300)
            server.asked()
            return measure.with_counts(measure.run(contestant, out), server.asked())

        costs = measure.compare(contestants, turn, rounds=lab.rounds)

    case = Case("tree", "A tree of images onto a disk, with fsync and without", _NEVER, costs, facts(content))
    case.at_most(12, "wall, beside no fsync", 1.25, case.ratio(peers.OURS, _NEVER))
    yield case


SCENARIO = Scenario("durability", "what fsync costs", ("tree",), run)
