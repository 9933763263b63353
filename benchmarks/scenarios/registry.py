"""From a registry into another one, empty or with all of it there already; near, and with one or both far away."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lab import measure, peers, reference
from lab.corpus import ORGANIZATION, Corpus
from lab.front import FAR, NEAR, Front, Link
from lab.measure import Contestant, Cost
from lab.relay import relay
from lab.scenario import Case, Lab, Scenario, facts

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

_BASE = "skopeo sync"
_OTHERS = (_BASE, "skopeo copy x8", "crane copy x8", "regsync x4", "regsync x16")
_COUNTS = ("requests", "bytes", "uploads", "mounts", "heads")
# The links to the source and to the target.
_FAR = {
    "far-source": ("Into another registry, the source far away", FAR, NEAR),
    "far-target": ("Into another registry, the target far away", NEAR, FAR),
    "far": ("Into another registry, both far away", FAR, FAR),
}
# Tools that copy one image after the other take minutes there.
_TIMEOUT = 900.0


def run(lab: Lab) -> Iterator[Case]:
    """Measure near, where the second case finds the images that the first one pushed, and then far away."""
    if shutil.which("docker-registry") is None:
        print("\ndocker-registry is not here: nothing to push to")
        return

    if lab.wants("cold") or lab.wants("again"):
        yield from _near(lab)

    for name, (title, source, target) in _FAR.items():
        if lab.wants(name) and not lab.checking:
            yield _far(lab, name, title, source, target)


def _near(lab: Lab) -> Iterator[Case]:
    content = lab.corpus("tree")
    cold: dict[str, list[Cost]] = {}
    again: dict[str, list[Cost]] = {}
    with lab.served(content) as server, EmptyRegistry(lab.home / "target") as target:
        contestants = lab.chosen(_contestants(lab, server, content, target.registry.host), _BASE)

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
        known = reference.of("registry", "cold")
        case = Case("cold", "Into another registry", _BASE, cold, facts(content), counts=_COUNTS, reference=known)
        _goals(case, content)
        yield case

    if lab.wants("again"):
        title = "Into another registry, which has everything"
        yield Case("again", title, _BASE, again, facts(content), counts=_COUNTS)


def _far(lab: Lab, name: str, title: str, source: Link, link: Link) -> Case:
    content = lab.corpus("tree")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(lab.served(content, link=source))
        target = stack.enter_context(EmptyRegistry(lab.home / "target"))
        host = target.registry.host
        if link != NEAR:
            host = f"127.0.0.1:{stack.enter_context(relay(target.registry.port, lab.home / 'relay', link))}"

        def turn(contestant: Contestant) -> Cost:
            target.empty()
            return _counted(contestant, measure.fresh(lab.home / "out"), server, target)

        contestants = lab.chosen(_contestants(lab, server, content, host), peers.OURS)
        costs = measure.compare(contestants, turn, rounds=lab.rounds)

    shutil.rmtree(lab.home / "relay", ignore_errors=True)
    words = {"round_trip_ms": FAR.round_trip * 1000, "bytes_a_second": FAR.rate, "in_nginx": FAR.waits_in_nginx}
    case = Case(name, title, peers.OURS, costs, {**facts(content), "link": words}, counts=_COUNTS)
    _goals(case, content)
    return case


def _goals(case: Case, content: Corpus) -> None:
    case.ahead(6, "ahead of", 5.0, peers.OURS, _OTHERS)
    case.at_most(6, "CPU, beside 92e26c5", 0.7, case.cpu(peers.OURS, peers.BEFORE))
    case.at_most(6, "uploads", len(content.unique), case.median(peers.OURS, "uploads"))


def _counted(contestant: Contestant, out: Path, server: Front, target: EmptyRegistry) -> Cost:
    server.asked()
    target.registry.forget()
    cost = measure.run(contestant, out, timeout=_TIMEOUT)
    return measure.with_counts(cost, {**server.asked(), **target.asked()})


def _contestants(lab: Lab, server: Front, content: Corpus, host: str) -> list[Contestant]:
    to = f"{host}/{ORGANIZATION}"
    address, state = f"'registry://{to}?insecure=true'", "--state {out}/state"
    ours = peers.ours(server, state, to=address)
    return [
        ours,
        peers.told(server, content, lab.home, state, to=address),
        *lab.before(ours),
        peers.skopeo_sync(server, content, lab.home, to),
        peers.skopeo_copy(server, content, lab.home, to),
        peers.crane(server, content, to),
        peers.regsync(server, content, lab.home, to),
        peers.regsync(server, content, lab.home, to, parallel=16),
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


SCENARIO = Scenario("registry", "into another registry", ("cold", "again", *_FAR), run, is_checked=True)
