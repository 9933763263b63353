"""A run's report as one page for a browser: everything is in it, and it asks nobody for anything.

It is whole without scripts; with them its table sorts and filters. Everything in it that came from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from ..errors import ExitCode, most_severe
from ..progress.timeline import Point
from ..text import escape_controls, human_bytes, human_duration

__all__ = ["page"]

Document = Mapping[str, Any]

_ORDER = {"failed": 0, "mirrored": 1, "skipped": 2, "unchanged": 3}
# Units of the chart, which is stretched to whatever room there is.
_WIDTH, _HEIGHT = 1000, 200
_STYLE = """
:root { color-scheme: light dark; --fg: #1c2430; --dim: #5b6675; --bg: #ffffff; --card: #f4f6f9; --line: #d8dde5;
  --good: #1a7f37; --bad: #c0252d; --known: #0b6bcb; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6eaf0; --dim: #9aa7b8; --bg: #12161c; --card: #1b212a;
  --line: #323b48; --good: #4fc26b; --bad: #ff7b72; --known: #6cb6ff; --warn: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 28px 0 8px; }
p.sub { margin: 4px 0 20px; color: var(--dim); overflow-wrap: anywhere; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
.card { background: var(--card); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; } .card span { color: var(--dim); }
.badge { display: inline-block; border-radius: 999px; padding: 2px 12px; color: var(--bg); font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .known { color: var(--known); } .dim { color: var(--dim); }
.badge.good { background: var(--good); color: var(--bg); } .badge.bad { background: var(--bad); color: var(--bg); }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; } td:first-child { min-width: 24ch; } td[data-key] { white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { position: sticky; top: 0; background: var(--bg); white-space: nowrap; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--known); }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
code { font: 12.5px ui-monospace, monospace; }
td code { display: inline-block; max-width: 20ch; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  vertical-align: middle; } td code:hover { max-width: none; white-space: normal; }
.wide { overflow-x: auto; }
.filters { display: flex; gap: 10px; flex-wrap: wrap; margin: 8px 0; }
input, select { font: inherit; padding: 6px 10px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--bg); color: var(--fg); } input { flex: 1 1 260px; }
output { align-self: center; font-variant-numeric: tabular-nums; }
figure { margin: 0; padding: 12px 14px; background: var(--card); border-radius: 10px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; color: var(--dim); font-size: 14px; }
svg { display: block; width: 100%; height: 200px; margin: 6px 0; border-bottom: 1px solid var(--line); }
polygon { fill: var(--known); opacity: .25; }
polyline { fill: none; stroke: var(--good); stroke-width: 2; vector-effect: non-scaling-stroke; }
"""

_SCRIPT = """
for (const section of document.querySelectorAll("section.images")) {
  const body = section.querySelector("tbody"), rows = [...body.rows];
  const words = section.querySelector("input"), status = section.querySelector("select");
  const shown = section.querySelector("output");
  section.querySelector(".filters").hidden = false;
  const filter = () => {
    const wanted = words.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = (status.value && row.dataset.status !== status.value)
        || !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  words.addEventListener("input", filter);
  status.addEventListener("input", filter);
  filter();
  section.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      section.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
      const compare = head.classList.contains("n")
        ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
      rows.sort((a, b) => down ? compare(b, a) : compare(a, b));
      body.append(...rows);
    });
  });
}
"""


def page(documents: Sequence[Document], timelines: Sequence[Sequence[Point]]) -> str:
    """Return the page about runs: the report of each, as JSON values, and how it went over time."""
    worst = most_severe([ExitCode.OK, *(ExitCode(document["exit_code"]) for document in documents)])
    title = f"quaymirror: {worst.meaning}"
    sections = "".join(_run(*run) for run in zip(documents, timelines, strict=True))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{sections}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _run(document: Document, points: Sequence[Point]) -> str:
    outcomes = sorted(document["outcomes"], key=lambda outcome: (_ORDER[outcome["status"]], outcome["reference"]))
    failures = [outcome for outcome in outcomes if outcome["status"] == "failed"]
    parts = [_head(document), _cards(document), _ending(document), _failures(failures), _chart(points)]
    return "\n".join([*parts, _hosts(document), _skipped(document), _images(outcomes)])


def _head(document: Document) -> str:
    code = ExitCode(document["exit_code"])
    badge = "good" if code is ExitCode.OK else "bad"
    verb = "Dry run of" if document["dry_run"] else "Mirror of"
    selections = document["selections"]
    names = ", ".join(f"{one['organization']}/{one['glob']}:{one['tag']}" for one in selections[:3])
    more = f" and {len(selections) - 3} more" if len(selections) > 3 else ""
    jobs = f"jobs {', '.join(document['jobs'])} \N{MIDDLE DOT} " if document["jobs"] else ""
    started = datetime.fromisoformat(document["started"])
    return (
        f"<header><h1>{_text(f'{verb} {names}{more}')} "
        f'<span class="badge {badge}">{_text(code.meaning)}</span></h1>'
        f'<p class="sub">{_text(jobs)}{_text(document["server"])} &rarr; {_text(document["target"])} &middot; '
        f"{started:%Y-%m-%d %H:%M} UTC &middot; {human_duration(document['elapsed_s'])} &middot; "
        f"run <code>{_text(document['run_id'])}</code></p></header>"
    )


def _cards(document: Document) -> str:
    images = document["images"]
    fetched = "would be fetched" if document["dry_run"] else "fetched"
    cards = [
        (f"{images['failed']:,}", "failed", "bad" if images["failed"] else "dim"),
        (f"{images['mirrored']:,}", "would be mirrored" if document["dry_run"] else "mirrored", "good"),
        (f"{images['unchanged']:,}", "unchanged", "known"),
        (f"{images['skipped']:,}", "skipped", "dim"),
        (human_bytes(document["bytes_fetched"]), fetched, ""),
        (human_bytes(document["bytes_reused"]), "saved by sharing", ""),
    ]
    boxes = "".join(
        f'<div class="card"><b class="{kind}">{text}</b><span>{word}</span></div>' for text, word, kind in cards
    )
    return f'<div class="cards">{boxes}</div>'


def _ending(document: Document) -> str:
    """Say what ended the run early, and what is missing for that."""
    lines = []
    if document["error"]:
        lines.append(_explained(document["error"]))
    elif document["stopped"]:
        lines.append(f"stopped before its end: {document['stopped']}")

    if not document["complete"]:
        lines.append("Not everything selected was found and had its turn: images may be missing here.")

    return "".join(f'<p class="bad">{_text(line)}</p>' for line in lines)


def _failures(failures: Sequence[Document]) -> str:
    if not failures:
        return ""

    rows = "".join(
        f"<tr><td>{_text(failure['reference'])}</td><td>{_text(_place(failure['error']))}</td>"
        f"<td>{_text((failure['error'] or {}).get('message', failure['reason'] or ''))}</td></tr>"
        for failure in failures
    )
    return (
        f'<section class="failures"><h2 class="bad">Failed ({len(failures):,})</h2><div class="wide"><table>'
        f"<thead><tr><th>image</th><th>where</th><th>why</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _place(error: Document | None) -> str:
    return ", ".join(part for part in (error["side"], error["phase"]) if part) if error else ""


def _explained(error: Document) -> str:
    return f"{_place(error)}: {error['message']}"


# ---- over time


def _chart(points: Sequence[Point]) -> str:
    """Draw images done and bytes fetched over the seconds of the run, each to its own scale."""
    if len(points) < 2 or points[-1].at <= 0:
        return ""

    images = max(1, max(point.done for point in points))
    size = max(1, max(point.bytes_fetched for point in points))
    end = points[-1].at
    done = _line([(point.at / end, point.done / images) for point in points])
    fetched = _line([(point.at / end, point.bytes_fetched / size) for point in points])
    # Where both go on at the same pace, a line on an area still shows both.
    return (
        "<section><h2>Over time</h2><figure>"
        f'<figcaption><span class="good">&mdash; {images:,} images done</span>'
        f'<span class="known">&#9632; {human_bytes(size)} fetched</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{images:,} images and {human_bytes(size)} in {human_duration(end)}">'
        f'<polygon points="0,{_HEIGHT} {fetched} {_WIDTH},{_HEIGHT}"/><polyline points="{done}"/></svg>'
        f"<figcaption><span>0</span><span>{human_duration(end)}</span></figcaption></figure></section>"
    )


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x * _WIDTH:.1f},{_HEIGHT - y * (_HEIGHT - 2):.1f}" for x, y in points)


# ---- tables


def _hosts(document: Document) -> str:
    if not document["hosts"]:
        return ""

    rows = "".join(
        f'<tr><td>{_text(host)}</td><td class="n">{trouble["retries"]:,}</td>'
        f'<td class="n">{trouble["throttled"]:,}</td><td class="n">{trouble["pauses"]:,}</td>'
        f'<td class="n">{human_duration(trouble["paused_s"])}</td></tr>'
        for host, trouble in document["hosts"].items()
    )
    head = "<tr><th>host</th>" + "".join(
        f'<th class="n">{name}</th>' for name in ("retries", "throttled", "pauses", "paused")
    )
    return f"<section><h2>Patience</h2><table><thead>{head}</tr></thead><tbody>{rows}</tbody></table></section>"


def _skipped(document: Document) -> str:
    reasons = document["repositories"]["skipped"]
    if not reasons:
        return ""

    words = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(reasons.items()))
    return f'<p class="dim">Repositories without an image of this selection: {_text(words)}.</p>'


def _images(outcomes: Sequence[Document]) -> str:
    columns = [("image", ""), ("status", ""), ("fetched", "n"), ("reused", "n"), ("took", "n"), ("digest, remark", "")]
    head = "".join(f'<th class="{kind}"><button type="button">{name}</button></th>' for name, kind in columns)
    options = "".join(f"<option>{status}</option>" for status in _ORDER)
    rows = "".join(map(_row, outcomes))
    return (
        f'<section class="images"><h2>Images ({len(outcomes):,})</h2>'
        '<div class="filters" hidden><input type="search" placeholder="part of a name, digest or remark" '
        f'aria-label="filter"><select aria-label="status"><option value="">every status</option>{options}</select>'
        f'<output></output></div><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _row(outcome: Document) -> str:
    status = outcome["status"]
    kind = {"failed": "bad", "mirrored": "good", "unchanged": "known"}.get(status, "dim")
    digest = _text(outcome["digest"] or "")
    remark = _explained(outcome["error"]) if outcome["error"] else outcome["reason"] or ""
    return (
        f'<tr data-status="{status}"><td>{_text(outcome["reference"])}</td>'
        f'<td class="{kind}" data-key="{_ORDER[status]}">{status}</td>'
        f"{_number(outcome['bytes_fetched'], human_bytes)}{_number(outcome['bytes_reused'], human_bytes)}"
        f"{_number(outcome['elapsed_s'], human_duration)}"
        f'<td><code title="{digest}">{digest}</code> {_text(remark)}</td></tr>'
    )


def _number(value: float, words: Any) -> str:
    return f'<td class="n" data-key="{value}">{words(value)}</td>'


def _text(value: object) -> str:
    return escape(escape_controls(str(value)))
