"""Scenarios: cases, each of them with contestants that did the same job, and with goals."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import before, corpus, measure, peers
from .corpus import Corpus
from .front import NEAR, Front, Link, front
from .measure import Contestant, Cost
from .reference import Reference


@dataclass(frozen=True, slots=True)
class Goal:
    """An upper or lower limit of a number. `measured` is None if the tool it needs is missing.

    With `by_ratio` it is missing, but its ratio of another day is known.
    """

    number: int
    what: str
    limit: float
    measured: float | None
    at_least: bool = False
    by_ratio: bool = False

    @property
    def met(self) -> bool | None:
        """Return whether the goal is met; None if it was not measured."""
        if self.measured is None:
            return None

        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass(slots=True)
class Case:
    """One table: the costs of all contestants, the one that ratios are based on, and the counts that are shown."""

    name: str
    title: str
    base: str
    costs: dict[str, list[Cost]]
    facts: dict[str, Any] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    counts: tuple[str, ...] = ("requests", "bytes")
    reference: Reference = field(default_factory=Reference)

    def median(self, name: str, what: str) -> float | None:
        """Return the median of an attribute of a contestant's costs, or of a count."""
        return measure.median(self.costs.get(name, ()), what)

    def ratio(self, mine: str, theirs: str) -> float | None:
        """Return the ratio of the wall times of `mine` and `theirs`."""
        return measure.ratio(self.costs, mine, theirs)

    def cpu(self, mine: str, theirs: str) -> float | None:
        """Return the CPU time of `mine`, divided by that of `theirs`."""
        return measure.divided(self.median(mine, "cpu"), self.median(theirs, "cpu"))

    def at_most(self, number: int, what: str, limit: float, measured: float | None) -> None:
        """Add a goal: `measured` is at most `limit`."""
        self.goals.append(Goal(number, what, limit, measured))

    def at_least(self, number: int, what: str, limit: float, measured: float | None) -> None:
        """Add a goal: `measured` is at least `limit`."""
        self.goals.append(Goal(number, what, limit, measured, at_least=True))

    def ahead(self, number: int, what: str, limit: float, mine: str, others: Sequence[str]) -> None:
        """Add a goal against each of `others`: they take at least `limit` times as long as `mine`.

        Of one that is missing here, its ratio of another day counts.
        """
        for other in others:
            measured = self.ratio(other, mine)
            by_ratio = measured is None and other in self.reference.ratios
            if by_ratio:
                beside = self.ratio(mine, self.reference.beside)
                measured = measure.divided(self.reference.ratios[other], beside)

            if by_ratio or other in self.costs:
                self.goals.append(Goal(number, f"{what}: {other}", limit, measured, at_least=True, by_ratio=by_ratio))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario: its name, its subject, the names of its cases in their order, and the function that measures them.

    `--check` runs those with `is_checked`: they take about a minute and have a limit that is not another tool.
    """

    name: str
    about: str
    cases: tuple[str, ...]
    run: Callable[[Lab], Iterator[Case]]
    is_checked: bool = False


@dataclass(slots=True)
class Lab:
    """The environment of scenarios: a directory in memory, the options, and the shared organizations."""

    home: Path
    rounds: int = 3
    quick: bool = False
    checking: bool = False
    only: str = ""
    earlier: str = ""
    """The interpreter of the environment with an earlier release, "" for none."""
    cases: frozenset[str] = frozenset()
    _before: list[Path | None] = field(default_factory=list)
    _corpora: dict[str, Corpus] = field(default_factory=dict)

    def wants(self, case: str) -> bool:
        """Return whether this case is to be measured."""
        return not self.cases or case in self.cases

    def corpus(self, kind: str) -> Corpus:
        """Return an organization, made at the first use: `tree`, `tiny`, `many`, `big`, …."""
        if kind not in self._corpora:
            make, small = _CORPORA[kind]
            sys.stderr.write(f"  making the organization “{kind}”\n")
            self._corpora[kind] = make(self.home / kind, **(small if self.quick else {}))

        return self._corpora[kind]

    def drop(self, kind: str) -> None:
        """Remove an organization that is not needed any more."""
        if kind in self._corpora:
            shutil.rmtree(self._corpora.pop(kind).site)

    def has_room(self, size: int) -> bool:
        """Return whether `size` bytes fit into the directory; print a line if not."""
        free = shutil.disk_usage(self.home).free
        if Path("/proc/meminfo").exists():  # the directory may be in memory, and allow for more than is free
            lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
            free = min(free, int(lines["MemAvailable"].split()[0]) * 1024)

        if free < size:
            print(f"\nleft out: it needs {size / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free")

        return free >= size

    @contextlib.contextmanager
    def served(
        self, content: Corpus, *, tls: bool = False, link: Link = NEAR, ports: tuple[int, int] = (0, 0)
    ) -> Iterator[Front]:
        """Serve an organization for a while."""
        place = self.home / "nginx"
        try:
            with front(content.site, place, tls=tls, link=link, ports=ports) as server:
                yield server
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def before(self, *contestants: Contestant) -> list[Contestant]:
        """Return `contestants`, syncs of this release, as those of commit 92e26c5; none if the history lacks it.

        Other comparisons of releases do without them.
        """
        if self.checking:
            return []

        if not self._before:
            self._before.append(before.unpack(self.home / "before"))

        (source,) = self._before
        return [] if source is None else [peers.before(one, source) for one in contestants]

    def chosen(self, contestants: Sequence[Contestant], base: str) -> list[Contestant]:
        """Leave out contestants that were not asked for; quaymirror and the base of ratios stay."""
        if self.earlier:
            ours = [one for one in contestants if f"{peers.PYTHON} -m quaymirror" in one.command]
            others = [one for one in contestants if one.name == base and one not in ours]
            return [*others, *(each for one in ours for each in (one, peers.earlier(one, self.earlier)))]

        if self.checking:
            return [one for one in contestants if one.name in (peers.OURS, base)]

        return [one for one in contestants if self.only in one.name or one.always or one.name in (peers.OURS, base)]

    def compare(
        self,
        contestants: Sequence[Contestant],
        *,
        base: str,
        asked: Callable[[], Mapping[str, float]] = dict,
        rounds: int | None = None,
        timeout: float = measure.TIMEOUT,
    ) -> dict[str, list[Cost]]:
        """Let all contestants do the job in an empty directory, in turn."""
        out = self.home / "out"

        def turn(contestant: Contestant) -> Cost:
            measure.fresh(out)
            asked()
            cost = measure.run(contestant, out, timeout=timeout)
            return measure.with_counts(cost, asked())

        costs = measure.compare(self.chosen(contestants, base), turn, rounds=rounds or self.rounds)
        shutil.rmtree(out, ignore_errors=True)
        return costs


# The size of the huge layers, at the server and in a mirror.
BIG_BYTES = 10_000_000_000
_CORPORA: dict[str, tuple[Callable[..., Corpus], dict[str, Any]]] = {
    "tree": (corpus.kolla_tree, {"images": 8, "scale": 0.1}),
    "tiny": (corpus.tiny, {"repositories": 120, "images": 60}),
    "many": (partial(corpus.tiny, repositories=3_000, images=3_000), {"repositories": 100, "images": 100}),
    "big": (corpus.big, {"size": 80_000_000}),
    "derivable": (corpus.derivable, {"images": 4, "scale": 0.1}),
}


def facts(content: Corpus) -> dict[str, Any]:
    """Return the facts about an organization that readers need."""
    return {
        "repositories": content.repositories,
        "images": len(content.images),
        "unique_bytes": content.unique_bytes,
        "referenced_bytes": content.referenced,
    }
