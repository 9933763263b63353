"""The CPU time of quaymirror, by its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lab import measure, peers
from lab.front import FAR, NEAR
from lab.measure import Contestant, Cost
from lab.scenario import BIG_BYTES, Case, Lab, Scenario

_PROFILED = Path(__file__).parents[1] / "lab" / "profiled.py"
# The organization, options, and the link.
_RUNS = {
    "tree": ("tree", False, NEAR),
    "tree, over TLS": ("tree", True, NEAR),
    "tree, far away": ("tree", False, FAR),
    "tiny": ("tiny", False, NEAR),
    "big": ("big", False, NEAR),
    "big, over TLS": ("big", True, NEAR),
    "big, far away": ("big", False, FAR),
}
_NIGHTLY = "tree, nothing changed"
_COUNTS = ("start", "loop", "aiohttp", "anyio", "asyncio", "ssl", "quaymirror", "python", "system", "threads")


def run(lab: Lab) -> Iterator[Case]:
    """One run for the seconds, and one under a profiler, which takes longer, for how the loop's are shared out."""
    costs: dict[str, list[Cost]] = {}
    for name, (kind, tls, link) in _RUNS.items():
        if kind == "big" and not lab.has_room(0 if lab.quick else BIG_BYTES):
            continue

        with lab.served(lab.corpus(kind), tls=tls, link=link) as server:
            ours = peers.ours(server)
            for _ in range(lab.rounds):
                costs.setdefault(name, []).append(_cost(lab, ours, measure.fresh(lab.home / "out")))

            if name == "tree":
                for _ in range(lab.rounds):
                    costs.setdefault(_NIGHTLY, []).append(_cost(lab, ours, lab.home / "out", again=True))

    words = ["seconds of CPU: to start, of the loop's thread by what it ran, and of all other threads"]
    yield Case("cpu", "Seconds of CPU by what took them", "tree", costs, {"words": words}, counts=_COUNTS)


def _cost(lab: Lab, ours: Contestant, out: Path, *, again: bool = False) -> Cost:
    plain = _profiled(ours, out, "")
    shares = _profiled(ours, out if again else measure.fresh(out), "--shares").asked
    # A profiler overstates parts with many calls; the sum is that of the run without it.
    loop = {part: share * plain.asked.get("loop", 0) for part, share in shares.items()}
    return replace(plain, asked={**dict.fromkeys(_COUNTS, 0.0), **plain.asked, **loop})


def _profiled(ours: Contestant, out: Path, words: str) -> Cost:
    _, _, command = ours.command.partition("-m quaymirror ")
    return measure.run(
        replace(ours, command=f"{peers.PYTHON} -P {_PROFILED} {{out}}/figures.json {words} -- {command}"), out
    )


SCENARIO = Scenario("profile", "where our own CPU time goes", ("cpu",), run)
