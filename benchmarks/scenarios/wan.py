"""Far away: a round trip of 50 ms, and 20 MB/s for each connection. This is where users are."""

from __future__ import annotations

from collections.abc import Iterator

from lab import peers
from lab.front import FAR
from lab.measure import Contestant
from lab.scenario import BIG_BYTES, Case, Lab, Scenario, facts

_TITLES = {
    "tree": "The tree of images, far away",
    "tree-tls": "The tree of images, far away, over TLS",
    "big": "Four huge layers, far away",
}


def run(lab: Lab) -> Iterator[Case]:
    """Measure all contestants with empty targets."""
    for name in _TITLES:
        is_big = name.startswith("big")
        if lab.wants(name) and not (is_big and (lab.checking or not lab.has_room(0 if lab.quick else BIG_BYTES))):
            yield _case(lab, name)


def _case(lab: Lab, name: str) -> Case:
    kind, _, tls = name.partition("-")
    content = lab.corpus(kind)
    base = peers.ARIA_16 if kind == "big" else peers.RAW_64
    with lab.served(content, tls=bool(tls), link=FAR) as server:
        limits: list[Contestant] = (
            [peers.aria2c(server, content, lab.home, connections) for connections in (16, 4)]
            if kind == "big"
            else [peers.raw(server, content, lab.home, parallel) for parallel in (64, 16)]
        )
        # skopeo sync takes minutes here, one image after the other: the contestant is eight skopeo copies.
        others = [one for one in peers.to_disk(server, content, lab.home) if one.name != peers.SKOPEO_SYNC]
        costs = lab.compare([*limits, *others], base=base, asked=server.asked)

    link = {"round_trip_ms": FAR.round_trip * 1000, "bytes_a_second": FAR.rate, "in_nginx": FAR.waits_in_nginx}
    case = Case(name, _TITLES[name], base, costs, {**facts(content), "link": link})
    if kind == "big":
        case.at_most(8, "wall, beside aria2c with 16 connections a file", 1.15, case.ratio(peers.OURS, base))
    else:
        case.at_most(8, "wall, beside the raw limit", 1.25, case.ratio(peers.OURS, base))
        case.ahead(8, "ahead of", 5.0, peers.OURS, peers.OTHERS)

    return case


SCENARIO = Scenario("wan", "50 ms away, 20 MB/s for each connection", tuple(_TITLES), run, is_checked=True)
