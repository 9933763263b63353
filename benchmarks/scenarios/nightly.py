"""The nights after: nothing changed, or three images did; near and far away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import corpus, measure, peers
from lab.corpus import Corpus
from lab.front import FAR, NEAR, Front
from lab.measure import Contestant, Cost, divided
from lab.scenario import Case, Lab, Scenario, facts

_IMPORT = "python -c 'import aiohttp'"
_LISTING = "curl of the listing"
_STARTUP = "quaymirror sync, no server"
_TITLES = {
    "unchanged": "A night in which nothing changed",
    "changed": "A night in which three images changed",
    "unchanged-far": "A night in which nothing changed, far away",
    "changed-far": "A night in which three images changed, far away",
    "unchanged-many": "A night in which nothing changed, of many repositories",
}


def run(lab: Lab) -> Iterator[Case]:
    """Measure all contestants with yesterday's images in a directory of their own."""
    for suffix in ("", "-far"):
        if lab.wants(f"unchanged{suffix}") or lab.wants(f"changed{suffix}"):
            content = corpus.kolla_tree(lab.home / "nights", **_small(lab, images=8, scale=0.1))
            yield from (case for case in _nights(lab, content, suffix) if lab.wants(case.name))

    if lab.wants("unchanged-many"):
        content = corpus.tiny(lab.home / "nights", **_small(lab, repositories=120, images=60))
        yield from _nights(lab, content, "-many")


def _small(lab: Lab, **size: Any) -> dict[str, Any]:
    return size if lab.quick else {}


def _nights(lab: Lab, content: Corpus, suffix: str) -> Iterator[Case]:
    before = facts(content)
    unchanged: dict[str, list[Cost]] = {}
    changed: dict[str, list[Cost]] = {}
    try:
        with lab.served(content) as server:
            ports = server.quay_port, server.cdn_port
            contestants = _contestants(lab, server, content, suffix)
            for contestant in contestants:
                _night(lab, server, contestant)

        # At the same ports: clients remember a server by its name.
        with lab.served(content, link=FAR if suffix == "-far" else NEAR, ports=ports) as server:

            def turn(contestant: Contestant) -> Cost:
                return _night(lab, server, contestant)

            for number in range(lab.rounds):
                measure.compare(contestants, turn, rounds=1, costs=unchanged)
                if suffix != "-many":
                    corpus.change(content, content.images[:3], number + 1)
                    measure.compare(contestants, turn, rounds=1, costs=changed)
    finally:
        for place in ("nights", "yesterday"):
            shutil.rmtree(lab.home / place, ignore_errors=True)

    for name, costs in ((f"unchanged{suffix}", unchanged), (f"changed{suffix}", changed)):
        if costs:
            case = Case(name, _TITLES[name], _IMPORT, costs, before, counts=("requests", "bytes", "written"))
            _goals(case, content)
            yield case


def _night(lab: Lab, server: Front, contestant: Contestant) -> Cost:
    """Run it over the result of the night before."""
    out = lab.home / "yesterday" / "".join(filter(str.isalnum, contestant.name))
    server.asked()
    began = time.time_ns()
    cost = measure.run(contestant, out)
    written = sum(file.lstat().st_mtime_ns >= began for file in _files(out))
    return measure.with_counts(cost, {**server.asked(), "written": written})


def _files(out: Path) -> Iterator[Path]:
    """Yield the files with content, without the state, which changes with each run."""
    return (file for file in out.rglob("*") if ".quaymirror" not in file.parts and file.is_file())


def _contestants(lab: Lab, server: Front, content: Corpus, suffix: str) -> list[Contestant]:
    absent = Front(server.home, 9, 9, "http", None)
    startup = peers.ours(absent, "--retries 0", to="{out}/nowhere", name=_STARTUP)
    # Page after page, over one connection, since each page has the address of the next one.
    pages = " ".join(f"'{server.url}/api/v1/repository?next_page={number + 1}'" for number in range(content.pages))
    ours = peers.ours(server)
    found = [
        ours,
        *lab.before(ours),
        Contestant(_IMPORT, f"{peers.PYTHON} -c 'import aiohttp'", always=True),
        Contestant(_STARTUP, f"{startup.command} || true", always=True),
        Contestant(_LISTING, f"curl -sS --fail {pages} > $TMPDIR/pages", ("curl",), always=True),
    ]
    others = [
        peers.skopeo_copy(server, content, lab.home),
        peers.skopeo_sync(server, content, lab.home),
        peers.occystrap(server),
        peers.crane(server, content),
        peers.regsync(server, content, lab.home),
    ]
    return lab.chosen(found if suffix == "-many" else [*found, *others], _IMPORT)


def _goals(case: Case, content: Corpus) -> None:
    if case.name.startswith("changed"):
        return

    case.at_most(7, "requests", content.pages, case.median(peers.OURS, "requests"))
    case.at_most(7, "files written", 0, case.median(peers.OURS, "written"))
    starts, lists = case.median(_IMPORT, "wall"), case.median(_LISTING, "wall")
    allowed = None if starts is None or lists is None else 1.2 * starts + lists
    wall = divided(case.median(peers.OURS, "wall"), allowed)
    case.at_most(7, "wall, beside 1.2 imports of aiohttp and the listing", 1.0, wall)
    if case.name == "unchanged":
        case.at_most(7, "wall, beside importing aiohttp", 1.35, case.ratio(peers.OURS, _IMPORT))
        case.at_most(7, "start-up, beside importing aiohttp", 1.2, case.ratio(_STARTUP, _IMPORT))


SCENARIO = Scenario("nightly", "the nights after: nothing changed, or little", tuple(_TITLES), run, is_checked=True)
