"""The comparison with recorded results: is quaymirror slower, beyond noise?

Times of two days can't be compared, but ratios to the raw limit can, since it ran in alternation with quaymirror, then
and now, on the same bytes. Each round gives one ratio. The verdict is about the quotient of their medians, now by then,
with a confidence from resampling the rounds of both days (a bootstrap with a seed: the same rounds give the same
verdict). quaymirror is slower if 95 % of the resampled quotients are above 1 + 5 %, so both small differences and
differences that so few rounds can't distinguish from noise pass.

Counts have no noise: one more request, or one more byte, than in any recorded round is a regression.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import peers, tables
from .measure import Cost
from .results import Document

MARGIN = 1.05
CONFIDENCE = 0.95
_SAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a comparison, and a line about it."""

    good: bool
    words: str


def judge(then: Document | None, now: Document) -> Verdict:
    """Compare a case with its recorded results."""
    name = f"{now['scenario']}/{now['case']}"
    before = tables.ratios(then, peers.OURS) if then else []
    after = tables.ratios(now, peers.OURS)
    if not after:
        return Verdict(False, f"check {name}: FAILED: there is no round that both came through")

    if then is None or not before:
        return Verdict(True, f"check {name}: nothing is recorded")

    sure, middle = slowdown(before, after)
    complaints = _counted(then, now)
    if sure > MARGIN:
        complaints.append(f"with {CONFIDENCE:.0%} certainty at least {sure:.2f} times as slow")

    words = f"{statistics.median(after):.2f} times {now['base']}, {statistics.median(before):.2f} then ({middle:.2f}x)"
    elsewhere = "" if _machine(then) == _machine(now) else "; recorded on another kind of machine"
    failed = f": FAILED: {'; '.join(complaints)}" if complaints else ": fine"
    return Verdict(not complaints, f"check {name}: {words}{elsewhere}{failed}")


def slowdown(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the factor by which the median grew at least, with `CONFIDENCE`, and the factor in these rounds."""
    source = random.Random(0)

    def resampled(values: Sequence[float]) -> float:
        return statistics.median(source.choices(values, k=len(values)))

    factors = sorted(resampled(after) / resampled(before) for _ in range(_SAMPLES))
    return factors[int((1 - CONFIDENCE) * _SAMPLES)], statistics.median(after) / statistics.median(before)


def compare_releases(case: str, costs: Mapping[str, Sequence[Cost]]) -> list[Verdict]:
    """Compare each row of this release with the same row of the earlier one, which ran by turns in the same rounds."""
    return [
        _beside(f"{case}, {name}", costs[peers.EARLIER.format(name)], now)
        for name, now in costs.items()
        if peers.EARLIER.format(name) in costs
    ]


def _beside(name: str, before: Sequence[Cost], after: Sequence[Cost]) -> Verdict:
    if not before or not after or any(cost.code for cost in (*before, *after)):
        return Verdict(False, f"earlier {name}: FAILED: a run ended with an error")

    sure, wall = slowdown([cost.wall for cost in before], [cost.wall for cost in after])
    cpu = statistics.median(cost.cpu for cost in after) / statistics.median(cost.cpu for cost in before)
    peak = statistics.median(cost.peak_mib for cost in after) / statistics.median(cost.peak_mib for cost in before)
    good = sure <= MARGIN
    words = f"earlier {name}: {wall:.2f} times its wall time, {cpu:.2f} its CPU, {peak:.2f} its peak memory"
    return Verdict(good, words + (": fine" if good else f": FAILED: certainly {sure:.2f} times as slow"))


def _counted(then: Document, now: Document) -> list[str]:
    complaints = []
    if then["facts"] != now["facts"]:
        return ["the organization is another one: record it anew"]

    for what in now["counts"]:
        most = max((run["asked"].get(what, 0) for run in then["costs"][peers.OURS]), default=0)
        count = tables.median(now["costs"][peers.OURS], what)
        if count > most:
            complaints.append(f"{count:,.0f} {what}, {most:,.0f} then")

    return complaints


def _machine(document: Document) -> tuple[object, ...]:
    return tuple(document["machine"][name] for name in ("cores", "cpu", "python"))
