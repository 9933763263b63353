"""Far away: a round trip of 50 ms, and 20 MB/s for each connection. This is where users are."""

from __future__ import annotations

from collections.abc import Iterator

from lab import peers, reference
from lab.front import FAR
from lab.measure import Contestant
from lab.scenario import BIG_BYTES, Case, Lab, Scenario, facts

_TITLES = {
    "tree": "The tree of images, far away",
    "tree-tls": "The tree of images, far away, over TLS",
    "big": "Four huge layers, far away",
    "big-tls": "Four huge layers, far away, over TLS",
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
        ours, told, *others = [one for one in peers.to_disk(server, content, lab.home) if one.name != peers.SKOPEO_SYNC]
        costs = lab.compare([*limits, ours, told, *lab.before(ours, told), *others], base=base, asked=server.asked)

    link = {"round_trip_ms": FAR.round_trip * 1000, "bytes_a_second": FAR.rate, "in_nginx": FAR.waits_in_nginx}
    known = reference.of("wan", name)
    case = Case(name, _TITLES[name], base, costs, {**facts(content), "link": link}, reference=known)
    limit = "aria2c with 16 connections a file" if kind == "big" else "the raw limit"
    case.at_most(8, f"wall, beside {limit}", 1.1, case.ratio(peers.OURS, base))
    case.ahead(8, "ahead of", 4.0, peers.OURS, peers.OTHERS)
    if tls:
        case.at_most(10, "peak memory, MiB", 100, case.median(peers.OURS, "peak_mib"))

    return case


SCENARIO = Scenario("wan", "50 ms away, 20 MB/s for each connection", tuple(_TITLES), run, is_checked=True)
