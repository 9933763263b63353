"""Write the results in benchmarks/results into docs/explanation: performance.md, its pictures, and a table of scale.md.

    python benchmarks/report.py [--check]

No number of these parts is typed by hand. With `--check`, nothing is written; the exit code is 1 if a page is out of
date.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from statistics import median
from typing import Any

from lab import plot, results, tables
from lab.results import Document
from scenarios import ALL

_HERE = Path(__file__).parent
_DOCS = _HERE.parent / "docs"
_PAGE, _SCALE = _DOCS / "explanation" / "performance.md", _DOCS / "explanation" / "scale.md"
_BEGIN, _END = "<!-- benchmarks/report.py writes what follows -->", "<!-- until here -->"
_FIRST, _LAST = "<!-- and the three numbers -->", "<!-- of the page -->"
_TABLE = "<!-- benchmarks/report.py writes this table -->"
# The cases of the scenario about size whose rows are named "WHAT, SIZE".
_BY_SIZE = ("list", "sync")
_OURS = "quaymirror sync"


def main() -> int:
    """Write or check the files; return 1 if a check fails."""
    check = "--check" in sys.argv[1:]
    stale = [file for file, content in generated().items() if not file.exists() or file.read_text() != content]
    for file in stale:
        if check:
            print(f"{file} is out of date, run python benchmarks/report.py", file=sys.stderr)
        else:
            file.write_text(generated()[file])

    return 1 if check and stale else 0


def generated() -> dict[Path, str]:
    """Return the content of every generated file."""
    loaded = (results.load(_HERE / "results", one.name, case) for one in ALL.values() for case in one.cases)
    documents = [document for document in loaded if document is not None]
    scenarios = {name: list(cases) for name, cases in itertools.groupby(documents, lambda d: str(d["scenario"]))}
    page = _replaced(_PAGE.read_text(), _FIRST, _LAST, _three_numbers(documents))
    page = _replaced(page, _BEGIN, _END, _page(documents, scenarios))
    pictures = {_picture(name): plot.of_scenario(cases) for name, cases in scenarios.items()}
    scale = _replaced(_SCALE.read_text(), _TABLE, _END, _growth(scenarios.get("scale", [])))
    return {_PAGE: page, _SCALE: scale, **pictures}


def _replaced(text: str, begin: str, end: str, lines: list[str]) -> str:
    before, _, rest = text.partition(begin)
    return before + "\n".join([begin, "", *lines, "", end]) + rest.partition(end)[2]


def _three_numbers(documents: list[Document]) -> list[str]:
    """Return the first night, a night without changes, and the memory, in one line each."""
    cases = {f"{one['scenario']}/{one['case']}": one for one in documents}
    first, nightly = cases.get("cold/tree"), cases.get("nightly/unchanged-many")
    if first is None or nightly is None:
        return ["Nothing is recorded yet."]

    walls = {name: tables.median(runs, "wall") for name, runs in first["costs"].items() if tables.good(runs)}
    others = {name: wall for name, wall in walls.items() if not name.startswith("quaymirror") and name != first["base"]}
    others |= {name: min(wall, others.get(name, wall)) for name, wall in tables.referred(first).items()}
    fastest = min(others, key=others.__getitem__)
    calm, facts = nightly["costs"][_OURS], nightly["facts"]
    seconds = median(one["wall"] for one in calm)
    peak = max(one["peak_mib"] for one in first["costs"][_OURS])
    return [
        "| | |",
        "|---|---|",
        f"| a first night | {first['facts']['images']} images in {walls[_OURS]:.2f} s;"
        f" the fastest other tool takes {others[fastest] / walls[_OURS]:.2f} times as long ({fastest}) |",
        f"| a night without changes | {facts['repositories']:,} repositories in {seconds:.1f} s,"
        f" {calm[0]['asked']['requests']} requests |",
        f"| memory | {peak:.0f} MiB at most during that first night |",
    ]


def _growth(documents: list[Document]) -> list[str]:
    """Return CPU and memory of large organizations, with a column per size, and by how much they grow."""
    costs: dict[str, dict[str, dict[str, Any]]] = {}
    for document in documents:
        for name, (cost, *_) in document["costs"].items() if document["case"] in _BY_SIZE else ():
            what, _, size = name.partition(", ")
            costs.setdefault(what, {})[size] = cost

    if not costs:
        return ["Nothing is recorded yet."]

    sizes = sorted({size for sized in costs.values() for size in sized}, key=_number)
    lines = ["| measured | " + " | ".join(sizes) + " |", "|---|" + "--:|" * len(sizes)]
    for what, sized in costs.items():
        columns = [_figures(sized[size]) if size in sized else ("", "", "") for size in sizes]
        for name, row in zip(
            ("CPU for each, ms", "peak memory, MiB", "requests"), zip(*columns, strict=True), strict=True
        ):
            lines.append(f"| {what}: {name} | " + " | ".join(row) + " |")

    lines += ["", "From the smallest to the largest size:", ""]
    for what, sized in costs.items():
        least, most = (choose(sized, key=_number) for choose in (min, max))
        ratio = sized[most]["asked"]["cpu_ms_each"] / sized[least]["asked"]["cpu_ms_each"]
        kib = 1024 * (sized[most]["peak_mib"] - sized[least]["peak_mib"]) / (_number(most) - _number(least))
        lines.append(f"- {what}: {ratio:.2f} times the CPU for each, and {kib:.1f} KiB of memory for each further one.")

    return [*lines, "", *tables.goals(documents)]


def _figures(cost: dict[str, Any]) -> tuple[str, str, str]:
    asked = cost["asked"]
    return f"{asked['cpu_ms_each']:.2f}", f"{cost['peak_mib']:.0f}", f"{asked['requests']:,}"


def _number(size: str) -> int:
    return int(size.replace(",", ""))


def _page(documents: list[Document], scenarios: dict[str, list[Document]]) -> list[str]:
    if not documents:
        return ["Nothing is recorded yet."]

    lines = ["## The goals", "", *tables.goals(documents), "", "## Where it ran", "", *_machines(documents)]
    for name, cases in scenarios.items():
        about = str(cases[0]["about"])
        picture = f"![{about}](../images/{_picture(name).name})"
        lines += ["", f"## {about[0].upper()}{about[1:]}", "", picture]
        for case in cases:
            lines += ["", *tables.section(case, goals_too=False)]

    return lines


def _machines(documents: list[Document]) -> list[str]:
    """Return one line per machine, with the days and the load of its cases."""
    same: dict[str, list[Document]] = {}
    for document in documents:
        machine, programs = document["machine"], document["programs"]
        versions = ", ".join(f"{name} {version}" for name, version in programs.items())
        words = (
            f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, Linux {machine['kernel']},"
            f" Python {machine['python']}; {versions}"
        )
        same.setdefault(words, []).append(document)

    return [f"- {words}; {_when(ran)}." for words, ran in same.items()]


def _when(documents: list[Document]) -> str:
    days = sorted({document["day"] for document in documents})
    loads = [document["machine"]["load"] for document in documents]
    cases = f"{len(documents)} cases" if len(documents) > 1 else "one case"
    return f"{cases} on {' and '.join(days)}, load {min(loads):g} to {max(loads):g}"


def _picture(scenario: str) -> Path:
    return _DOCS / "images" / f"bench-{scenario}.svg"


if __name__ == "__main__":
    sys.exit(main())
