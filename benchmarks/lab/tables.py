"""Results as Markdown: one table per case, and one for all goals, from the recorded documents."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from . import reference
from .results import Document

# Tools whose versions decide about what is measured.
_VERSIONED = ("skopeo", "crane", "regsync", "regctl", "occystrap")
# Headings of counts.
_NAMES = {"written": "files written", "frame_ms": "ms per frame"}


def section(document: Document, *, goals_too: bool = True) -> list[str]:
    """Return a case: title, facts, table, and goals, unless the organizations are small ones."""
    goals_too = goals_too and document["goals"] and not document["quick"]
    return [
        f"### {document['title']}",
        "",
        f"`{document['command']}`: {describe(document)}",
        "",
        *table(document),
        *(["", *goals([document])] if goals_too else []),
    ]


def describe(document: Document) -> str:
    """Return the facts of a case in one line."""
    facts = document["facts"]
    words = [f"{facts['images']:,} images in {facts['repositories']:,} repositories"] if "images" in facts else []
    if "unique_bytes" in facts:
        words.append(f"{_bytes(facts['unique_bytes'])} of distinct blobs")
        words.append(f"{_bytes(facts['referenced_bytes'])} with every image counted by itself")

    if "link" in facts:
        link = facts["link"]
        words.append(f"{link['round_trip_ms']:.0f} ms of round trip, {_bytes(link['bytes_a_second'])}/s per connection")

    words += [str(word) for word in facts.get("words", ())]
    return ", ".join([*words, "1 round" if _rounds(document) == 1 else f"{_rounds(document)} rounds"]) + "."


def table(document: Document) -> list[str]:
    """Return the contestants of a case, the fastest first; missing or failed ones come last, with the reason.

    In between are rows of another day, whose ratios are known: of missing tools, and of other versions.
    """
    counts = document["counts"]
    heads = ["what", "wall s", "ratio", "CPU s", "peak MiB", *(_NAMES.get(name, name) for name in counts)]
    lines = [_row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    elsewhere = referred(document)
    rows = [(median(runs, "wall"), _measured(document, name)) for name, runs in document["costs"].items() if good(runs)]
    rows += [(wall, _referred(document, name, wall)) for name, wall in elsewhere.items()]
    for _, cells in sorted(rows, key=lambda row: row[0]):
        lines.append(_row([*cells, *[""] * (len(heads) - len(cells))]))

    for name, runs in document["costs"].items():
        if not good(runs) and name not in elsewhere:
            reason = _escape(runs[0]["said"] if runs else "did not run")
            lines.append(_row([labelled(programs(document), name), reason, *[""] * (len(heads) - 2)]))

    return lines


def referred(document: Document) -> dict[str, float]:
    """Return the wall times that tools would have here by their ratios of another day, if a base of both ran here.

    A version that ran here itself is left out, and all of them where organizations are small.
    """
    if document.get("quick"):
        return {}

    known = reference.of(document["scenario"], document["case"])
    costs, versions = document["costs"], programs(document)
    base = median(costs.get(known.beside, ()), "wall")
    return {
        name: ratio * base
        for name, ratio in known.ratios.items()
        if base and not (good(costs.get(name, ())) and versions.get(_tool(name)) == reference.version(name))
    }


def _measured(document: Document, name: str) -> list[str]:
    runs = good(document["costs"][name])
    ours = "**" if name.startswith("quaymirror") else ""
    few = "" if len(runs) > 1 or _rounds(document) == 1 else " (1 run)"
    label = f"{ours}{labelled(programs(document), name)}{ours}{few}"
    return [label, spread(runs), _number(ratio(document, name)), *_spent(runs, document["counts"])]


def _referred(document: Document, name: str, wall: float) -> list[str]:
    ratio = wall / (median(document["costs"].get(document["base"], ()), "wall") or wall)
    return [referred_label(name), f"by its ratio of {reference.day()}", _number(ratio)]


def labelled(versions: Mapping[str, str], name: str) -> str:
    """Return the name of a row, with the version of its tool."""
    tool, _, rest = name.partition(" ")
    return f"{tool} {versions[tool]} {rest}" if tool in _VERSIONED and tool in versions else name


def referred_label(name: str) -> str:
    """Return the name of a row of another day, with the version that its tool had."""
    return labelled({_tool(name): reference.version(name)}, name)


def _tool(name: str) -> str:
    return name.partition(" ")[0]


def programs(document: Document) -> Mapping[str, str]:
    """Return the versions of the tools that took part."""
    found: Mapping[str, str] = document.get("programs", {})
    return found


def goals(documents: Iterable[Document]) -> list[str]:
    """Return all goals of the cases, and whether they are met."""
    lines = ["| goal | case | what | to be | measured | |", "|---:|---|---|---:|---:|---|"]
    rows = [(goal, document) for document in documents for goal in document["goals"]]
    for goal, document in sorted(rows, key=lambda row: row[0]["number"]):
        sign = "≥" if goal["at_least"] else "≤"
        met = {True: "met", False: "**missed**", None: "not measured"}[goal["met"]]
        case = f"{document['scenario']}/{document['case']}"
        measured = "" if goal["measured"] is None else _number(goal["measured"])
        measured += " by ratio" if goal.get("by_ratio") else ""
        lines.append(_row([str(goal["number"]), case, goal["what"], f"{sign} {goal['limit']:g}", measured, met]))

    return lines


def good(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs that completed."""
    return [run for run in runs if not run["code"]]


def median(runs: Iterable[dict[str, Any]], what: str) -> float:
    """Return the median of a number of the completed runs, 0 without one."""
    values = [run[what] if what in run else run["asked"].get(what, 0) for run in good(runs)]
    return statistics.median(values) if values else 0.0


def ratio(document: Document, name: str) -> float | None:
    """Return the ratio of its wall time to that of the case's base: the median over pairs of one round each."""
    pairs = ratios(document, name)
    return statistics.median(pairs) if pairs else None


def ratios(document: Document, name: str) -> list[float]:
    """Return the ratios of the rounds that both completed."""
    costs = document["costs"]
    pairs = zip(costs.get(name, ()), costs.get(document["base"], ()), strict=False)
    whole = [(mine, base) for mine, base in pairs if not mine["code"] and not base["code"]]
    return [mine["wall"] / base["wall"] for mine, base in whole if base["wall"]]


def spread(runs: list[dict[str, Any]]) -> str:
    """Return the median of wall times and, if there are several, their range."""
    walls = [run["wall"] for run in runs]
    middle = f"{statistics.median(walls):.2f}"
    return middle if len(walls) == 1 else f"{middle} [{min(walls):.2f}-{max(walls):.2f}]"


def _spent(runs: list[dict[str, Any]], counts: list[str]) -> list[str]:
    """Return CPU time, memory and counts; nothing for a formula."""
    if not median(runs, "peak_mib"):
        return [""] * (2 + len(counts))

    counted = [_count(median(runs, count)) for count in counts]
    return [f"{median(runs, 'cpu'):.2f}", f"{median(runs, 'peak_mib'):.0f}", *counted]


def _rounds(document: Document) -> int:
    return max((len(runs) for runs in document["costs"].values()), default=0)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return "-"

    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else _number(value)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")[:160]
