"""A first sync to a layout: a tree of images, many tiny ones, a few huge ones; over plain HTTP and over TLS."""

from __future__ import annotations

from collections.abc import Iterator

from lab import peers, reference
from lab.corpus import Corpus
from lab.measure import divided
from lab.scenario import BIG_BYTES, Case, Lab, Scenario, facts

_TITLES = {
    "tree": "A tree of images that share layers, into a layout",
    "tiny": "Many repositories, few of them with the tag, tiny layers",
    "big": "Four images of one huge layer each",
}
_CASES = tuple(f"{kind}{suffix}" for kind in _TITLES for suffix in ("", "-tls"))


def run(lab: Lab) -> Iterator[Case]:
    """Measure all contestants with empty targets."""
    for name in _CASES:
        is_big = name.startswith("big")
        if lab.wants(name) and not (is_big and (lab.checking or not lab.has_room(0 if lab.quick else BIG_BYTES))):
            yield _case(lab, name)


def _case(lab: Lab, name: str) -> Case:
    kind, _, tls = name.partition("-")
    content = lab.corpus(kind)
    base = peers.RAW_4 if kind == "big" else peers.RAW
    with lab.served(content, tls=bool(tls)) as server:
        limit = peers.raw(server, content, lab.home, 4 if kind == "big" else 16)
        ours, told, *others = peers.to_disk(server, content, lab.home)
        contestants = [limit, ours, told, *lab.before(ours, told), *others]
        costs = lab.compare(contestants, base=base, asked=server.asked)

    title = _TITLES[kind] + (", over TLS" if tls else "")
    case = Case(name, title, base, costs, facts(content), reference=reference.of("cold", name))
    {"tree": _tree, "tiny": _tiny, "big": _big}[kind](case, content)
    return case


def _tree(case: Case, content: Corpus) -> None:
    limit, less = (1.45, 0.8) if case.name.endswith("-tls") else (1.5, 0.75)
    case.at_most(3, "CPU, told the names, beside 92e26c5", less, case.cpu(peers.TOLD, peers.BEFORE_TOLD))
    case.at_most(3, "wall, told the names, beside the raw limit", limit, case.ratio(peers.TOLD, case.base))
    case.ahead(3, "ahead of", 1.0, peers.OURS, peers.OTHERS)
    fetched = divided(case.median(peers.OURS, "bytes"), content.unique_bytes)
    case.at_most(3, "bytes fetched, beside those of the distinct blobs", 1.0, fetched)
    case.at_most(10, "peak memory, MiB", 80, case.median(peers.OURS, "peak_mib"))


def _tiny(case: Case, _content: Corpus) -> None:
    case.at_most(5, "wall, told the names, beside 92e26c5", 0.45, case.ratio(peers.TOLD, peers.BEFORE_TOLD))
    case.ahead(5, "ahead of, discovery included", 2.0, peers.OURS, peers.OTHERS)


def _big(case: Case, _content: Corpus) -> None:
    limit = 0.8 if case.name.endswith("-tls") else 0.7
    case.at_most(4, "wall, beside curl x4 and then openssl", limit, case.ratio(peers.OURS, case.base))
    case.ahead(4, "ahead of", 1.0, peers.OURS, peers.OTHERS)


SCENARIO = Scenario("cold", "a first sync to a layout, over plain HTTP and over TLS", _CASES, run, is_checked=True)
