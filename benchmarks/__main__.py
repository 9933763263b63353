"""Benchmarks: quaymirror beside other tools and the physical limit, on one machine, in one run.

    python benchmarks [SCENARIO[/CASE] …] [--rounds N] [--only TEXT] [--quick] [--check] [--earlier PYTHON]

Without a name, all scenarios run. Results are written to benchmarks/results, one file per case; `python
benchmarks/report.py` makes the tables and plots of the docs from them. `--quick` tries everything with small
organizations. `--check` fails if quaymirror is farther from the raw limit than the recorded results. `--earlier`
measures an earlier release in alternation with this one and fails if this one is slower; PYTHON is the interpreter of
an environment with that release. These three options record nothing.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from lab import check, peers, results, tables
from lab.scenario import Case, Lab, Scenario
from scenarios import ALL

import quaymirror

RECORDED = Path(__file__).parent / "results"
_CHECK_ROUNDS = 9


def main() -> int:
    """Run the scenarios asked for; return 1 after an error, or if --check or --earlier found a regression."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended and memory is given back
    compileall.compile_dir(Path(quaymirror.__file__).parent, quiet=2)
    began, good = time.monotonic(), True
    with _laboratory(options) as lab:
        for name, cases in _chosen(options).items():
            scenario, lab.cases = ALL[name], frozenset(cases)
            print(f"\n# {scenario.name}: {scenario.about}", flush=True)
            for case in _measured(scenario, lab):
                good &= case is not None and _tell(scenario, case, lab, options)

    print(f"\n{time.monotonic() - began:,.0f} s")
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", help=", ".join(ALL))
    parser.add_argument("--rounds", type=int, help="how often each row has a turn (3; 1 if --quick, 9 if --check)")
    parser.add_argument("--only", default="", metavar="TEXT", help="peers whose names hold this, and the raw limit")
    parser.add_argument("--quick", action="store_true", help="small organizations, one round: does the lab work?")
    parser.add_argument("--check", action="store_true", help="have we got slower than what is recorded?")
    parser.add_argument("--earlier", default="", metavar="PYTHON", help="the environment of a release to compare with")
    parser.add_argument("--results", type=Path, help="where results are written, instead of benchmarks/results")
    options = parser.parse_args()
    # Where organizations are small some cases have other names: a word that fits none of them measures nothing.
    known = {*ALL, *(f"{scenario.name}/{case}" for scenario in ALL.values() for case in scenario.cases)}
    unknown = [word for word in options.scenario if (word.partition("/")[0] if options.quick else word) not in known]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(sorted(known))}")

    return options


def _chosen(options: argparse.Namespace) -> dict[str, set[str]]:
    """Return the cases of each scenario that was asked for; an empty set means all of them."""
    chosen: dict[str, set[str]] = {}
    for word in options.scenario or [
        name for name in ALL if ALL[name].is_checked or not (options.check or options.earlier)
    ]:
        name, _, case = word.partition("/")
        chosen.setdefault(name, set()).update([case] if case else [])

    return chosen


@contextlib.contextmanager
def _laboratory(options: argparse.Namespace) -> Iterator[Lab]:
    """Yield a lab in memory, if a directory of it is in memory: disks differ too much for a comparison."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="quaymirror-lab-") as home:
        rounds = options.rounds or (1 if options.quick else _CHECK_ROUNDS if options.check else 3)
        yield Lab(
            Path(home),
            rounds,
            quick=options.quick,
            checking=options.check or bool(options.earlier),
            only=options.only,
            earlier=options.earlier,
        )


def _measured(scenario: Scenario, lab: Lab) -> Iterator[Case | None]:
    """Yield each case, or None after an error of the lab itself, which is printed and does not end other scenarios."""
    try:
        yield from scenario.run(lab)
    except Exception:
        traceback.print_exc()
        yield None


def _tell(scenario: Scenario, case: Case, lab: Lab, options: argparse.Namespace) -> bool:
    document = results.document(scenario, case, quick=lab.quick)
    print("\n" + "\n".join(tables.section(document)), flush=True)
    if options.earlier:
        verdicts = check.compare_releases(case.name, case.costs)
        print("\n" + "\n".join(verdict.words for verdict in verdicts), flush=True)
        return all(verdict.good for verdict in verdicts)

    if options.check:
        verdict = check.judge(results.load(options.results or RECORDED, scenario.name, case.name), document)
        print("\n" + verdict.words, flush=True)
        return verdict.good

    where = options.results or (None if lab.quick or lab.only else RECORDED)
    if where is not None:
        results.save(document, where)

    # An earlier state may fail with newer packages; the table has the reason.
    ours = [name for name in case.costs if name.startswith("quaymirror") and not name.startswith(peers.BEFORE)]
    return not any(run.code for name in ours for run in case.costs[name])


if __name__ == "__main__":
    sys.exit(main())
