"""Peak memory, by the number of repositories and by the size of a layer: it is to be flat."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from lab import corpus, measure, peers
from lab.corpus import Corpus
from lab.measure import Cost
from lab.scenario import Case, Lab, Scenario

_REPOSITORIES = (100, 1_000, 5_000, 20_000)
_FAILURES = (30, 300, 3_000)
_MEGABYTES = (1, 32, 256, 1_000, 4_000)
_GROWTH_MIB = 25


def run(lab: Lab) -> Iterator[Case]:
    """Measure one organization per size; 1 % of the repositories have the tag."""
    if lab.wants("repositories"):
        sizes = {
            f"{n:,} repositories": partial(corpus.tiny, repositories=n, images=n // 100)
            for n in _REPOSITORIES[: 2 if lab.quick else None]
        }
        yield _case(lab, "repositories", "Peak memory by the number of repositories", sizes)

    if lab.wants("layers"):
        lab.drop("big")  # later scenarios make it again
        sizes = {
            f"a layer of {n:,} MB": partial(corpus.big, images=1, size=n * 1_000_000)
            for n in _MEGABYTES[: 3 if lab.quick else None]
            if lab.has_room(2_100_000 * n)
        }
        yield _case(lab, "layers", "Peak memory by the size of a layer", sizes)

    if lab.wants("failures"):
        sizes = {
            f"{n:,} failed images": partial(corpus.broken, images=n) for n in _FAILURES[: 2 if lab.quick else None]
        }
        yield _case(lab, "failures", "Peak memory by the number of failed images", sizes, code=3)


def _case(lab: Lab, name: str, title: str, sizes: Mapping[str, Callable[..., Corpus]], *, code: int = 0) -> Case:
    """Measure one size after the other; the command ends with this exit code."""
    costs: dict[str, list[Cost]] = {}
    for size, make in sizes.items():
        content = make(lab.home / "memory")
        try:
            with lab.served(content) as server:
                contestant = peers.ours(server, name=f"quaymirror sync, {size}")
                if code:
                    contestant = replace(contestant, command=f"{contestant.command}; test $? -eq {code}")

                def turn(contestant: measure.Contestant, asked: Callable[[], dict[str, int]] = server.asked) -> Cost:
                    asked()
                    cost = measure.run(contestant, measure.fresh(lab.home / "out"))
                    return measure.with_counts(cost, asked())

                measure.compare([contestant], turn, rounds=lab.rounds, costs=costs)
        finally:
            for place in ("memory", "out"):
                shutil.rmtree(lab.home / place, ignore_errors=True)

    base = next(iter(costs))
    case = Case(name, title, base, costs)
    peaks = [peak for peak in (case.median(size, "peak_mib") for size in costs) if peak is not None]
    grown = max(peaks) - peaks[0] if len(peaks) == len(costs) else None
    case.at_most(10, "growth of peak memory, MiB", _GROWTH_MIB, grown)
    return case


SCENARIO = Scenario("memory", "peak memory, by what there is", ("repositories", "layers", "failures"), run)
