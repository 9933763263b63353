"""The requests of a push into a registry with Quay's tokens: counts, which have no noise, beside commit 92e26c5.

Source and target are servers of the tests in this process. Their times say nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import measure, peers
from lab.corpus import ORGANIZATION, TAG
from lab.front import Front
from lab.measure import Contestant, Cost
from lab.scenario import Case, Lab, Scenario

from quaymirror.testing import QuayServer, Registry, kolla_like

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

if TYPE_CHECKING:
    from receiver import Receiver

_IMAGES = 52
_CASES = {
    "push": (f"{_IMAGES} images into a registry with Quay's tokens", ""),
    "dry-run": (f"A dry run of {_IMAGES} images into a registry with Quay's tokens", "--dry-run"),
}
_COUNTS = ("requests", "refused", "tokens", "heads", "posts", "puts")


def run(lab: Lab) -> Iterator[Case]:
    """Count the requests of a first push, and of a dry run, once: they hardly vary."""
    wanted = {name: words for name, words in _CASES.items() if lab.wants(name)}
    if not wanted:
        return

    registry, manifests = _content(8 if lab.quick else _IMAGES)
    with _servers(registry) as servers:
        for name, (title, option) in wanted.items():
            case = Case(name, title, peers.OURS, _costs(lab, servers, option), counts=_COUNTS)
            if name == "push":
                ratio = measure.divided(case.median(peers.OURS, "requests"), case.median(peers.BEFORE, "requests"))
                case.at_most(6, "requests, beside 92e26c5", 0.7, ratio)
            else:
                allowed = len(registry.repositories()) + manifests
                what = "requests without tokens, one per repository and one per manifest"
                case.at_most(6, what, allowed, case.median(peers.OURS, "heads"))

            yield case


def _content(images: int) -> tuple[Registry, int]:
    """Return an organization, and the number of its manifests; one image is an index."""
    registry, manifests = Registry(), 0
    for name, image in kolla_like(images, layer_size=2_000).items():
        registry.organization(ORGANIZATION).repository(name).push(TAG, image)
        manifests += len([*image.walk()])

    return registry, manifests


def _costs(lab: Lab, servers: _Servers, option: str) -> dict[str, list[Cost]]:
    to = f"'registry://{servers.host}?insecure=true'"
    ours = peers.ours(servers.source, "--state {out}/state", option, to=to)

    def turn(contestant: Contestant) -> Cost:
        servers.empty()
        return measure.with_counts(measure.run(contestant, measure.fresh(lab.home / "out")), servers.asked())

    return measure.compare(lab.chosen([ours, *lab.before(ours)], peers.OURS), turn, rounds=1)


@dataclass(frozen=True, slots=True)
class _Servers:
    """A source, as Quay, and a target: the address of the one, and what was asked of the other."""

    source: Front
    target: Receiver

    @property
    def host(self) -> str:
        return self.target.host

    def empty(self) -> None:
        """Remove all images and requests of the target."""
        for content in (self.target.requests, self.target.blobs, self.target.manifests, self.target.uploads):
            content.clear()

        self.target.challenges = 0

    def asked(self) -> dict[str, int]:
        """Return the counts of requests since `empty`."""
        methods = Counter(request.method for request in self.target.requests)
        return {
            "requests": len(self.target.requests),
            "refused": self.target.challenges,
            "tokens": sum(request.path == "/token" for request in self.target.requests),
            "heads": methods["HEAD"],
            "posts": methods["POST"],
            "puts": methods["PUT"],
        }


@contextlib.contextmanager
def _servers(registry: Registry) -> Iterator[_Servers]:
    """Run both servers in a thread while the context lasts."""
    from receiver import Receiver

    found: list[_Servers] = []
    ready, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with QuayServer(registry) as source, Receiver(tokens=True) as target:
            host, _, port = source.url.removeprefix("http://").partition(":")
            assert host == "127.0.0.1"
            found.append(_Servers(Front(Path(), int(port), int(port), "http", None), target))
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        ready.wait(20)
        yield found[0]
    finally:
        ended.set()
        thread.join(20)


SCENARIO = Scenario("quay", "requests into a registry with Quay's tokens", tuple(_CASES), run)
