"""From a registry into another one, empty or with all of it there already."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lab import measure, peers
from lab.corpus import ORGANIZATION, Corpus
from lab.front import Front
from lab.measure import Contestant, Cost
from lab.scenario import Case, Lab, Scenario, facts

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

_BASE = "skopeo sync"
_OTHERS = (_BASE, "skopeo copy x8", "crane copy x8", "regsync x4")
_COUNTS = ("requests", "bytes", "uploads", "mounts", "heads")


def run(lab: Lab) -> Iterator[Case]:
    """Measure both cases in the same runs: the second one finds the images that the first one pushed."""
    if not (lab.wants("cold") or lab.wants("again")):
        return

    if shutil.which("docker-registry") is None:
        print("\ndocker-registry is not here: nothing to push to")
        return

    content = lab.corpus("tree")
    cold: dict[str, list[Cost]] = {}
    again: dict[str, list[Cost]] = {}
    with lab.served(content) as server, EmptyRegistry(lab.home / "target") as target:
        contestants = lab.chosen(_contestants(lab, server, content, target), _BASE)

        def turn(contestant: Contestant) -> Cost:
            # Each contestant gets an empty registry: it could mount blobs that another one pushed.
            target.empty()
            out = measure.fresh(lab.home / "out")
            first = _counted(contestant, out, server, target)
            if not first.code:
                again.setdefault(contestant.name, []).append(_counted(contestant, out, server, target))

            return first

        measure.compare(contestants, turn, rounds=lab.rounds, costs=cold)

    if lab.wants("cold"):
        case = Case("cold", "Into another registry", _BASE, cold, facts(content), counts=_COUNTS)
        case.ahead(6, "ahead of", 5.0, peers.OURS, _OTHERS)
        case.at_most(6, "uploads", len(content.unique), case.median(peers.OURS, "uploads"))
        yield case

    if lab.wants("again"):
        title = "Into another registry, which has everything"
        yield Case("again", title, _BASE, again, facts(content), counts=_COUNTS)


def _counted(contestant: Contestant, out: Path, server: Front, target: EmptyRegistry) -> Cost:
    server.asked()
    target.registry.forget()
    cost = measure.run(contestant, out)
    return measure.with_counts(cost, {**server.asked(), **target.asked()})


def _contestants(lab: Lab, server: Front, content: Corpus, target: EmptyRegistry) -> list[Contestant]:
    to = f"{target.registry.host}/{ORGANIZATION}"
    ours = f"'registry://{target.registry.host}/{ORGANIZATION}?insecure=true'"
    return [
        peers.ours(server, "--state {out}/state", to=ours),
        peers.skopeo_sync(server, content, lab.home, to),
        peers.skopeo_copy(server, content, lab.home, to),
        peers.crane(server, content, to),
        peers.regsync(server, content, lab.home, to),
    ]


class EmptyRegistry:
    """Debian's docker-registry, as the tests run it."""

    def __init__(self, home: Path) -> None:
        from peers import DockerRegistry

        home.mkdir()
        self._home = home
        self.registry = DockerRegistry(home)

    def empty(self) -> None:
        """Remove all images and requests."""
        self.registry.kill()
        shutil.rmtree(self._home / "registry", ignore_errors=True)
        self.registry.start()

    def asked(self) -> dict[str, int]:
        """Return the counts of requests since the last `forget`."""
        asked = self.registry.requests()
        return {
            "uploads": sum(r.method == "PUT" and "/blobs/uploads/" in r.path and r.status == 201 for r in asked),
            "mounts": sum(r.method == "POST" and "mount=" in r.path and r.status == 201 for r in asked),
            "heads": sum(r.method == "HEAD" for r in asked),
        }

    def __enter__(self) -> EmptyRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.registry.kill()
        shutil.rmtree(self._home, ignore_errors=True)


SCENARIO = Scenario("registry", "into another registry", ("cold", "again"), run, is_checked=True)
